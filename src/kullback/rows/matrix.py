"""All pairs: the divergence of every row of one array from every row of another."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kullback._engine import Given, arrays, keywords, labelling, over_rows, thread_count, views
from kullback.rows.entropies import entropy, log_softmax
from kullback.rows.kl import kl_divergence
from kullback.rows.mixtures import jensen_shannon_distance, jensen_shannon_divergence, symmetric_kl_divergence
from kullback.rows.renyi import hellinger_distance, total_variation

__all__ = ["METRICS", "divergence_matrix"]

# name -> (function of rows, whether it is the same in both orders)
Metric = Literal["kl", "symmetric_kl", "js", "js_distance", "hellinger", "tv"]
METRICS: dict[str, tuple[Callable[..., Any], bool]] = {
    "kl": (kl_divergence, False),
    "symmetric_kl": (symmetric_kl_divergence, True),
    "js_distance": (jensen_shannon_distance, True),
    "js": (jensen_shannon_divergence, True),
    "hellinger": (hellinger_distance, True),
    "tv": (total_variation, True),
}
_PAIRS = 1 << 16  # in one call: a few MB of results and addresses
_BLOCK = 1 << 15  # elements: two float64 blocks of this size stay in the second-level cache
_TILE = 32  # rows of x that share a normalised block of y
# From entropies a Jensen-Shannon divergence is known to some 4e-16 of a nat and of them. Pairs closer than this share
# of that are summed term by term instead, as the functions of rows do: float64 input keeps 1e-11, other input 1e-6.
_NEAR = {True: 1e-4, False: 1e-8}


def divergence_matrix(
    x: Any,
    y: Any = None,
    metric: Metric = "kl",
    *,
    given: Given = "probs",
    base: float | None = None,
    temperature: float = 1.0,
    vocab_size: int | None = None,
    num_threads: int | None = None,
) -> NDArray[np.float64]:
    """Divergences of all pairs of rows, as `scipy.spatial.distance.cdist` lays them out.

    Parameters
    ----------
    x : array_like, shape (N, V) or (V,)
        The first arguments, p of KL(p‖q); the dtypes of `kl_divergence`, read in place.
    y : array_like, shape (M, V) or (V,), optional
        The second arguments, x where not given.
    metric : str
        "kl", "symmetric_kl", "js", "js_distance" (its square root, as in SciPy),
        "hellinger" or "tv".
    given, temperature, vocab_size, num_threads
        As in `kl_divergence`.
    base : float, optional
        Unit of KL and Jensen-Shannon: nats by default, bits for 2. Hellinger and total variation have none.

    Returns
    -------
    float64 array of shape (N, M); (M,) or (N,) where x or y is a single distribution
        Each element is that of the function of rows, to the same accuracy however close two rows are. Without y a
        symmetric metric is computed once a pair and the diagonal is exactly 0 (NaN for rows that are undefined).
        Accuracy: 2e-6 relative, 1e-11 for float64 input (the page of that name says of what).

    Raises
    ------
    ValueError
        An unknown metric, a `base` for a metric that has no unit, arrays of more than two axes; what `kl_divergence`
        raises.

    Examples
    --------
    >>> import kullback as kb
    >>> print(kb.divergence_matrix([[0.5, 0.5], [0.9, 0.1]], metric="kl", base=2).round(3))
    [[0.    0.737]
     [0.531 0.   ]]
    >>> print(kb.divergence_matrix([0.5, 0.5], [[0.9, 0.1], [0.5, 0.5]], metric="tv"))
    [0.4 0. ]
    """
    keywords.choice(metric, "metric", METRICS)
    keywords.space(given)  # of a matrix of no rows too
    function, symmetric = METRICS[metric]
    options: dict[str, Any] = {
        "given": given, "temperature": temperature, "vocab_size": vocab_size, "num_threads": num_threads
    }  # fmt: skip
    if metric not in ("hellinger", "tv"):
        options["base"] = base
    elif base is not None:
        raise ValueError(f"`base` is {base}, expected None: {metric} has no unit")
    labelling.same_axis(-1, ("x", x), ("y", y))
    first, first_single = _two_axes(x, "x")
    second, second_single = (first, first_single) if y is None else _two_axes(y, "y")
    half = symmetric and y is None
    out = np.empty((len(first), len(second)))
    plain = vocab_size is None and all(isinstance(a, np.ndarray) and a.dtype.kind == "f" for a in (first, second))
    if metric.startswith("js") and plain and first.shape[1] == second.shape[1]:
        _jensen_shannon(first, second, half, out, given, temperature, num_threads)
        out /= keywords.unit(base)
        out = out if metric == "js" else np.sqrt(out, out=out)
    else:
        _call_by_call(function, first, second, half, out, options)
    return out[tuple(0 if single else slice(None) for single in (first_single, second_single))]


def _call_by_call(
    function: Callable[..., Any],
    first: Any,
    second: Any,
    half: bool,
    out: NDArray[np.float64],
    keywords: dict[str, Any],
) -> None:
    """Fill `out` by calls of the function of rows, whose leading axes broadcast."""
    start = 0
    while start < len(first):
        begin = start if half else 0
        stop = start + max(1, _PAIRS // max(len(second) - begin, 1))
        rows, columns = first[start:stop, None], second[None, begin:]
        out[start:stop, begin:] = function(rows, columns, **keywords)
        if half:
            square = out[start:stop, start:stop]
            square[...] = np.triu(square) + np.triu(square, 1).T  # both orders were computed: the same but for rounding
            out[stop:, start:stop] = out[start:stop, stop:].T
        start = stop


def _jensen_shannon(
    first: NDArray[Any], second: NDArray[Any], half: bool, out: NDArray[np.float64],
    given: Given, temperature: float, num_threads: int | None,
) -> None:  # fmt: skip
    """Jensen-Shannon divergences by one logarithm an outcome: JS = H((p+q)/2) - (H(p) + H(q))/2.

    The difference loses the digits that close rows need, and such pairs go to the kernel.
    """
    keywords: dict[str, Any] = {"given": given, "temperature": temperature}
    if first.size == 0 or second.size == 0:  # nothing to do but the checks of the inputs
        jensen_shannon_divergence(first[:, None], second[None], **keywords)
        return
    block = max(1, _BLOCK // first.shape[1])
    # of the float64 rows that the mixtures are made of: float32 entropies are off by more than close rows differ
    own = _entropies(first, block, given, temperature, num_threads)
    other = own if second is first else _entropies(second, block, given, temperature, num_threads)
    close = _NEAR[np.float64 in (first.dtype, second.dtype)]

    def work(start: int, stop: int) -> None:
        for begin in range(start * _TILE, min(stop * _TILE, len(first)), _TILE):
            tile(begin, min(begin + _TILE, len(first)))

    def tile(begin: int, end: int) -> None:
        rows = _probabilities(first[begin:end], given, temperature)
        with np.errstate(all="ignore"):
            for left in range(begin if half else 0, len(second), block):
                columns = _probabilities(second[left : left + block], given, temperature)
                total, logs = np.empty_like(columns), np.empty_like(columns)
                for i, row in enumerate(rows, begin):
                    np.add(columns, row, out=total)
                    np.log(np.maximum(total, np.finfo(np.float64).tiny, out=logs), out=logs)
                    mixture = np.log(2.0) - 0.5 * np.multiply(total, logs, out=logs).sum(-1)
                    out[i, left : left + block] = mixture - 0.5 * (own[i] + other[left : left + block])
        for i in range(begin, end):
            exactly(i, begin if half else 0)
            if half:
                out[begin:, i] = out[i, begin:]

    def exactly(i: int, left: int) -> None:
        near = left + np.flatnonzero(out[i, left:] <= close * (1.0 + own[i] + other[left:]))
        for part in range(0, near.size, block):
            j = near[part : part + block]
            out[i, j] = jensen_shannon_divergence(first[i], second[j], **keywords, num_threads=1)

    tiles = -(-len(first) // _TILE)
    over_rows(work, tiles, _TILE * second.size * 8, thread_count(num_threads))


def _entropies(
    rows: NDArray[Any], block: int, given: Given, temperature: float, num_threads: int | None
) -> NDArray[np.float64]:
    """The entropies of rows, a block of them at a time in float64."""
    found = np.empty(len(rows))
    for start in range(0, len(rows), block):
        part = rows[start : start + block].astype(np.float64)
        found[start : start + block] = entropy(part, given=given, temperature=temperature, num_threads=num_threads)
    return found


def _probabilities(rows: NDArray[Any], given: Given, temperature: float) -> NDArray[np.float64]:
    """A block of rows as normalised float64 probabilities."""
    rows = rows.astype(np.float64)
    if given != "probs":
        return np.asarray(np.exp(log_softmax(rows, temperature=temperature, num_threads=1)))
    with np.errstate(all="ignore"):
        rows /= rows.max(-1, keepdims=True)  # a total may leave the range of float64
        return np.asarray(rows / rows.sum(-1, keepdims=True))


def _two_axes(x: Any, name: str) -> tuple[Any, bool]:
    """Rows as something that slices without a copy, and whether there was just one."""
    array = x if views.is_tensor(x) else views.plain(x, name)
    if isinstance(x, list | tuple):
        array = arrays.rows(x, name).owner
    if len(array.shape) not in (1, 2):
        raise ValueError(f"`{name}` has shape {tuple(array.shape)}, expected (N, V) or (V,)")
    return (array[None], True) if len(array.shape) == 1 else (array, False)
