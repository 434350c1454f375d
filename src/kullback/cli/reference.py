"""`kullback reference`."""

from __future__ import annotations

import argparse

from kullback.cli.delivery import DONE, labels_of, reader_options


def reference(options: argparse.Namespace) -> int:
    from kullback.evaluation.progress import progress
    from kullback.evaluation.reference.making import write_reference

    with progress(options.quiet, options.target if options.resume else "") as report:
        write_reference(
            options.target, options.source, tokens=options.tokens, top_k=options.top_k, buckets=options.buckets,
            vocab_size=options.vocab_size, given=options.given, ignore_index=options.ignore_index,
            resume=options.resume, overwrite=options.overwrite, chunk_bytes=options.chunk_mib << 20,
            num_threads=options.threads, progress=report, by=labels_of(options), **reader_options(options),
        )  # fmt: skip
    return DONE
