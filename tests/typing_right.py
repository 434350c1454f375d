"""What users write: mypy has nothing to say (`make types`). Never run."""

import numpy as np
from numpy.typing import NDArray

import kullback as kb
from kullback import rlhf
from kullback.closed_form import Normal
from kullback.distillation import topk_divergence
from kullback.integrations import scipy

rng = np.random.default_rng(0)
p, q = rng.normal(size=(4, 10)), rng.normal(size=(4, 10)).astype(np.float32)
tokens = rng.integers(0, 10, 4)
room = np.empty(4)

# rows
kl: NDArray[np.float64] = kb.kl_divergence(p, q, given="logits", base=2, out=room)
mean: float = float(kl.mean())
one: float = float(kb.kl_divergence([0.5, 0.5], [0.9, 0.1]))
shown: str = f"{kb.entropy([0.5, 0.5], base=2):.3f}"
below: bool = bool((kb.jensen_shannon_divergence(p, q, given="log_probs", weight=0.3) < 0.1).all())
matrix: NDArray[np.float64] = kb.divergence_matrix(np.abs(p), metric="kl")
named: NDArray[np.float64] = kb.f_divergence(np.abs(p), np.abs(q), "chi2")
own: NDArray[np.float64] = kb.f_divergence(np.abs(p), np.abs(q), lambda u: u * u - 1.0, slope_at_infinity=np.inf)
renyi: NDArray[np.float64] = kb.renyi_divergence(p, q, 0.5, given="logits")
terms: NDArray[np.float64] = kb.kl_contributions(np.abs(p), np.abs(q), kind="plain")

# tokens and sequences
log_probs: NDArray[np.float64] = kb.token_log_probs(p, tokens, temperature=0.7)
sums: NDArray[np.float64] = kb.sequence_sums(log_probs, offsets=[0, 4])
sums, counts = kb.sequence_sums(log_probs, offsets=[0, 4], return_counts=True)
sums, left_out = kb.sequence_sums(log_probs, offsets=[0, 4], nan_policy="omit")
sums, counts, left_out = kb.sequence_sums(log_probs, offsets=[0, 4], nan_policy="omit", return_counts=True)
ratios: NDArray[np.float64] = kb.sequence_log_ratios(p, q, tokens, offsets=[0, 4])
entropies: NDArray[np.float64] = kb.token_statistics(p, tokens, top_k=3).entropy

# comparison and files
summary = kb.compare(p, q, tokens).summary(groups=[0, 0, 1, 1])
both: kb.ComparisonSummary = summary.merge(summary)
figures: tuple[float, float, float] = (both.kl.mean, both.kl.standard_error, both.kl.quantile(0.99))
files: float = kb.compare_files("p.npy", "q.npy", given="log_probs", top_k=[1, 5]).same_top1.mean

from_head = kb.compare_files("p.npy", "q.npy", lm_head="model", norm="model", layer=-1)

# rlhf
estimates: NDArray[np.float64] = rlhf.kl_estimate(log_probs, "k3+", preset="verl")
loss: float = rlhf.aggregate(estimates, offsets=[0, 4], mode="seq-mean-token-mean")
omitting: tuple[float, int] = rlhf.aggregate(estimates, offsets=[0, 4], nan_policy="omit")
total, count = rlhf.aggregation_parts(estimates, offsets=[0, 4])
error: float = kb.mismatch_report(log_probs, log_probs).kl_k3.standard_error
weights: NDArray[np.float64] = rlhf.importance_weights(log_probs, log_probs, kind="icepop", bounds=(0.5, None))
keep: NDArray[np.bool_] = rlhf.rejection_mask(log_probs, log_probs, kind="token_k1", threshold=(0.5, 2.0))
removed: float = rlhf.what_if(log_probs, log_probs, settings=[("tis", 2.0)]).rows[0].bias.mean
controller = rlhf.AdaptiveKLController(0.1, 6.0, 10_000)

# distillation
result = kb.distillation_loss(q, p, "reverse_kl", gradient="student", reduction="batchmean")
number: float = float(result.loss)
gradient: NDArray[np.float32] = result.student_gradient
gradient = kb.entropy_gradient(q)

# parametric, samples, SciPy's names
between: float = float(kb.closed_form_kl(Normal(0.0, 1.0), Normal(1.0, 2.0)))
estimated: NDArray[np.float64] = np.asarray(
    kb.divergence_from_counts([3, 5], [4, 4], "js", interval="percentile").value
)
neighbours: float = float(kb.knn_kl_divergence(p, p, 3, method="bias-reduced").value)
distance: NDArray[np.float64] = scipy.jensenshannon(np.abs(p), np.abs(p), axis=1)
fitted = topk_divergence(q, (tokens[:, None], log_probs[:, None]), divergence="reverse_kl")
