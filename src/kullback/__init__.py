"""Compare probability distributions over large vocabularies, fast and exactly, on CPUs."""

from typing import TYPE_CHECKING, Any

from kullback._engine import get_engine, import_whole, say_where, show_config
from kullback.rows import (
    FAMILY,
    chi2_divergence,
    cressie_read_divergence,
    cross_entropy,
    divergence_matrix,
    entr,
    entropy,
    f_divergence,
    generalized_jsd,
    hellinger_distance,
    itakura_saito_divergence,
    jensen_shannon_distance,
    jensen_shannon_divergence,
    kl_contributions,
    kl_div,
    kl_divergence,
    log_softmax,
    logsumexp,
    rel_entr,
    renyi_divergence,
    skew_kl_divergence,
    symmetric_kl_divergence,
    total_variation,
)
from kullback.tokens import (
    TokenStatistics,
    entropy_from_logits,
    selective_log_softmax,
    sequence_log_ratios,
    sequence_sums,
    token_log_probs,
    token_log_ratios,
    token_statistics,
)

if TYPE_CHECKING:
    from kullback import closed_form, distillation, drift, rlhf, rollouts, samples
    from kullback._engine.native import function_address, get_include, get_library
    from kullback.comparison import CandidateComparison, ComparisonSummary, TokenComparison, compare
    from kullback.distillation import (
        DISTILLATION_LOSSES,
        DistillationResult,
        LinearResult,
        TokenLoss,
        TopkDivergence,
        cross_entropy_loss,
        distillation_loss,
        entropy_gradient,
        linear_distillation_loss,
        token_log_prob_gradient,
        topk_divergence,
        topk_kl_interval,
    )
    from kullback.evaluation.job import compare_candidates, compare_files
    from kullback.evaluation.merging import merge_logs
    from kullback.evaluation.reference.making import write_reference
    from kullback.evaluation.reference.writer import ReferenceWriter
    from kullback.evaluation.sources import open_logits, open_sparse
    from kullback.evaluation.sources.convert import convert
    from kullback.parametric import (
        closed_form_kl,
        fit_mixture,
        fit_normal,
        gaussian_kl,
        mixture_kl,
        register_kl,
        registered_pairs,
        tsne_objective,
        vae_kl,
        vae_kl_gradient,
    )
    from kullback.rlhf import (
        AGGREGATION_MODES,
        ESTIMATOR_PRESETS,
        AdaptiveKLController,
        FixedKLController,
        MismatchReport,
        aggregate,
        aggregation_parts,
        kl_estimate,
        kl_estimate_gradient,
        kl_penalized_rewards,
        mismatch_report,
        preference_score_gradient,
        preference_scores,
        tail_weights,
    )
    from kullback.samples import (
        conditional_mutual_information,
        divergence_from_counts,
        energy_distance,
        knn_kl_divergence,
        knn_kl_divergence_from_density,
        knn_mutual_information,
        likelihood_parts,
        mutual_information,
        mutual_information_estimate,
        smooth,
        sparse_divergence,
        wasserstein_distance,
        wasserstein_distance_histograms,
    )

    __version__: str

__all__ = [
    "AGGREGATION_MODES",
    "DISTILLATION_LOSSES",
    "ESTIMATOR_PRESETS",
    "FAMILY",
    "AdaptiveKLController",
    "CandidateComparison",
    "ComparisonSummary",
    "DistillationResult",
    "FixedKLController",
    "LinearResult",
    "MismatchReport",
    "ReferenceWriter",
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
    "conditional_mutual_information",
    "convert",
    "cressie_read_divergence",
    "cross_entropy",
    "cross_entropy_loss",
    "distillation",
    "distillation_loss",
    "divergence_from_counts",
    "divergence_matrix",
    "drift",
    "energy_distance",
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
    "itakura_saito_divergence",
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
    "mutual_information_estimate",
    "open_logits",
    "open_sparse",
    "preference_score_gradient",
    "preference_scores",
    "register_kl",
    "registered_pairs",
    "rel_entr",
    "renyi_divergence",
    "rlhf",
    "rollouts",
    "samples",
    "selective_log_softmax",
    "sequence_log_ratios",
    "sequence_sums",
    "show_config",
    "skew_kl_divergence",
    "smooth",
    "sparse_divergence",
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
    "write_reference",
]

# Where the names live that are imported when first used, so that `import kullback` costs little over NumPy's.
_HOMES = {
    "kullback._engine.native": (
        "function_address",
        "get_include",
        "get_library",
    ),
    "kullback.comparison": (
        "CandidateComparison",
        "ComparisonSummary",
        "TokenComparison",
        "compare",
    ),
    "kullback.distillation": (
        "DISTILLATION_LOSSES",
        "DistillationResult",
        "LinearResult",
        "TokenLoss",
        "TopkDivergence",
        "cross_entropy_loss",
        "distillation_loss",
        "entropy_gradient",
        "linear_distillation_loss",
        "token_log_prob_gradient",
        "topk_divergence",
        "topk_kl_interval",
    ),
    "kullback.evaluation.job": (
        "compare_candidates",
        "compare_files",
    ),
    "kullback.evaluation.merging": ("merge_logs",),
    "kullback.evaluation.reference.making": ("write_reference",),
    "kullback.evaluation.reference.writer": ("ReferenceWriter",),
    "kullback.evaluation.sources": (
        "open_logits",
        "open_sparse",
    ),
    "kullback.evaluation.sources.convert": ("convert",),
    "kullback.parametric": (
        "closed_form_kl",
        "fit_mixture",
        "fit_normal",
        "gaussian_kl",
        "mixture_kl",
        "register_kl",
        "registered_pairs",
        "tsne_objective",
        "vae_kl",
        "vae_kl_gradient",
    ),
    "kullback.rlhf": (
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
    ),
    "kullback.samples": (
        "conditional_mutual_information",
        "divergence_from_counts",
        "energy_distance",
        "knn_kl_divergence",
        "knn_kl_divergence_from_density",
        "knn_mutual_information",
        "likelihood_parts",
        "mutual_information",
        "mutual_information_estimate",
        "smooth",
        "sparse_divergence",
        "wasserstein_distance",
        "wasserstein_distance_histograms",
    ),
}
# what objects of lower floors have made on higher ones
say_where({
    "render_report": "kullback.evaluation.report", "write_report": "kullback.evaluation.report",
    "table_of": "kullback.evaluation.table",
})  # fmt: skip
_SUBMODULES = ("closed_form", "distillation", "drift", "rlhf", "rollouts", "samples")

if not TYPE_CHECKING:  # type checkers see the imports above, and every misspelt name

    def __getattr__(name: str) -> Any:
        if name in _SUBMODULES:
            return import_whole(f"kullback.{name}")
        if name == "__version__":
            from importlib.metadata import version

            return version("kullback")
        for home, names in _HOMES.items():
            if name in names:
                value = globals()[name] = getattr(import_whole(home), name)
                return value
        raise AttributeError(f"module 'kullback' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
