"""Losses of distillation with their gradients, from logits or hidden states, whole rows or top-k lists."""

from kullback.distillation.fused_head import LinearResult, linear_distillation_loss
from kullback.distillation.losses import (
    DISTILLATION_LOSSES,
    STUDENT as STUDENT,
    TEACHER as TEACHER,
    DistillationResult,
    Kernel as Kernel,
    LossName as LossName,
    distillation_loss,
    loss_kernel as loss_kernel,
)
from kullback.distillation.token_losses import TokenLoss, cross_entropy_loss, entropy_gradient, token_log_prob_gradient
from kullback.distillation.topk import TopkDivergence, topk_divergence, topk_kl_interval
from kullback.rows import generalized_jsd

__all__ = [
    "DISTILLATION_LOSSES",
    "DistillationResult",
    "LinearResult",
    "TokenLoss",
    "TopkDivergence",
    "cross_entropy_loss",
    "distillation_loss",
    "entropy_gradient",
    "generalized_jsd",
    "linear_distillation_loss",
    "token_log_prob_gradient",
    "topk_divergence",
    "topk_kl_interval",
]
