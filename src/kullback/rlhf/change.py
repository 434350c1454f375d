"""Whether a served model has changed: log-probs of the same tokens, asked for again and again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback._engine import generator, keywords, reals

__all__ = ["ChangeTest", "change_test"]

Float64s = NDArray[np.float64]
Unit = Literal["answer", "round"]

_SCRATCH = 1 << 21  # numbers of the permutations made at once


@dataclass(frozen=True, eq=False)
class ChangeTest:
    """What `change_test` found.

    Attributes
    ----------
    p_value : float
        Chance of a statistic as large in a model that has not changed; at least 1/(permutations + 1).
    changed : bool
        Whether it is at most `level`.
    statistic : float
        Sum over prompts and tokens of squared differences of means, in units of the spread of all answers.
    differences, standard_errors : array
        Of each prompt (of the mean over its tokens): mean of current less mean of reference log-probs.
    level : float
    permutations : int
    """

    p_value: float
    changed: bool
    statistic: float
    differences: Float64s
    standard_errors: Float64s
    level: float
    permutations: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        plain = dict(vars(self))
        for name in ("differences", "standard_errors"):
            plain[name] = [None if np.isnan(x) else x for x in plain[name].tolist()]
        return plain

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ChangeTest):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        worst = int(np.argmax(np.abs(self.differences)))
        word = "has changed" if self.changed else "has not changed as far as these answers tell"
        return (
            f"the model {word}: p = {self.p_value:.3g} at level {self.level:g} ({self.permutations} permutations); "
            f"largest mean difference {self.differences[worst]:+.4g} nats, at prompt {worst}"
        )


def change_test(
    reference: ArrayLike,
    current: ArrayLike,
    *,
    level: float = 0.01,
    unit: Unit = "answer",
    permutations: int = 9999,
    rng: int | np.random.Generator = 0,
) -> ChangeTest:
    """Test whether a served model still is the one that gave the reference log-probs.

    Servers are not deterministic, so that one answer proves nothing. Ask for the log-probs of the same tokens after
    the same prompts several times, keep them, and ask again later: if the model is the same, answers to a prompt could
    have come in any order. The test permutes them, which makes its level exact, whatever the noise is.

    Parameters
    ----------
    reference, current : array_like
        Log-probs, (repeats, prompts) or (repeats, prompts, tokens); as many prompts and tokens, in the same order, but
        not as many repeats.
    level : float
        Chance of a false alarm each time the test is made.
    unit : {"answer", "round"}
        What could have come in another order: single answers to a prompt, or whole rounds of one answer to every
        prompt, which may share the noise of one server.
    permutations : int
        How many are drawn; no p-value is below 1/(permutations + 1).
    rng : int or numpy.random.Generator
        Of the permutations.

    Returns
    -------
    ChangeTest

    Raises
    ------
    ValueError
        Shapes that do not match, fewer than three repeats on both sides together, log-probs that are not finite, or
        so few rounds that no p-value could be below `level`.

    Notes
    -----
    The statistic is Σ d²/v over prompts and tokens: d the difference of the two means, v the variance of all answers
    about their common mean, which no permutation changes; where v is 0 nothing is added. A single token's log-prob
    shows a single step of fine-tuning (arXiv:2512.03816); the power of some sizes is on the page "Audits".

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> model = -0.1 - rng.exponential(1.0, 20)  # log-probs of one token after each of 20 prompts
    >>> reference = model + rng.normal(0, 0.01, (10, 20))
    >>> change_test(reference, model + rng.normal(0, 0.01, (5, 20))).changed
    False
    >>> updated = model + rng.normal(0, 0.02, 20)
    >>> found = change_test(reference, updated + rng.normal(0, 0.01, (5, 20)))
    >>> found.changed, found.p_value
    (True, 0.0001)
    """
    level = keywords.share(level, "level")
    keywords.choice(unit, "unit", ("answer", "round"))
    permutations = keywords.whole(permutations, "permutations", 1)
    a, b = _answers(reference, "reference"), _answers(current, "current")
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(f"`current` is of {b.shape[1:]} prompts and tokens, expected {a.shape[1:]} as in `reference`")
    if len(a) + len(b) < 3:
        raise ValueError(f"`reference` and `current` have {len(a)} and {len(b)} repeats, expected 3 at least together")
    least = 1.0 / level
    if permutations + 1 < least:
        raise ValueError(f"`permutations` is {permutations}, expected {least - 1:.6g} at least for `level` {level}")
    orders = math.comb(len(a) + len(b), len(b))
    if orders < least and (unit == "round" or orders ** min(a.shape[1], 64) < least):
        raise ValueError(
            f"{len(a)} and {len(b)} repeats come in {orders} orders, expected {least:.6g} at least for `level` {level}"
        )
    answers = np.concatenate([a, b])
    answers = answers - answers.mean(axis=0)
    spread = np.square(answers).mean(axis=0)
    # means over all answers that are one number come out as that number, or nearly
    told = spread > 1e-28 * np.maximum(np.square(a).max(axis=0), 1e-300)
    scaled = np.where(told, answers / np.sqrt(np.where(told, spread, 1.0)), 0.0)
    own = _statistic(scaled[len(a) :].sum(axis=0)[None])[0]
    draws = _draws(scaled, len(b), unit, permutations, generator(rng, "rng"))
    beyond = sum(int(np.count_nonzero(_statistic(sums) >= own * (1.0 - 1e-9))) for sums in draws)
    p_value = (1 + beyond) / (1 + permutations)
    sides = [side.mean(axis=2) for side in (a, b)]
    # of one repeat nothing is known
    errors = sum(side.var(axis=0, ddof=1) / len(side) if len(side) > 1 else side[0] * np.nan for side in sides)
    factor = len(a) + len(b)
    return ChangeTest(
        p_value, bool(p_value <= level), float(own) * (factor / (len(a) * len(b))) ** 2,
        sides[1].mean(axis=0) - sides[0].mean(axis=0), np.sqrt(errors), level, permutations,
    )  # fmt: skip


def _answers(x: ArrayLike, name: str) -> Float64s:
    """(repeats, prompts, tokens)"""
    array = reals(x, name)
    if array.ndim not in (2, 3) or not array.size:
        raise ValueError(f"`{name}` has shape {array.shape}, expected (repeats, prompts) or (repeats, prompts, tokens)")
    if not np.isfinite(array).all() or array.max() > 1e-3 or array.min() < -1e6:
        raise ValueError(f"`{name}` holds numbers that are no log-probs of tokens, expected finite ones of 0 at most")
    return array.reshape(*array.shape[:2], -1)


def _statistic(sums: Float64s) -> Float64s:
    """Σ (sum of the current answers about the mean)², which is d² up to a constant."""
    return np.asarray(np.square(sums).sum(axis=(1, 2)))


def _draws(answers: Float64s, count: int, unit: Unit, permutations: int, rng: np.random.Generator) -> Any:
    """Sums over `count` answers chosen at random, (permutations, prompts, tokens), some at a time."""
    repeats, prompts, tokens = answers.shape
    step = max(1, _SCRATCH // (repeats * prompts * max(1, tokens)))
    for start in range(0, permutations, step):
        now = min(step, permutations - start)
        keys = rng.random((now, repeats, prompts if unit == "answer" else 1))
        order = np.argsort(keys, axis=1)
        chosen = np.zeros(keys.shape)
        np.put_along_axis(chosen, order[:, :count], 1.0, axis=1)
        yield np.einsum("srp,rpt->spt", np.broadcast_to(chosen, (now, repeats, prompts)), answers)
