"""The ground floor: arrays looked at once, rows shared out to threads, kernels called, errors told."""

from kullback._engine import arrays, calls, engine, keywords, labelling, long_rows, outputs, ragged, segments, views
from kullback._engine.configuration import show_config
from kullback._engine.domains import (
    COUNT,
    NON_NEGATIVE,
    POSITIVE,
    POSITIVE_PROBABILITY,
    PROBABILITY,
    REAL,
    Domain,
    FloatArray,
    checked,
    in_base,
)
from kullback._engine.engine import default_threads, get_engine, over_rows, thread_count
from kullback._engine.first_use import import_whole
from kullback._engine.keywords import (
    Given,
    NanPolicy,
    choice,
    flag,
    integer,
    interval,
    number,
    real,
    renamed,
    several,
    share,
    shown,
    unit,
    whole,
)
from kullback._engine.labelling import same_axis, same_labels
from kullback._engine.layout import BLOCK, TokenBatch, as_floats, as_mask
from kullback._engine.loading import numba_kernel
from kullback._engine.optional import library
from kullback._engine.outputs import keep_apart
from kullback._engine.seeds import generator
from kullback._engine.upstairs import made_upstairs, say_where
from kullback._engine.views import plain, reals

__all__ = [
    "BLOCK",
    "COUNT",
    "NON_NEGATIVE",
    "POSITIVE",
    "POSITIVE_PROBABILITY",
    "PROBABILITY",
    "REAL",
    "Domain",
    "FloatArray",
    "Given",
    "NanPolicy",
    "TokenBatch",
    "arrays",
    "as_floats",
    "as_mask",
    "calls",
    "checked",
    "choice",
    "default_threads",
    "engine",
    "flag",
    "generator",
    "get_engine",
    "import_whole",
    "in_base",
    "integer",
    "interval",
    "keep_apart",
    "keywords",
    "labelling",
    "library",
    "long_rows",
    "made_upstairs",
    "numba_kernel",
    "number",
    "outputs",
    "over_rows",
    "plain",
    "ragged",
    "real",
    "reals",
    "renamed",
    "same_axis",
    "same_labels",
    "say_where",
    "segments",
    "several",
    "share",
    "show_config",
    "shown",
    "thread_count",
    "unit",
    "views",
    "whole",
]
