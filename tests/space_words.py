"""The bounds of the space of inputs in words, for docs/accuracy.md: what they are relative to, and what is added."""

from space_functions import FIRST_ORDER, LEAST_SHARED, LOG_SLACK, SLACK
from space_tokens import KNOWN

ITSELF = "itself"
OF_DIVERGENCE, OF_DISTANCE, OF_LOG = f"{SLACK:.0e}·d²", f"{FIRST_ORDER:.0e}·d", f"{LOG_SLACK:.0e}"
OF_DERIVATIVE = f"{10 * LOG_SLACK:.0e}/T, one rounding of the gradient's type"

DIVERGENCE = ITSELF, OF_DIVERGENCE
DISTANCE = ITSELF, OF_DISTANCE
LOG = ITSELF, OF_LOG
NORMALISER = "itself, at least 1 nat", "0"
RATIO = (
    "itself, at least the lesser of 1 and the greatest max(P, Q)·\\|ln P/Q\\| of the row, below float64 their sum",
    f"{LOG_SLACK:.0e}·d",
)
TERM = "itself", "1e-40"

STATED = {
    "kl_divergence": DIVERGENCE,
    "cross_entropy": LOG,
    "entropy": LOG,
    "entropy_from_logits": LOG,
    "logsumexp": NORMALISER,
    "log_softmax": LOG,
    "jensen_shannon_divergence": DIVERGENCE,
    "jensen_shannon_distance": DISTANCE,
    "generalized_jsd": DIVERGENCE,
    "skew_kl_divergence": DIVERGENCE,
    "symmetric_kl_divergence": DIVERGENCE,
    "renyi_divergence": (
        "itself",
        f"{OF_DIVERGENCE} + {LOG_SLACK:.0e}/\\|α - 1\\| of itself; {OF_DISTANCE} for α = ∞; "
        "for α < 0 that of order 1 - α, times α/(α - 1)",
    ),
    "total_variation": DISTANCE,
    "hellinger_distance": DISTANCE,
    "chi2_divergence": DIVERGENCE,
    "cressie_read_divergence": ("itself, times λD where that is above 1, D Rényi's of order 1 + λ", OF_DIVERGENCE),
    "itakura_saito_divergence": DIVERGENCE,
    "f_divergence": (ITSELF, f"{OF_DIVERGENCE}; {OF_DISTANCE} for total variation"),
    "divergence_matrix": (ITSELF, f"{OF_DIVERGENCE}; {OF_DISTANCE} for distances and total variation"),
    "compare": (
        "itself; acceptance and 1 - acceptance both; log-ratios as `token_log_ratios`",
        f"{SLACK:.0e} of KL, {OF_LOG} of entropies and log-probs, {LEAST_SHARED:.0e} of acceptance, {OF_DISTANCE} of "
        "1 - acceptance",
    ),
    "token_log_probs": LOG,
    "selective_log_softmax": LOG,
    "token_log_ratios": RATIO,
    "token_statistics": (
        "itself, of the normaliser at least 1 nat; c/T times that under a soft-cap c > T",
        OF_LOG,
    ),
    "sequence_log_ratios": ("the sum of what each token's is relative to", f"{OF_LOG}·(1 + Σ d)"),
    "kl_contributions": (
        "itself",
        f"{SLACK:.0e} + {KNOWN:.0e}·P, times \\|ln P/Q\\| where that is below 1 in a generalized term",
    ),
    "topk_divergence": (ITSELF, "1e-11"),
    "topk_kl_interval": ("nothing: the truth lies between the two ends", "1e-9·(1 + KL)"),
    "entr": ("itself, at least x", "1e-40"),
    "rel_entr": ("itself, at least x/1000", "1e-40"),
    "kl_div": TERM,
    "distillation_loss": (
        "the loss itself; of a gradient the greatest derivative of the row, below float64 at least the greatest "
        "P·min(\\|ln P/Q\\|, 8)",
        f"as the divergence of that name; {OF_DERIVATIVE}, times d",
    ),
    "cross_entropy_loss": (
        "the loss itself; of a gradient the greatest derivative of the row",
        f"{OF_LOG}; {OF_DERIVATIVE}",
    ),
    "entropy_gradient": ("the greatest P·(\\|ln P\\| + H)/T of the row", OF_DERIVATIVE),
    "token_log_prob_gradient": ("the greatest \\|u\\|·P/T of the row, u as upstream", OF_DERIVATIVE),
}
