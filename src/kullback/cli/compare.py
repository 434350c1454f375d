"""`kullback compare`."""

from __future__ import annotations

import argparse
import os
from contextlib import nullcontext
from typing import Any

from kullback.cli.delivery import check_before, deliver, labels_of, model_sizes, reader_options


def compare(options: argparse.Namespace) -> int:
    from kullback.evaluation.candidates import names_of
    from kullback.evaluation.gates import check_labels, check_names
    from kullback.evaluation.job import compare_candidates
    from kullback.evaluation.own_options import collected, heads
    from kullback.evaluation.progress import progress, say

    own = collected(options.read)
    more = heads({"lm_head": options.lm_head, "read": own})
    check_before(options, [options.p, *options.q, options.tokens, options.by, *more])
    check_names(options.fail_if, names_of(options.q))
    if any(condition.labelled for condition in options.fail_if):
        check_labels(options.fail_if, names_of(options.q), _labels(options))
    sizes = model_sizes(options, names_of(options.q))
    common: dict[str, Any] = {
        "given": options.given,
        "tokens": options.tokens,
        "vocab_size": options.vocab_size,
        "rows": options.rows,
        "jensen_shannon": options.js,
        "top_k": options.top_k,
        "convention": options.convention,
        "ignore_index": options.ignore_index,
        "by": labels_of(options),
        "chunk_bytes": options.chunk_mib << 20,
        "num_threads": options.threads,
        "warn": lambda line: say(f"suspicious: {line}"),
        "read": own or None,
    } | reader_options(options)
    if options.dask is not None:
        from kullback.evaluation.distributed import compare_on_cluster

        if options.checkpoint or options.per_token:
            raise ValueError("--dask keeps its own progress: it goes without --checkpoint and --per-token")
        comparison = compare_on_cluster(options.p, options.q, scheduler=options.dask, **common)
    else:
        with progress(options.quiet, options.checkpoint if options.resume else "") as report:
            comparison = compare_candidates(
                options.p, options.q, progress=report, checkpoint=options.checkpoint, resume=options.resume,
                per_token=options.per_token, **common,
            )  # fmt: skip
    return deliver(comparison, options, sizes)


def _labels(options: argparse.Namespace) -> dict[str, tuple[str, ...]]:
    """The labels in the file of --by, or in the reference, by set: read once more than is needed, before the work."""
    from kullback.comparison import label_sets
    from kullback.evaluation.label_files import load_labels
    from kullback.evaluation.sources import open_logits
    from kullback.evaluation.sources.reference import Reference

    if options.by is None:
        with open_logits(options.p, salvage=options.salvage) if os.path.isdir(options.p) else nullcontext() as p:
            by = p.labels() if isinstance(p, Reference) else None
        return {} if by is None else {name: labels.names for name, labels in label_sets(by).items()}
    return {name: labels.names for name, labels in load_labels(options.by, options.by_column).items()}
