"""Comparison of models while they run: batches of logits in, a summary at any time."""

from kullback.evaluation.live.comparison import LiveComparison
from kullback.evaluation.live.shift import next_tokens

__all__ = ["LiveComparison", "next_tokens"]
