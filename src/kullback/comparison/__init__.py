"""Two sets of rows compared: every statistic of a token in one pass, summed up into what merges in any order."""

from kullback.comparison.binned import allowance as allowance
from kullback.comparison.candidates import CandidateComparison
from kullback.comparison.clusters import (
    FEWEST as FEWEST,
    Clusters as Clusters,
    summed_interval as summed_interval,
)
from kullback.comparison.columns import (
    compared_rows as compared_rows,
    completed as completed,
    summarize as summarize,
)
from kullback.comparison.exact import (
    Estimate as Estimate,
    ExactSum as ExactSum,
    Mean as Mean,
    json_number as json_number,
)
from kullback.comparison.labels import (
    Labels as Labels,
    LabelSet as LabelSet,
    coded as coded,
    encoded as encoded,
    label_sets as label_sets,
)
from kullback.comparison.pair_difference import PairDifference as PairDifference, PairTest as PairTest
from kullback.comparison.paired import Difference as Difference, holm as holm
from kullback.comparison.pairs import Pairs as Pairs
from kullback.comparison.shares import counted as counted, share_text as share_text
from kullback.comparison.spread import Spread as Spread
from kullback.comparison.summary import SPREADS as SPREADS, ComparisonSummary, Part as Part
from kullback.comparison.token_comparison import TokenComparison, compare

__all__ = [
    "CandidateComparison",
    "ComparisonSummary",
    "TokenComparison",
    "compare",
]
