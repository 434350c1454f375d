"""Two sets of rows compared: every statistic of a token in one pass, summed up into what merges in any order."""

from kullback.comparison.columns import (
    compared_rows as compared_rows,
    completed as completed,
    summarize as summarize,
)
from kullback.comparison.exact import ClusteredMean as ClusteredMean, Estimate as Estimate, ExactSum as ExactSum
from kullback.comparison.spread import Spread as Spread, json_number as json_number, share_text as share_text
from kullback.comparison.summary import ComparisonSummary, Part as Part
from kullback.comparison.token_comparison import TokenComparison, compare

__all__ = [
    "ComparisonSummary",
    "TokenComparison",
    "compare",
]
