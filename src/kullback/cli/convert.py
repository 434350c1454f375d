"""`kullback convert`."""

from __future__ import annotations

import argparse

from kullback.cli.delivery import DONE, reader_options


def convert(options: argparse.Namespace) -> int:
    from kullback.evaluation.outputs import check_outputs
    from kullback.evaluation.progress import progress
    from kullback.evaluation.sources import open_logits
    from kullback.evaluation.sources.convert import convert
    from kullback.evaluation.tokens import load_chunk_tokens

    read = (options.source, options.lm_head, options.chunk_tokens)
    check_outputs({"OUT": options.target}, [path for path in read if path], options.force)
    if options.chunk_tokens and not options.target.endswith(".kld"):
        raise ValueError(f"--chunk-tokens goes into a llama.cpp dump (.kld); OUT is {options.target}")
    chunk_tokens = load_chunk_tokens(options.chunk_tokens) if options.chunk_tokens else None
    with (
        open_logits(options.source, **reader_options(options)) as source,
        progress(options.quiet) as report,
    ):
        convert(source, options.target, dtype=options.to_dtype, chunk_tokens=chunk_tokens, progress=report)
    return DONE
