"""Per-token quantities of RL training: estimators, aggregation, controllers, mismatch, preferences."""

from kullback.rlhf.aggregation import AGGREGATION_MODES, aggregate, aggregation_parts
from kullback.rlhf.auditing import AUDIT_CHECKS, AuditCheck, AuditReport, Finding, audit
from kullback.rlhf.change import ChangeTest, change_test
from kullback.rlhf.controllers import AdaptiveKLController, FixedKLController, kl_penalized_rewards
from kullback.rlhf.estimators import ESTIMATOR_PRESETS, kl_estimate, kl_estimate_gradient
from kullback.rlhf.mismatch import MismatchReport
from kullback.rlhf.mismatch_blocks import mismatch_report
from kullback.rlhf.preferences import preference_score_gradient, preference_scores, tail_weights
from kullback.rlhf.ratios import RATIO_LEVELS, RatioLevel as RatioLevel, importance_ratios
from kullback.rlhf.rejection import rejection_mask, rejection_statistic
from kullback.rlhf.rejection_kinds import REJECTION_KINDS
from kullback.rlhf.weights import WEIGHT_KINDS, importance_weights
from kullback.rlhf.what_if_blocks import what_if
from kullback.rlhf.what_if_table import WhatIf, WhatIfRow

__all__ = [
    "AGGREGATION_MODES",
    "AUDIT_CHECKS",
    "ESTIMATOR_PRESETS",
    "RATIO_LEVELS",
    "REJECTION_KINDS",
    "WEIGHT_KINDS",
    "AdaptiveKLController",
    "AuditCheck",
    "AuditReport",
    "ChangeTest",
    "Finding",
    "FixedKLController",
    "MismatchReport",
    "WhatIf",
    "WhatIfRow",
    "aggregate",
    "aggregation_parts",
    "audit",
    "change_test",
    "importance_ratios",
    "importance_weights",
    "kl_estimate",
    "kl_estimate_gradient",
    "kl_penalized_rewards",
    "mismatch_report",
    "preference_score_gradient",
    "preference_scores",
    "rejection_mask",
    "rejection_statistic",
    "tail_weights",
    "what_if",
]
