"""Divergences from lists of the teacher's top-k tokens."""

from kullback.distillation.topk.divergence import TopkDivergence, topk_divergence
from kullback.distillation.topk.interval import topk_kl_interval

__all__ = [
    "TopkDivergence",
    "topk_divergence",
    "topk_kl_interval",
]
