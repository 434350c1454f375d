"""compare: every statistic of two arrays of rows in one pass, per token and summed up.

compare(p, q) -> TokenComparison (arrays of one value a row) -> summary() -> ComparisonSummary (mergeable).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import Given, arrays, calls, keywords, labelling, long_rows, outputs, views
from kullback.comparison.columns import agreement, compared_rows, completed, summarize
from kullback.comparison.labels import Labels, label_sets
from kullback.comparison.summary import ComparisonSummary
from kullback.tokens import IGNORE_INDEX

_STATISTICS = ("kl", "reverse_kl", "entropy_p", "entropy_q", "top1_p", "top1_q")
_TOKEN_STATISTICS = ("log_prob_p", "log_prob_q", "log_ratio")
_UNITLESS = ("top1_p", "top1_q", "acceptance")


@dataclass(frozen=True, eq=False)
class TokenComparison:
    """What `compare` found, one value a row in arrays of the leading shape; nats unless `base` said otherwise.

    Rows whose token is `ignore_index` are not read: NaN in all float64 arrays, -1 as top1, False as same_top1.

    Attributes
    ----------
    kl, reverse_kl : float64 arrays
        KL(p‖q) and KL(q‖p).
    cross_entropy : float64 array
        -Σ p·ln q = entropy_p + kl.
    entropy_p, entropy_q : float64 arrays
    top1_p, top1_q : int64 arrays
        The lowest index of the greatest element; -1 for a row that has no distribution.
    same_top1 : bool array
    acceptance : float64 array, or None where it was not wanted
        Σ min(p, q) = 1 - total variation: the share of q's draws that speculative decoding keeps for p. Not in units.
    log_prob_p, log_prob_q : float64 arrays, or None without tokens
        Log-probability of the row's token.
    log_ratio : float64 array, or None without tokens
        log_prob_p - log_prob_q, to relative accuracy where the rows are close.
    ignored : bool array, or None without tokens
        Whether the row's token is `ignore_index`.
    """

    kl: NDArray[np.float64]
    reverse_kl: NDArray[np.float64]
    entropy_p: NDArray[np.float64]
    entropy_q: NDArray[np.float64]
    top1_p: NDArray[np.int64]
    top1_q: NDArray[np.int64]
    acceptance: NDArray[np.float64] | None = None
    log_prob_p: NDArray[np.float64] | None = None
    log_prob_q: NDArray[np.float64] | None = None
    log_ratio: NDArray[np.float64] | None = None
    unit: float = 1.0  # nats in one unit of the arrays
    ignored: NDArray[np.bool_] | None = None

    @property
    def cross_entropy(self) -> NDArray[np.float64]:
        return self.entropy_p + self.kl

    @property
    def same_top1(self) -> NDArray[np.bool_]:
        return agreement(self.top1_p, self.top1_q)

    def summary(self, groups: Any = None, by: Any = None) -> ComparisonSummary:
        """Means with errors, quantiles, agreement and perplexities.

        All of them are over the same rows: those that are not ignored and have a distribution on both sides. How many
        were left out, `ignored` and `undefined` of the summary say, its table and its JSON. An infinite value stays in
        and makes its mean infinite; `finite` of the summary is without such values.

        Parameters
        ----------
        groups : array_like of int, optional
            The document or chunk of each row: standard errors that respect the correlation within groups are then
            given beside the naive ones.
        by : array_like of labels, or mapping of str to array_like, optional
            The label of each row (text, whole numbers, or true and false): `by["code"]` of the summary is that of the
            rows labelled "code". Of several sets, by name, it is `by["domain"]["code"]`. None, NaN and "" are no label:
            such rows are "(none)". A set has 500 labels at most.
        """
        names = None
        if groups is not None:
            names = views.plain(groups, "groups").ravel()
            if names.size != np.size(self.kl):
                raise ValueError(f"`groups` has {names.size} values, expected {np.size(self.kl)}, one a row")
            if names.dtype.kind not in "iub":
                raise TypeError(f"`groups` has dtype {names.dtype}, expected integers")
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "unit"}
        columns = completed({name: np.ravel(x) for name, x in found.items() if x is not None}, self.unit)
        kept, parts = compared_rows(columns), {}
        if by is not None:
            sets = label_sets(by)
            for name, labels in sets.items():
                if labels.codes.size != kept.size:
                    what = f"`by[{name!r}]`" if name else "`by`"
                    raise ValueError(f"{what} has {labels.codes.size} labels, expected {kept.size}, one a row")
            parts["by"] = Labels.of(columns, kept, sets, names, self.unit)
        return summarize(columns, kept, names, parts, self.unit)

    def __repr__(self) -> str:
        wide = [f.name for f in fields(self) if isinstance(getattr(self, f.name), np.ndarray)]
        return f"TokenComparison(shape={np.shape(self.kl)}, arrays={', '.join(wide)})"


def compare(
    p: Any,
    q: Any,
    tokens: Any = None,
    *,
    given: Given = "logits",
    base: float | None = None,
    temperature: float = 1.0,
    axis: int = -1,
    vocab_size: int | None = None,
    ignore_index: int = IGNORE_INDEX,
    acceptance: bool = True,
    num_threads: int | None = None,
) -> TokenComparison:
    """KL both ways, entropies, argmaxes, Σ min(p, q) and token log-probs of each pair of rows, in one read of memory.

    Parameters
    ----------
    p, q : array_like, shape (..., V)
        p is the reference. Dtypes, layouts, broadcasting and edge cases are those of `kl_divergence`.
    tokens : array_like of int, shape (...), optional
        The token whose log-probability is wanted, one a row; `ignore_index` for rows to leave out.
    given : {"logits", "log_probs", "probs"}
    base, temperature, axis, vocab_size, num_threads
        As in `kl_divergence`.
    ignore_index : int
        Rows with this token are not read and have no part in any statistic.
    acceptance : bool
        Give Σ min(p, q) too. It needs the normalisers first, and looks at each pair of rows again while they lie in
        cache: float32 logits take 1.7 times as long.

    Returns
    -------
    TokenComparison
        Accuracy: 1e-6 relative, 1e-11 for float64 input (the page of that name says of what); of `acceptance` where
        it is next to nothing, and of 1 - `acceptance` where that is.

    Raises
    ------
    ValueError, TypeError
        As in `kl_divergence`; a token id outside [0, V).

    Examples
    --------
    >>> import numpy as np, kullback as kb
    >>> c = kb.compare(np.log([[0.5, 0.5], [0.9, 0.1]]), np.log([[0.9, 0.1], [0.9, 0.1]]), tokens=[0, 0], base=2)
    >>> print(c.kl.round(3), c.same_top1)
    [0.737 0.   ] [ True  True]
    """
    space, k, unit = keywords.space(given), keywords.inverse_temperature(temperature, given), keywords.unit(base)
    ignore_index = keywords.integer(ignore_index, "ignore_index")
    pair = calls.batch(("p", p), ("q", q), axis=axis, vocab_size=vocab_size)
    ids = None
    if tokens is not None:
        if axis == -1:
            labelling.same_axis(0, ("p", p), ("tokens", tokens))
        ids = arrays.token_ids(tokens, "tokens", pair.lead, pair.vocab, ignore_index)
        if ids.shape != pair.lead:
            raise ValueError(f"`tokens` has shape {ids.shape}, expected {pair.lead} to match `p` and `q`")
    wanted: tuple[str, ...] = _STATISTICS
    if keywords.flag(acceptance, "acceptance"):
        wanted += ("acceptance",)
    if ids is None:
        found, ignored = long_rows.compare(pair, space, k, wanted, num_threads), None
    else:
        wanted += _TOKEN_STATISTICS
        ignored = np.asarray(ids < 0)
        if ignored.any():
            rows = np.flatnonzero(~ignored)
            some = long_rows.compare(
                long_rows.selected(pair, rows), space, k, wanted, num_threads, ids.reshape(-1)[rows]
            )
            found = {name: _at(rows, values, pair.rows) for name, values in some.items()}
        else:
            found = long_rows.compare(pair, space, k, wanted, num_threads, ids)
    if base is not None:
        with np.errstate(over="ignore"):  # in another unit a number may lie beyond float64: inf
            for name in wanted:
                if name not in _UNITLESS:
                    found[name] /= unit
    shaped = {name: outputs.finish(values, pair.lead) for name, values in found.items()}
    return TokenComparison(**shaped, unit=unit, ignored=ignored)


def _at(rows: NDArray[np.int64], values: NDArray[Any], count: int) -> NDArray[Any]:
    """One value for some rows -> one for each: NaN or -1 for the others."""
    spaced = np.full(count, -1 if values.dtype == np.int64 else np.nan, values.dtype)
    spaced[rows] = values
    return spaced
