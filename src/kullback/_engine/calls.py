"""One Python function for each C function of kullback.h: checked arrays in, filled arrays or one clear error out."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kullback._engine import engine, loading
from kullback._engine.arrays import ITEM_BYTES, Batch, batch
from kullback._engine.engine import Address, Outputs, Scratch, run, vector
from kullback._engine.first_use import compiled_whole
from kullback._engine.keywords import LOGS, MASSES
from kullback._engine.outputs import keep_apart
from kullback._engine.target import Target
from kullback._engine.views import AFFINE16
from kullback.kernels.kinds import KINDS

__all__ = ["LOGS", "Batch", "Target", "batch", "keep_apart"]  # what callers need besides the functions below

_PAIR_FIELDS = ("kl", "reverse_kl", "entropy_p", "entropy_q", "lse_p", "lse_q", "top1_p", "top1_q", "acceptance")
_TOKEN_FIELDS = ("log_prob_p", "log_prob_q", "log_ratio")
STATE = 9  # doubles kept of a pair of rows for its gradient


def _empty(fields: tuple[str, ...], rows: int) -> dict[str, NDArray[Any]]:
    return {field: np.empty(rows, np.int64 if field.startswith("top1") else np.float64) for field in fields}


def _understood(batch: Batch, space: int) -> None:
    """Refuse 16-bit codes as probabilities."""
    if space != MASSES:
        return
    for name, view in zip(batch.names, batch.views, strict=True):
        if view.storage == AFFINE16:
            raise ValueError(f"`{name}` holds rows of 16-bit codes, which are logits: expected `given` as 'logits'")


def compare(
    pair: Batch,
    space: int,
    inverse_temperature: float,
    wanted: tuple[str, ...],
    num_threads: int | None,
    tokens: NDArray[np.int64] | None = None,
) -> dict[str, NDArray[Any]]:
    """The wanted fields of a kullback_comparison, (T,) each."""
    _understood(pair, space)
    found = _empty(wanted, pair.rows)
    run(
        "kullback_compare", pair, pair.row_bytes, num_threads, vector(tokens, np.int64, pair.rows, "tokens"),
        pair.vocab, space, inverse_temperature, Outputs("kullback_comparison *", found),
    )  # fmt: skip
    return found


def compare_clipped(
    pair: Batch,
    windows: tuple[float, float],
    num_threads: int,
    tokens: NDArray[np.int64] | None,
    jensen_shannon: bool,
) -> dict[str, NDArray[Any]]:
    """The fields of a kullback_comparison, (T,) each, of rows of which some hold codes that may be clipped.

    With `jensen_shannon` that too.
    """
    n, fields = pair.rows, _PAIR_FIELDS if tokens is None else _PAIR_FIELDS + _TOKEN_FIELDS
    found = _empty(fields, n)
    mixture = np.empty(n) if jensen_shannon else None
    run(
        "kullback_compare_clipped", pair, 2 * pair.row_bytes, num_threads, vector(tokens, np.int64, n, "tokens"),
        pair.vocab, *windows, Scratch(2 * pair.vocab), Outputs("kullback_comparison *", found),
        vector(mixture, np.float64, n, "jensen_shannon"),
    )  # fmt: skip
    return found if mixture is None else {**found, "jensen_shannon": mixture}


def describe(
    single: Batch,
    space: int,
    inverse_temperature: float,
    wanted: tuple[str, ...],
    num_threads: int | None,
    tokens: NDArray[np.int64] | None = None,
) -> dict[str, NDArray[Any]]:
    """The wanted fields of a kullback_description, (T,) each, and "log_probs" (T, K) of tokens (T, K)."""
    _understood(single, space)
    found = _empty(wanted, single.rows)
    outputs, per_row, log_probs = Outputs("kullback_description *", found.copy()), 0, None
    if tokens is not None:
        per_row = tokens.shape[-1]
        log_probs = found["log_probs"] = np.empty(tokens.shape)
    run(
        "kullback_describe", single, single.row_bytes, num_threads,
        vector(tokens, np.int64, single.rows * per_row, "tokens"), per_row, single.vocab, space, inverse_temperature,
        outputs, vector(log_probs, np.float64, single.rows * per_row, "log_probs"),
    )  # fmt: skip
    return found


def describe_tokens(
    single: Batch,
    slope_and_limit: tuple[float, float],
    wanted: tuple[str, ...],
    num_threads: int | None,
    tokens: NDArray[np.int64] | None = None,
    top_k: int = 0,
    kept: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
) -> dict[str, NDArray[Any]]:
    """The wanted fields of a kullback_token_description: (T,), (T, K) of tokens (T, K), or (T, top_k)."""
    shapes = {"lse": (), "entropy": (), "top_ids": (top_k,), "top_log_probs": (top_k,)}
    per_row = () if tokens is None else tokens.shape[1:]
    found: dict[str, NDArray[Any]] = {}
    for field in wanted:
        dtype: Any = np.int64 if field in ("ranks", "top_ids") else np.float64
        found[field] = np.empty((single.rows, *shapes.get(field, per_row)), dtype)
    offsets, ids = kept or (None, None)
    count = per_row[0] if per_row else 0
    run(
        "kullback_describe_tokens", single, single.row_bytes, num_threads,
        vector(tokens, np.int64, single.rows * count, "tokens"), count,
        vector(offsets, np.int64, single.rows + 1, "offsets"),
        vector(ids, np.int64, 0 if offsets is None else int(offsets[-1]), "ids"), top_k, single.vocab,
        *slope_and_limit, Outputs("kullback_token_description *", found),
    )  # fmt: skip
    return found


def log_softmax(single: Batch, inverse_temperature: float, out: NDArray[Any], num_threads: int | None) -> None:
    """Write the log-softmax of every row into the contiguous `out`, float32 or float64, perhaps the input itself."""
    run(
        "kullback_log_softmax", single, single.row_bytes + single.vocab * out.itemsize, num_threads, single.vocab,
        inverse_temperature, (out, out.dtype.type, single.rows * single.vocab, "out"), int(out.dtype == np.float64),
    )  # fmt: skip


def divergence(
    pair: Batch,
    space: int,
    inverse_temperature: float,
    kind: str,
    parameters: tuple[float, float, float],
    num_threads: int | None,
    mask: NDArray[np.bool_] | None = None,
    state: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """The divergence of that kind, (T,), 0 in masked rows; `state` (T, STATE) is filled for the gradient."""
    _understood(pair, space)
    out = np.zeros(pair.rows)
    run(
        "kullback_divergence", pair, pair.row_bytes, num_threads, vector(mask, np.bool_, pair.rows, "mask"),
        pair.vocab, space, inverse_temperature, KINDS[kind], *parameters, (out, np.float64, pair.rows, "out"),
        vector(state, np.float64, pair.rows * STATE, "state"),
    )  # fmt: skip
    return out


def generated(
    pair: Batch, space: int, inverse_temperature: float, generator: Any, slope: float, num_threads: int | None
) -> NDArray[np.float64]:
    """Σ q·f(p/q) of every pair of rows, (T,), for a compiled scalar function f."""
    state = np.empty((pair.rows, STATE))
    divergence(pair, space, inverse_temperature, "linear", (0.0, 1.0, 0.0), num_threads, state=state)
    out = np.empty(pair.rows)
    if pair.rows:
        of, address = engine.structs(pair), engine.address
        driver = compiled_whole(loading.numba_kernel("generator", "driver")(generator))
        states, values = state.ctypes.data, out.ctypes.data

        def work(start: int, stop: int, held: Any = (state, out)) -> int:
            for first, last, (p, q) in engine.blocks(pair, of, start, stop):
                bad = int(
                    driver(
                        address(p), address(q), states, pair.vocab, space, inverse_temperature, slope, values, first,
                        last,
                    )
                )  # fmt: skip
                if bad:
                    return bad
            return 0

        row_bytes = pair.row_bytes * 16  # a scalar loop: slower than its bytes suggest
        found = engine.over_rows(work, pair.rows, row_bytes, engine.thread_count(num_threads))
        if found:
            raise ValueError(
                f"q is 0 where p > 0 in row {min(found) - 1}: give `slope_at_infinity`, the limit of generator(u)/u"
            )
    return out


def divergence_gradient(
    pair: Batch,
    inverse_temperature: float,
    kind: str,
    parameters: tuple[float, float, float],
    side: int,
    weights: NDArray[np.float64],
    target: Target,
    num_threads: int | None,
    known: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(values, state) of a divergence of logits, given as `known` or found; weights·gradient into `target`."""
    values, state = known or (np.zeros(pair.rows), np.zeros((pair.rows, STATE)))
    run(
        "kullback_divergence_gradient", pair, pair.row_bytes + pair.vocab * ITEM_BYTES[target.storage], num_threads,
        (weights, np.float64, pair.rows, "weights"), pair.vocab, inverse_temperature, KINDS[kind], *parameters, side,
        int(known is not None), (values, np.float64, pair.rows, "values"),
        (state, np.float64, pair.rows * STATE, "state"), Address(target.owner), target.row_stride,
        target.storage,
    )  # fmt: skip
    return values, state


class Scatter(NamedTuple):
    """Values of single elements: entries offsets[t] ... offsets[t + 1] belong to row t."""

    offsets: NDArray[np.int64]
    ids: NDArray[np.int64]
    values: NDArray[np.float64]
    assign: bool


def softmax_gradient(
    single: Batch,
    inverse_temperature: float,
    described: dict[str, NDArray[Any]],
    mass_weights: NDArray[np.float64],
    entropy_weights: NDArray[np.float64] | None,
    scatter: Scatter | None,
    target: Target,
    num_threads: int | None,
    add: bool = False,
) -> None:
    """k·s·(mass weight - entropy weight·(ln s + H)), then the scattered values, into or onto `target`."""
    n, entries = single.rows, 0 if scatter is None else int(scatter.offsets[-1])
    offsets, ids, values, assign = scatter or (None, None, None, False)
    run(
        "kullback_softmax_gradient", single, single.row_bytes + single.vocab * ITEM_BYTES[target.storage], num_threads,
        (described["lse"], np.float64, n, "lse"), vector(described.get("entropy"), np.float64, n, "entropy"),
        (described["top1"], np.int64, n, "top1"), (mass_weights, np.float64, n, "weights"),
        vector(entropy_weights, np.float64, n, "weights"), vector(offsets, np.int64, n + 1, "offsets"),
        vector(ids, np.int64, entries, "ids"), vector(values, np.float64, entries, "values"), int(assign), int(add),
        single.vocab, inverse_temperature, Address(target.owner), target.row_stride, target.storage,
    )  # fmt: skip


def rest_mass(
    single: Batch,
    inverse_temperature: float,
    described: dict[str, NDArray[Any]],
    offsets: NDArray[np.int64],
    ids: NDArray[np.int64],
    num_threads: int | None,
) -> NDArray[np.float64]:
    """The probability of every row, (T,), outside its ids, which rise without repeats."""
    n, out = single.rows, np.zeros(single.rows)
    run(
        "kullback_rest_mass", single, single.row_bytes, num_threads, (described["lse"], np.float64, n, "lse"),
        (described["top1"], np.int64, n, "top1"), (offsets, np.int64, n + 1, "offsets"),
        (ids, np.int64, int(offsets[-1]), "ids"), single.vocab, inverse_temperature, (out, np.float64, n, "out"),
    )  # fmt: skip
    return out


def phi(x: NDArray[np.float64], num_threads: int | None) -> NDArray[np.float64]:
    """exp(x) - 1 - x of a contiguous vector."""
    out = np.empty(x.size)
    vector = Batch(("x",), (), (), (x.size,), x.size, 1, 16)
    run("kullback_phi", vector, 16, num_threads, (x, np.float64, x.size, "x"), (out, np.float64, x.size, "out"))
    return out
