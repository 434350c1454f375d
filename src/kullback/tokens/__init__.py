"""Chosen tokens: log-probabilities, log-ratios and ranks from logits, and their sums over sequences."""

from kullback.tokens.log_probs import (
    IGNORE_INDEX as IGNORE_INDEX,
    selective_log_softmax,
    token_log_probs,
    token_log_ratios,
)
from kullback.tokens.sequences import sequence_log_ratios, sequence_sums
from kullback.tokens.statistics import TokenStatistics, entropy_from_logits, token_statistics

__all__ = [
    "TokenStatistics",
    "entropy_from_logits",
    "selective_log_softmax",
    "sequence_log_ratios",
    "sequence_sums",
    "token_log_probs",
    "token_log_ratios",
    "token_statistics",
]
