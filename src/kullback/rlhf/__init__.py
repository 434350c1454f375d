"""Per-token quantities of RL training: estimators, aggregation, controllers, mismatch, preferences."""

from kullback.rlhf.aggregation import AGGREGATION_MODES, aggregate, aggregation_parts
from kullback.rlhf.controllers import AdaptiveKLController, FixedKLController, kl_penalized_rewards
from kullback.rlhf.estimators import ESTIMATOR_PRESETS, kl_estimate, kl_estimate_gradient
from kullback.rlhf.mismatch import MismatchReport
from kullback.rlhf.mismatch_blocks import mismatch_report
from kullback.rlhf.preferences import preference_score_gradient, preference_scores, tail_weights

__all__ = [
    "AGGREGATION_MODES",
    "ESTIMATOR_PRESETS",
    "AdaptiveKLController",
    "FixedKLController",
    "MismatchReport",
    "aggregate",
    "aggregation_parts",
    "kl_estimate",
    "kl_estimate_gradient",
    "kl_penalized_rewards",
    "mismatch_report",
    "preference_score_gradient",
    "preference_scores",
    "tail_weights",
]
