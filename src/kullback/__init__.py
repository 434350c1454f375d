"""Compare probability distributions over large vocabularies, fast and exactly, on CPUs."""

from typing import TYPE_CHECKING, Any

from kullback.aggregation import AGGREGATION_MODES, aggregate, aggregation_parts, sequence_sums
from kullback.comparison import TokenComparison, compare
from kullback.controllers import AdaptiveKLController, FixedKLController, kl_penalized_rewards
from kullback.divergences import cross_entropy, entropy, kl_divergence, log_softmax, logsumexp
from kullback.engine import get_engine, import_whole, show_config
from kullback.estimators import ESTIMATOR_PRESETS, kl_estimate, kl_estimate_gradient
from kullback.family import FAMILY, f_divergence
from kullback.jensen_shannon import (
    generalized_jsd,
    jensen_shannon_distance,
    jensen_shannon_divergence,
    skew_kl_divergence,
    symmetric_kl_divergence,
)
from kullback.mismatch import MismatchReport, mismatch_report
from kullback.preferences import preference_score_gradient, preference_scores, tail_weights
from kullback.renyi import chi2_divergence, hellinger_distance, renyi_divergence, total_variation
from kullback.summary import ComparisonSummary
from kullback.tokens import selective_log_softmax, sequence_log_ratios, token_log_probs, token_log_ratios

if TYPE_CHECKING:
    from kullback import closed_form, drift, samples
    from kullback.closed_form import (
        closed_form_kl,
        gaussian_kl,
        mixture_kl,
        register_kl,
        registered_pairs,
        vae_kl,
        vae_kl_gradient,
    )
    from kullback.contributions import kl_contributions
    from kullback.distillation import DISTILLATION_LOSSES, DistillationResult, distillation_loss
    from kullback.elementwise import entr, kl_div, rel_entr
    from kullback.evaluation.job import compare_candidates, compare_files
    from kullback.evaluation.merging import merge_logs
    from kullback.evaluation.sources import open_logits, open_sparse
    from kullback.evaluation.sources.convert import convert
    from kullback.fits import fit_mixture, fit_normal
    from kullback.linear import LinearResult, linear_distillation_loss
    from kullback.logit_statistics import TokenStatistics, entropy_from_logits, token_statistics
    from kullback.matrix import divergence_matrix
    from kullback.native import function_address, get_include, get_library
    from kullback.samples import (
        divergence_from_counts,
        knn_kl_divergence,
        knn_kl_divergence_from_density,
        knn_mutual_information,
        likelihood_parts,
        mutual_information,
        smooth,
        wasserstein_distance,
        wasserstein_distance_histograms,
    )
    from kullback.token_losses import TokenLoss, cross_entropy_loss, entropy_gradient, token_log_prob_gradient
    from kullback.topk import TopkDivergence, topk_divergence
    from kullback.topk_interval import topk_kl_interval
    from kullback.tsne import tsne_objective

__all__ = [
    "AGGREGATION_MODES",
    "DISTILLATION_LOSSES",
    "ESTIMATOR_PRESETS",
    "FAMILY",
    "AdaptiveKLController",
    "ComparisonSummary",
    "DistillationResult",
    "FixedKLController",
    "LinearResult",
    "MismatchReport",
    "TokenComparison",
    "TokenLoss",
    "TokenStatistics",
    "TopkDivergence",
    "aggregate",
    "aggregation_parts",
    "chi2_divergence",
    "closed_form",
    "closed_form_kl",
    "compare",
    "compare_candidates",
    "compare_files",
    "convert",
    "cross_entropy",
    "cross_entropy_loss",
    "distillation_loss",
    "divergence_from_counts",
    "divergence_matrix",
    "drift",
    "entr",
    "entropy",
    "entropy_from_logits",
    "entropy_gradient",
    "f_divergence",
    "fit_mixture",
    "fit_normal",
    "function_address",
    "gaussian_kl",
    "generalized_jsd",
    "get_engine",
    "get_include",
    "get_library",
    "hellinger_distance",
    "jensen_shannon_distance",
    "jensen_shannon_divergence",
    "kl_contributions",
    "kl_div",
    "kl_divergence",
    "kl_estimate",
    "kl_estimate_gradient",
    "kl_penalized_rewards",
    "knn_kl_divergence",
    "knn_kl_divergence_from_density",
    "knn_mutual_information",
    "likelihood_parts",
    "linear_distillation_loss",
    "log_softmax",
    "logsumexp",
    "merge_logs",
    "mismatch_report",
    "mixture_kl",
    "mutual_information",
    "open_logits",
    "open_sparse",
    "preference_score_gradient",
    "preference_scores",
    "register_kl",
    "registered_pairs",
    "rel_entr",
    "renyi_divergence",
    "samples",
    "selective_log_softmax",
    "sequence_log_ratios",
    "sequence_sums",
    "show_config",
    "skew_kl_divergence",
    "smooth",
    "symmetric_kl_divergence",
    "tail_weights",
    "token_log_prob_gradient",
    "token_log_probs",
    "token_log_ratios",
    "token_statistics",
    "topk_divergence",
    "topk_kl_interval",
    "total_variation",
    "tsne_objective",
    "vae_kl",
    "vae_kl_gradient",
    "wasserstein_distance",
    "wasserstein_distance_histograms",
]

# Where the names live that are imported when first used, so that `import kullback` costs little over NumPy's.
_HOMES = {
    "kullback.closed_form": (
        "closed_form_kl",
        "gaussian_kl",
        "mixture_kl",
        "register_kl",
        "registered_pairs",
        "vae_kl",
        "vae_kl_gradient",
    ),
    "kullback.contributions": ("kl_contributions",),
    "kullback.evaluation.job": ("compare_candidates", "compare_files"),
    "kullback.evaluation.merging": ("merge_logs",),
    "kullback.evaluation.sources": ("open_logits", "open_sparse"),
    "kullback.evaluation.sources.convert": ("convert",),
    "kullback.fits": ("fit_mixture", "fit_normal"),
    "kullback.samples": (
        "divergence_from_counts",
        "knn_kl_divergence",
        "knn_kl_divergence_from_density",
        "knn_mutual_information",
        "likelihood_parts",
        "mutual_information",
        "smooth",
        "wasserstein_distance",
        "wasserstein_distance_histograms",
    ),
    "kullback.tsne": ("tsne_objective",),
    "kullback.native": (
        "function_address",
        "get_include",
        "get_library",
    ),
    "kullback.elementwise": (
        "entr",
        "kl_div",
        "rel_entr",
    ),
    "kullback.logit_statistics": (
        "TokenStatistics",
        "entropy_from_logits",
        "token_statistics",
    ),
    "kullback.matrix": ("divergence_matrix",),
    "kullback.distillation": (
        "DISTILLATION_LOSSES",
        "DistillationResult",
        "distillation_loss",
    ),
    "kullback.topk": (
        "TopkDivergence",
        "topk_divergence",
    ),
    "kullback.linear": (
        "LinearResult",
        "linear_distillation_loss",
    ),
    "kullback.token_losses": (
        "TokenLoss",
        "cross_entropy_loss",
        "entropy_gradient",
        "token_log_prob_gradient",
    ),
    "kullback.topk_interval": ("topk_kl_interval",),
}
_SUBMODULES = ("closed_form", "drift", "samples")

if not TYPE_CHECKING:  # type checkers see the imports above, and every misspelt name

    def __getattr__(name: str) -> Any:
        if name in _SUBMODULES:
            return import_whole(f"kullback.{name}")
        for home, names in _HOMES.items():
            if name in names:
                value = globals()[name] = getattr(import_whole(home), name)
                return value
        raise AttributeError(f"module 'kullback' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
