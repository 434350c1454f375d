"""How far the policy that generated the tokens is from the policy that is trained on them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import NanPolicy, keywords
from kullback.comparison import Estimate, ExactSum, Mean

__all__ = ["MismatchReport"]

Float64s = NDArray[np.float64]


_TOKEN_MEANS = (
    "train", "rollout", "difference", "absolute", "k1", "k3", "reverse_k1", "reverse_k3", "weight", "weight2",
    "probability", "above", "below",
)  # fmt: skip
_SEQUENCE_MEANS = ("train_ppl", "rollout_ppl", "ppl_ratio", "weight", "weight2")


class MismatchReport:
    """Statistics of train against rollout log-probs; made by `mismatch_report`, combined by `merge`.

    Attributes
    ----------
    tokens, sequences, unscored : int
        Tokens scored; sequences with one (0 for a flat array of tokens); unmasked tokens without a log-ratio,
        because a log-prob was NaN or both were -inf.
    nan_policy : str
        With "propagate" every statistic below is NaN as soon as `unscored` is not 0; with "omit" they are those of
        the scored tokens.
    kl_k1, kl_k3 : Estimate
        KL(rollout‖train) per token, the direction whose expectation the tokens are drawn from; k1 is the mean
        of rollout - train and may be negative, k3 never is.
    reverse_kl_k1, reverse_kl_k3 : Estimate
        KL(train‖rollout) per token, by importance weights w = train/rollout: mean of w·log w and of
        w·log w - w + 1.
    log_prob_difference, absolute_difference : Estimate
        Mean of train - rollout log-probs, and of its absolute value.
    max_difference : float
        Largest absolute difference of log-probs.
    probability_difference : Estimate
        Mean absolute difference of the probabilities themselves.
    perplexity_train, perplexity_rollout, perplexity_ratio : Estimate
        exp of the mean negative log-prob over tokens, and train/rollout.
    sequence_perplexity_train, sequence_perplexity_rollout, sequence_perplexity_ratio : float
        The same within each sequence, then averaged over sequences.
    chi2, sequence_chi2 : Estimate, float
        χ²(train‖rollout) = E[w²] - 1 over tokens, and over sequences with w the product over tokens.
    ess, sequence_ess : float
        Effective sample size as a share of tokens or sequences: (Σw)²/(n·Σw²), 1 without a mismatch.
    kept_mass : Estimate
        Mean of w. Near 1 unless the rollout sampled from a truncated support (top-p, top-k, min-p) and gave
        renormalised log-probs: then it is the share of train's mass that the support keeps.
    share_above, share_below : Estimate
        Share of tokens whose w lies beyond `ratio_bounds`.
    ratio_bounds : tuple of float
        The two thresholds.

    Notes
    -----
    Standard errors treat sequences as the independent draws (tokens of one answer are correlated), by the
    linearised variance of a ratio; for a flat array, tokens. Sums over sequences are exact: merging is
    associative and commutative to the bit, and a report does not depend on how whole sequences (or the tokens
    of a flat array) were split into calls, nor on padded or packed layout.
    """

    def __init__(self, ratio_bounds: tuple[float, float], nan_policy: NanPolicy = "propagate") -> None:
        low, high = keywords.interval(ratio_bounds, "ratio_bounds")
        if not 0 < low < high:
            raise ValueError(f"`ratio_bounds` is {(low, high)}, expected 0 < low < high")
        keywords.choice(nan_policy, "nan_policy", ("propagate", "omit"))
        self.ratio_bounds = (low, high)
        self.nan_policy = nan_policy
        self.tokens = 0
        self.sequences = 0
        self.unscored = 0
        self._means = {name: Mean() for name in _TOKEN_MEANS}
        self._over_sequences = {name: ExactSum() for name in _SEQUENCE_MEANS}
        self._max_difference = -math.inf

    # -------------------------------------------------------------------------------------------- filling

    def _add(self, tokens: NDArray[np.int64], sums: dict[str, Float64s], sequenced: bool) -> None:
        """Clusters of tokens (at least one each) with their sums of each quantity."""
        n = tokens.astype(np.float64)
        self.tokens += int(tokens.sum())
        for name, mean in self._means.items():
            mean.add(sums[name], tokens)
        if not sequenced:
            return
        self.sequences += tokens.size
        with np.errstate(over="ignore", invalid="ignore"):
            terms = {
                "train_ppl": np.exp(-sums["train"] / n),
                "rollout_ppl": np.exp(-sums["rollout"] / n),
                "ppl_ratio": np.exp(-sums["difference"] / n),
                "weight": np.expm1(sums["difference"]),
                "weight2": np.expm1(2.0 * sums["difference"]),
            }
        for name, total in self._over_sequences.items():
            total.add(terms[name])

    def merge(self, other: MismatchReport) -> MismatchReport:
        """The report of both inputs together, whatever the order; neither is changed.

        Raises
        ------
        ValueError
            The two reports have different `ratio_bounds` or `nan_policy`.
        """
        if not isinstance(other, MismatchReport):
            raise TypeError(f"`other` is {type(other).__name__}, expected a MismatchReport")
        for name in ("ratio_bounds", "nan_policy"):
            if getattr(self, name) != getattr(other, name):
                raise ValueError(f"`other` has {name} {getattr(other, name)}, expected {getattr(self, name)}")
        both = MismatchReport(self.ratio_bounds, self.nan_policy)
        for one in (self, other):
            both.tokens += one.tokens
            both.sequences += one.sequences
            both.unscored += one.unscored
            both._max_difference = max(both._max_difference, one._max_difference)
            for name, mean in one._means.items():
                both._means[name] = both._means[name].merge(mean)
            for name, total in one._over_sequences.items():
                both._over_sequences[name].merge(total)
        return both

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MismatchReport):
            return NotImplemented
        return vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # it is filled

    # -------------------------------------------------------------------------------------------- reading

    @property
    def _unknown(self) -> bool:
        """Whether there is a NaN that stays NaN."""
        return self.nan_policy == "propagate" and self.unscored > 0

    def _estimate(self, name: str) -> Estimate:
        if self._unknown:
            return Estimate(math.nan, math.nan)
        return self._means[name].estimate

    def _sequence_mean(self, name: str) -> float:
        known = self.sequences and not self._unknown
        return float(self._over_sequences[name]) / self.sequences if known else math.nan

    def _exponential(self, name: str, sign: float) -> Estimate:
        """exp of a mean, its error by the delta method."""
        inner = self._estimate(name)
        with np.errstate(over="ignore"):
            value = float(np.exp(sign * inner.mean))
        return Estimate(value, value * inner.standard_error)

    @property
    def kl_k1(self) -> Estimate:
        return self._estimate("k1")

    @property
    def kl_k3(self) -> Estimate:
        return self._estimate("k3")

    @property
    def reverse_kl_k1(self) -> Estimate:
        return self._estimate("reverse_k1")

    @property
    def reverse_kl_k3(self) -> Estimate:
        return self._estimate("reverse_k3")

    @property
    def log_prob_difference(self) -> Estimate:
        return self._estimate("difference")

    @property
    def absolute_difference(self) -> Estimate:
        return self._estimate("absolute")

    @property
    def max_difference(self) -> float:
        return self._max_difference if self.tokens and not self._unknown else math.nan

    @property
    def probability_difference(self) -> Estimate:
        return self._estimate("probability")

    @property
    def perplexity_train(self) -> Estimate:
        return self._exponential("train", -1.0)

    @property
    def perplexity_rollout(self) -> Estimate:
        return self._exponential("rollout", -1.0)

    @property
    def perplexity_ratio(self) -> Estimate:
        return self._exponential("difference", -1.0)

    @property
    def sequence_perplexity_train(self) -> float:
        return self._sequence_mean("train_ppl")

    @property
    def sequence_perplexity_rollout(self) -> float:
        return self._sequence_mean("rollout_ppl")

    @property
    def sequence_perplexity_ratio(self) -> float:
        return self._sequence_mean("ppl_ratio")

    @property
    def chi2(self) -> Estimate:
        return self._estimate("weight2")

    @property
    def sequence_chi2(self) -> float:
        return self._sequence_mean("weight2")

    @property
    def ess(self) -> float:
        return _effective(self._estimate("weight").mean, self._estimate("weight2").mean)

    @property
    def sequence_ess(self) -> float:
        return _effective(self._sequence_mean("weight"), self._sequence_mean("weight2"))

    @property
    def kept_mass(self) -> Estimate:
        excess = self._estimate("weight")
        return Estimate(1.0 + excess.mean, excess.standard_error)

    @property
    def share_above(self) -> Estimate:
        return self._estimate("above")

    @property
    def share_below(self) -> Estimate:
        return self._estimate("below")

    def to_dict(self) -> dict[str, Any]:
        """Every attribute, estimates as {"mean", "standard_error"}: plain numbers, ready for JSON."""
        values: dict[str, Any] = {name: getattr(self, name) for name in _ATTRIBUTES}
        for name, value in values.items():
            if isinstance(value, Estimate):
                values[name] = {"mean": value.mean, "standard_error": value.standard_error}
        return values | {"ratio_bounds": list(self.ratio_bounds)}

    def __str__(self) -> str:
        lines = []
        for name in _ATTRIBUTES:
            value = getattr(self, name)
            mean, error = value if isinstance(value, Estimate) else (value, None)
            figure = f"{mean:>14.6g}" if isinstance(mean, float) else f"{mean:>14}"
            lines.append(f"{name:<30}{figure}" + ("" if error is None else f" ± {error:.2g}"))
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<MismatchReport of {self.tokens} tokens, {self.sequences} sequences>"


_ATTRIBUTES = (
    *("tokens", "sequences", "unscored"),
    *(name for name, value in vars(MismatchReport).items() if isinstance(value, property) and name[0] != "_"),
)


def _effective(excess: float, excess2: float) -> float:
    """(Σw)²/(n·Σw²) from the means of w - 1 and w² - 1."""
    if math.isnan(excess) or math.isinf(excess2):
        return math.nan
    return (1.0 + excess) ** 2 / (1.0 + excess2)
