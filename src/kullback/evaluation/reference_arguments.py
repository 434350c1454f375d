"""The arguments of `kullback reference`."""

from __future__ import annotations

import argparse

from kullback.evaluation.argument_types import positive


def reference_arguments(parser: argparse.ArgumentParser) -> None:
    """All but those of reading."""
    add = parser.add_argument
    add("source", metavar="IN", help="a file, folder or URL of logits")
    add("target", metavar="OUT", help="the folder to make, by custom NAME.kbref")
    add("--top-k", metavar="K", type=positive, default=256, help="outcomes listed of each row (256)")
    add("--buckets", metavar="N", type=positive, default=64, help="buckets that the others are divided into (64)")
    add("--given", choices=("logits", "log_probs", "probs"), default="logits", help="what the file holds")
    add("--tokens", metavar="FILE", help="target token of each row, where the file has none (.npy, .json, text)")
    add("--by", metavar="FILE", help="labels of rows or documents to keep (Parquet, CSV, JSON lines, .npy)")
    add("--by-column", metavar="NAME", action="append", help="of FILE take this column only (again for others)")
    add("--vocab-size", metavar="N", type=int, help="take the first N columns only")
    add("--ignore-index", metavar="ID", type=int, default=-100, help="rows with this id are left out later (-100)")
    add("--resume", action="store_true", help="go on with what is there (or begin, if there is nothing)")
    add("--overwrite", action="store_true", help="replace the reference that is there")
    add("--threads", metavar="N", type=positive, help="threads that compute (all the cores allowed)")
    add("--quiet", action="store_true", help="no progress on standard error")
