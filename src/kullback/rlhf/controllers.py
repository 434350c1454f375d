"""The coefficient β of a KL penalty, and the rewards it penalises."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback._engine import TokenBatch, as_floats, keywords, labelling
from kullback.tokens import sequence_sums

__all__ = ["AdaptiveKLController", "FixedKLController", "kl_penalized_rewards"]


class AdaptiveKLController:
    """A KL coefficient steered towards a target: larger when the measured KL is above it, smaller below.

    ``value *= 1 + clip(current_kl / target - 1, -0.2, 0.2) · n_steps / horizon``

    Parameters
    ----------
    init_kl_coef : float
        Coefficient to begin with.
    target : float
        The KL(policy‖ref) aimed at, nats, in the unit `update` is given (per token or per sequence).
    horizon : float
        Steps over which a KL off by 20 % or more moves the coefficient by 20 %.

    Attributes
    ----------
    value : float
        The coefficient now.

    References
    ----------
    D. M. Ziegler et al., "Fine-tuning language models from human preferences", 2019, section 2.2,
    https://arxiv.org/abs/1909.08593. The same rule as in TRL (until 2024), verl and OpenRLHF.

    Examples
    --------
    >>> controller = AdaptiveKLController(0.2, target=6.0, horizon=10_000)
    >>> controller.update(current_kl=9.0, n_steps=256)
    >>> round(controller.value, 6)
    0.201024
    """

    def __init__(self, init_kl_coef: float, target: float, horizon: float) -> None:
        self.target, self.horizon = keywords.real(target, "target"), keywords.real(horizon, "horizon")
        if not self.target > 0:
            raise ValueError(f"`target` is {self.target}, expected a positive number")
        if not self.horizon > 0:
            raise ValueError(f"`horizon` is {self.horizon}, expected a positive number")
        self.value = _coefficient("init_kl_coef", init_kl_coef)

    def update(self, current_kl: float, n_steps: int) -> None:
        """Move `value` after `n_steps` samples with a mean KL of `current_kl`.

        ValueError for a NaN, and for `n_steps` above 5·horizon, which could take the coefficient below 0.
        """
        current_kl, n_steps = keywords.real(current_kl, "current_kl"), keywords.real(n_steps, "n_steps")  # type: ignore[assignment]
        if np.isnan(current_kl):
            raise ValueError("`current_kl` is nan, expected a number: it would make the coefficient nan for good")
        if not 0 <= n_steps < np.inf:
            raise ValueError(f"`n_steps` is {n_steps}, expected a number of samples")
        if n_steps > 5 * self.horizon:  # a step down by 20 % would take the coefficient below 0
            raise ValueError(f"`n_steps` is {n_steps}, expected at most {5 * self.horizon}, five times `horizon`")
        error = min(max(float(current_kl) / self.target - 1.0, -0.2), 0.2)
        self.value *= 1.0 + error * n_steps / self.horizon

    def __repr__(self) -> str:
        return f"AdaptiveKLController(value={self.value!r}, target={self.target!r}, horizon={self.horizon!r})"


class FixedKLController:
    """A KL coefficient that stays what it is, with the interface of `AdaptiveKLController`.

    Parameters
    ----------
    kl_coef : float
        The coefficient.

    Attributes
    ----------
    value : float
        The coefficient.

    Examples
    --------
    >>> controller = FixedKLController(0.05)
    >>> controller.update(current_kl=9.0, n_steps=256)
    >>> controller.value
    0.05
    """

    def __init__(self, kl_coef: float) -> None:
        self.value = _coefficient("kl_coef", kl_coef)

    def update(self, current_kl: float, n_steps: int) -> None:
        """Do nothing."""

    def __repr__(self) -> str:
        return f"FixedKLController(kl_coef={self.value!r})"


@np.errstate(over="ignore", invalid="ignore")  # inf - inf is NaN, and beyond float64 is inf
def kl_penalized_rewards(
    scores: ArrayLike,
    kl: ArrayLike,
    kl_coef: float,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    *,
    level: Literal["token", "sequence"] = "token",
) -> NDArray[np.float64]:
    """Rewards less β times the KL estimate, per token (PPO) or per sequence (RLOO).

    Parameters
    ----------
    scores : array_like
        The reward model's: one a sequence (B,), given at its last unmasked token, or one a token, like `kl`.
    kl : array_like
        Per-token estimates of KL(policy‖ref), usually k1: (B, T), or (N,) with `offsets`.
    kl_coef : float
        β, for example ``controller.value``.
    mask, offsets : array_like, optional
        As in `sequence_sums`.
    level : {"token", "sequence"}
        "token": -β·kl at every unmasked token, plus the score. "sequence": score - β·(sum of kl over the
        sequence), one a sequence; `scores` must be too.

    Returns
    -------
    ndarray
        float64; the shape of `kl` with zeros at masked tokens, or (B,). An unmasked NaN in `kl` makes its token's (or
        its sequence's) reward NaN, whatever the coefficient.

    Raises
    ------
    ValueError
        Shapes that do not fit; a score other than 0 for a sequence without a token to carry it.

    References
    ----------
    N. Stiennon et al., "Learning to summarize from human feedback", 2020, https://arxiv.org/abs/2009.01325,
    section 3.4.

    Examples
    --------
    >>> kl_penalized_rewards([1.0, 2.0], [[0.5, 0.25], [0.5, 9.0]], 0.1, mask=[[1, 1], [1, 0]])
    array([[-0.05 ,  0.975],
           [ 1.95 ,  0.   ]])
    """
    coefficient = _coefficient("kl_coef", kl_coef)
    keywords.choice(level, "level", ("token", "sequence"))
    labelling.same_labels(("kl", kl), ("scores", scores), ("mask", mask))
    estimates, rewards = as_floats("kl", kl), as_floats("scores", scores)
    batch = TokenBatch.of(estimates, mask, offsets, "kl")
    if level == "sequence":
        if rewards.shape != batch.leading:
            raise ValueError(f"`scores` has shape {rewards.shape}, expected {batch.leading}, one a sequence")
        totals = sequence_sums(estimates, batch.mask, offsets)
        return rewards - _penalty(coefficient, totals)
    penalised = np.ascontiguousarray(-_penalty(coefficient, estimates))  # of any other layout a flat view is a copy
    if rewards.shape == batch.leading:
        _add_at_the_end(penalised.reshape(-1), rewards.astype(np.float64).reshape(-1), batch.last_kept())
    elif rewards.shape == estimates.shape:
        penalised += rewards
    else:
        raise ValueError(
            f"`scores` has shape {rewards.shape}, expected {batch.leading} or {estimates.shape} to match `kl`"
        )
    if batch.mask is not None:
        penalised[~batch.mask] = 0.0
    return penalised


def _penalty(coefficient: float, estimates: NDArray[Any]) -> NDArray[np.float64]:
    """β·kl in float64; a coefficient of 0 switches the penalty off even where the estimate is infinite, not NaN."""
    estimates = estimates.astype(np.float64)
    return coefficient * estimates if coefficient else np.where(np.isnan(estimates), estimates, 0.0)


def _add_at_the_end(tokens: NDArray[np.float64], scores: NDArray[np.float64], last: NDArray[np.int64]) -> None:
    """Add each sequence's score to its last token, in place."""
    homeless = (last < 0) & (scores != 0.0)
    if homeless.any():
        where = int(np.argmax(homeless))
        raise ValueError(f"`scores` has {scores[where]} for sequence {where}, expected 0: it has no unmasked token")
    tokens[last[last >= 0]] += scores[last >= 0]


def _coefficient(name: str, value: Any) -> float:
    coefficient = keywords.real(value, name)
    if not 0 <= coefficient < np.inf:
        raise ValueError(f"`{name}` is {coefficient}, expected a number that is not negative, and finite")
    return coefficient
