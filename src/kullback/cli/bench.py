"""`kullback bench`."""

from __future__ import annotations

import argparse

from kullback.cli.delivery import DONE


def bench(options: argparse.Namespace) -> int:
    from kullback.evaluation.bench import quick_bench
    from kullback.evaluation.outputs import show

    show(lambda: quick_bench(options.rows, options.vocab_size, options.threads))
    return DONE
