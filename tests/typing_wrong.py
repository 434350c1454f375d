"""Slips of users. mypy must find each: it complains of an `ignore` where there is nothing to ignore. Never run."""

import numpy as np

import kullback as kb
from kullback import rlhf
from kullback.distillation import topk_divergence
from kullback.integrations import scipy

p = np.ones((4, 10))
tokens = np.arange(4)

# names of options
kb.kl_divergence(p, p, given="logit")  # type: ignore[arg-type]
kb.cross_entropy(p, p, given="prob")  # type: ignore[arg-type]
kb.token_log_probs(p, tokens, given="log_prob")  # type: ignore[arg-type]
kb.compare(p, p, given="softmax")  # type: ignore[arg-type]
kb.compare_files("p.npy", "q.npy", given="logprobs")  # type: ignore[arg-type]
kb.compare_files("p.npy", "q.npy", convention="llama")  # type: ignore[arg-type]
kb.divergence_matrix(p, metric="kullback")  # type: ignore[arg-type]
kb.f_divergence(p, p, "chi")  # type: ignore[arg-type]
kb.kl_contributions(p, p, kind="simple")  # type: ignore[arg-type]
kb.sequence_sums(p, nan_policy="skip")  # type: ignore[call-overload]
rlhf.kl_estimate(p, "k4")  # type: ignore[arg-type]
rlhf.kl_estimate(p, "k1", preset="verl2")  # type: ignore[arg-type]
rlhf.aggregate(p, mode="token_mean")  # type: ignore[call-overload]
rlhf.aggregation_parts(p, mode="mean")  # type: ignore[call-overload]
kb.mismatch_report(p, p, nan_policy="ignore")  # type: ignore[arg-type]
rlhf.importance_weights(p, p, kind="ice_pop")  # type: ignore[arg-type]
rlhf.importance_ratios(p, p, level="sequences")  # type: ignore[arg-type]
rlhf.rejection_mask(p, p, kind="token_k4", threshold=1.0)  # type: ignore[arg-type]
kb.distillation_loss(p, p, "forward")  # type: ignore[arg-type]
kb.distillation_loss(p, p, reduction="average")  # type: ignore[arg-type]
kb.distillation_loss(p, p, gradient="students")  # type: ignore[arg-type]
topk_divergence(p, (tokens, p), divergence="kl")  # type: ignore[arg-type]
kb.divergence_from_counts([1, 2], [2, 1], "jensen_shannon")  # type: ignore[arg-type]
kb.divergence_from_counts([1, 2], [2, 1], interval="normal")  # type: ignore[arg-type]
kb.knn_kl_divergence(p, p, 3, method="farthest")  # type: ignore[arg-type]
scipy.entropy(p, nan_policy="ignore")  # type: ignore[arg-type]

# names of arguments
kb.kl_divergence(p, p, temprature=2.0)  # type: ignore[call-arg]
kb.jensen_shannon_divergence(p, p, beta=0.5)  # type: ignore[call-arg]
kb.renyi_divergence(p, p, order=2.0)  # type: ignore[call-arg]
kb.distillation_loss(p, p, parameter=0.5)  # type: ignore[call-arg]

kb.compare_files("p.npy", "q.npy", lmhead="head.npy")  # type: ignore[call-arg]
kb.selective_log_softmax(p, tokens, ignored=0)  # type: ignore[call-arg]
kb.drift.reproduce(p, p, "evidently.ks")  # type: ignore[arg-type]

# what results have
print(kb.compare(p, p).kll)  # type: ignore[attr-defined]
print(kb.compare(p, p).summary().kl.stderr)  # type: ignore[attr-defined]
print(kb.compare(p, p).summary().reverse.mean)  # type: ignore[attr-defined]
kb.kl_divergence(p, p).average()  # type: ignore[attr-defined]
print(kb.token_statistics(p, tokens).perplexity)  # type: ignore[attr-defined]
print(kb.mismatch_report(p, p).kl_k2)  # type: ignore[attr-defined]
print(kb.distillation_loss(p, p).gradient)  # type: ignore[attr-defined]
number: str = rlhf.aggregate(p)  # type: ignore[assignment]
kb.jensen_shannon(p, p)  # type: ignore[attr-defined]
