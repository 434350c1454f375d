"""The arguments of `kullback eval`, but for those of its outputs, which are `compare`'s."""

from __future__ import annotations

import argparse

from kullback.evaluation.argument_types import positive

__all__ = ["model_arguments"]


def model_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "base",
        metavar="BASE",
        help="the folder of a transformers model, with its tokenizer (nothing is downloaded); or a reference of it",
    )
    add("candidates", metavar="CANDIDATE", nargs="*", help="folders of candidates; the base runs once for all")
    add("--text", metavar="FILE", required=True, help="UTF-8 text, or JSON lines (.jsonl) with a document in each")
    add("--field", metavar="NAME", default="text", help="the field of JSON lines that has the text (text)")
    add(
        "--by-field",
        metavar="NAME",
        action="append",
        default=[],
        help="a field with a label: figures by label (again for others)",
    )
    add("--split", action="store_true", help="plain text is several documents, with blank lines between")
    add("--context", metavar="N", type=positive, default=512, help="tokens that a model reads at a time (512)")
    add("--stride", metavar="N", type=positive, help="tokens from one window to the next (half the context)")
    add(
        "--windows",
        choices=("overlapping", "llama.cpp"),
        default="overlapping",
        help="each token asked for once, with context - stride tokens before it; or as llama-perplexity has them: side "
        "by side, of each the second half (overlapping)",
    )
    add("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help="what models compute in")
    add("--device", metavar="NAME", default="cpu", help="where the models run, as torch calls it (cpu)")
    add("--batch", metavar="N", type=positive, default=1, help="windows that a model reads at a time (1)")
    add(
        "--reference",
        metavar="OUT",
        help="without a candidate: write the base as a compact reference, OUT.kbref",
    )
    add("--reference-top-k", metavar="K", type=positive, default=256, help="outcomes that it lists of each row (256)")
    add("--vocab-size", metavar="N", type=positive, help="compare the first N columns only")
