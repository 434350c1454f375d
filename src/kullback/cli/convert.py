"""`kullback convert`."""

from __future__ import annotations

import argparse

from kullback.cli.delivery import DONE, reader_options


def convert(options: argparse.Namespace) -> int:
    from kullback.evaluation.outputs import check_outputs
    from kullback.evaluation.progress import progress
    from kullback.evaluation.sources import open_logits
    from kullback.evaluation.sources.convert import convert

    check_outputs({"OUT": options.target}, [p for p in (options.source, options.lm_head) if p], options.force)
    with (
        open_logits(options.source, **reader_options(options)) as source,
        progress(options.quiet) as report,
    ):
        convert(source, options.target, dtype=options.to_dtype, progress=report)
    return DONE
