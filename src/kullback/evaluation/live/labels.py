"""The labels of the rows that models give."""

from __future__ import annotations

from typing import Any

from kullback.evaluation.label_files import JobLabels
from kullback.evaluation.sources import Source
from kullback.evaluation.sources.reference import Reference

__all__ = ["labels_of_rows"]


def labels_of_rows(source: Source | None, by: Any, rows: int) -> JobLabels | None:
    """As they are given, or as the compact reference has them."""
    if by is None and isinstance(source, Reference):
        by = source.labels()
    if by is None or isinstance(by, JobLabels):
        return by
    return JobLabels.of_job(by, rows, None if source is None else source.groups)
