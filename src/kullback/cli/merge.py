"""`kullback merge`."""

from __future__ import annotations

import argparse

from kullback.cli.delivery import check_before, deliver


def merge(options: argparse.Namespace) -> int:
    from kullback.evaluation.merging import merge_logs, read_files

    check_before(options, [*options.parts, *read_files(options.parts)])
    return deliver(merge_logs(options.parts, partial=options.partial), options)
