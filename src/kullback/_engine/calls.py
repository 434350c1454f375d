"""One Python function for each C function of kullback.h: checked arrays in, filled arrays or one clear error out."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kullback._engine import arrays, engine
from kullback._engine.placement import ITEM_BYTES, Batch, Target, batch, check_out, keep_apart, optional, pointer, run

__all__ = ["Batch", "Target", "batch", "check_out", "keep_apart"]  # what callers need besides the functions below

_PAIR_FIELDS = (
    "kl", "reverse_kl", "entropy_p", "entropy_q", "lse_p", "lse_q", "top1_p", "top1_q", "log_prob_p", "log_prob_q",
    "log_ratio",
)  # fmt: skip
_ROW_FIELDS = ("lse", "entropy", "top1")
_NEGATIVE = {1: "p", 2: "q"}
LINEAR, MIXTURE, VARIATION, RENYI = 0, 1, 2, 3  # kinds of divergence
CROSS_ENTROPY = 4  # of a gradient along p alone
STATE = 9  # doubles kept of a pair of rows for its gradient


def _outputs(struct: str, fields: tuple[str, ...], wanted: dict[str, NDArray[Any]]) -> Any:
    """A struct of pointers into the wanted arrays, which the caller keeps alive."""
    new = engine.current().ffi.new(f"{struct} *")
    for field in fields:
        if field in wanted:
            array = wanted[field]
            setattr(new, field, pointer(array, array.dtype.type, array.size, field))
    return new


def _empty(fields: tuple[str, ...], rows: int) -> dict[str, NDArray[Any]]:
    return {field: np.empty(rows, np.int64 if field.startswith("top1") else np.float64) for field in fields}


def _refuse(
    found: tuple[int, int] | None,
    names: tuple[str, ...],
    lead: tuple[int, ...],
    parts: int = 1,
    chosen: NDArray[np.int64] | None = None,
) -> None:
    """Raise what a status stands for."""
    if found is None:
        return
    row, status = found[0] // parts, found[1]
    if chosen is not None:
        row = int(chosen[row])
    place = tuple(int(i) for i in np.unravel_index(row, lead)) if lead else ()
    where = f" in row {place if len(place) != 1 else place[0]}" if lead else ""
    if status in _NEGATIVE:
        raise ValueError(f"`{names[status - 1]}` holds a negative value{where}, expected probabilities ≥ 0")
    raise RuntimeError(f"the kernel refused its arguments{where} (status {status})")


def _understood(batch: Batch, space: int) -> None:
    """Refuse 16-bit codes as probabilities."""
    if space != arrays.MASSES:
        return
    for name, view in zip(batch.names, batch.views, strict=False):  # of parts of rows only one side may be left
        if view.storage == arrays.AFFINE16:
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
    if pair.rows:
        outputs = _outputs("kullback_comparison", _PAIR_FIELDS, found)
        bad = run(
            "kullback_compare", pair, pair.row_bytes, num_threads,
            optional(tokens, np.int64, pair.rows, "tokens"), pair.vocab, space, inverse_temperature, outputs,
            keep=found,
        )  # fmt: skip
        _refuse(bad, pair.names, pair.lead, pair.parts, pair.chosen)
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
    fields = _PAIR_FIELDS if tokens is not None else _PAIR_FIELDS[:8]
    found = _empty(fields, pair.rows)
    chosen = engine.current()
    function = chosen.function("kullback_compare_clipped")
    outputs = _outputs("kullback_comparison", _PAIR_FIELDS, found)
    ids = optional(tokens, np.int64, pair.rows, "tokens")
    if jensen_shannon:
        found["jensen_shannon"] = np.empty(pair.rows)
    mixture = optional(found.get("jensen_shannon"), np.float64, pair.rows)
    rooms: list[NDArray[np.float32]] = []  # two decoded rows for each thread

    def work(start: int, stop: int, held: Any = found) -> tuple[int, int] | None:
        try:
            room = rooms.pop()
        except IndexError:
            room = np.empty(2 * pair.vocab, np.float32)
        scratch = pointer(room, np.float32, room.size)
        for first, last, structs in pair.blocks(start, stop):
            bad_row = chosen.ffi.new("int64_t *", first)
            status = function(*structs, ids, pair.vocab, *windows, scratch, outputs, mixture, first, last, bad_row)
            if status:
                return bad_row[0], status
        rooms.append(room)
        return None

    findings = engine.over_rows(work, pair.rows, 2 * pair.row_bytes, num_threads) if pair.rows else []
    _refuse(min(findings) if findings else None, pair.names, pair.lead)
    return found


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
    per_row = 0
    if tokens is not None:
        per_row = tokens.shape[-1]
        found["log_probs"] = np.empty(tokens.shape)
    if single.rows:
        outputs = _outputs("kullback_description", _ROW_FIELDS, found)
        bad = run(
            "kullback_describe", single, single.row_bytes, num_threads,
            optional(tokens, np.int64, single.rows * per_row, "tokens"), per_row, single.vocab, space,
            inverse_temperature, outputs, optional(found.get("log_probs"), np.float64, single.rows * per_row),
            keep=found,
        )  # fmt: skip
        _refuse(bad, single.names, single.lead, single.parts)
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
    ffi = engine.current().ffi
    shapes = {"lse": (), "entropy": (), "top_ids": (top_k,), "top_log_probs": (top_k,)}
    per_row = () if tokens is None else tokens.shape[1:]
    found: dict[str, NDArray[Any]] = {}
    outputs = ffi.new("kullback_token_description *")
    for field in wanted:
        dtype: Any = np.int64 if field in ("ranks", "top_ids") else np.float64
        found[field] = np.empty((single.rows, *shapes.get(field, per_row)), dtype)
        setattr(outputs, field, pointer(found[field], dtype, found[field].size, field))
    if single.rows:
        offsets, kept_ids = kept or (None, None)
        bad = run(
            "kullback_describe_tokens", single, single.row_bytes, num_threads,
            optional(tokens, np.int64, single.rows * (per_row[0] if per_row else 0), "tokens"),
            per_row[0] if per_row else 0, optional(offsets, np.int64, single.rows + 1, "offsets"),
            optional(kept_ids, np.int64, 0 if offsets is None else int(offsets[-1]), "ids"), top_k, single.vocab,
            *slope_and_limit, outputs, keep=found,
        )  # fmt: skip
        _refuse(bad, single.names, single.lead)
    return found


def log_softmax(single: Batch, inverse_temperature: float, out: NDArray[Any], num_threads: int | None) -> None:
    """Write the log-softmax of every row into the contiguous `out`, float32 or float64, perhaps the input itself."""
    if single.rows:
        bad = run(
            "kullback_log_softmax", single, single.row_bytes + single.vocab * out.itemsize, num_threads, single.vocab,
            inverse_temperature, pointer(out, out.dtype.type, single.rows * single.vocab, "out"),
            int(out.dtype == np.float64),
        )  # fmt: skip
        _refuse(bad, single.names, single.lead)


def sum_segments(
    values: NDArray[Any],
    mask: NDArray[np.bool_] | None,
    offsets: NDArray[np.int64] | None,
    num_threads: int | None,
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """(sums, values in them, unmasked values) of the rows of `values`, or of the segments in `offsets`."""
    count = math.prod(values.shape[:-1]) if offsets is None else offsets.size - 1
    sums, kept, unmasked = np.zeros(count), np.zeros(count, np.int64), np.zeros(count, np.int64)
    if not values.size:
        return sums, kept, unmasked
    ffi = engine.current().ffi
    view = arrays.rows(values, "values")
    if view.converted:
        raise TypeError(f"`values` has dtype {values.dtype}, expected a float dtype in native order, aligned")
    seen: list[tuple[NDArray[Any], int, int]] = [(view.owner, view.stride, view.storage)]
    if mask is not None:
        if mask.shape != values.shape or mask.dtype != np.bool_ or (mask.strides[-1] != 1 and mask.shape[-1] > 1):
            raise ValueError(f"`mask` has shape {mask.shape} and dtype {mask.dtype}, expected bool of {values.shape}")
        seen.append((mask, 1, arrays.FLOAT64))  # a row of bytes has no storage tag; the kernel asks for none
    structs, keep = [], [view, mask]
    for array, stride, storage in seen:
        rows = arrays.Rows(array, array.shape[:-1], array.strides[:-1], array.shape[-1], stride, storage, False)
        places, row_stride = arrays.row_places(rows, rows.lead)
        if offsets is not None:
            places = offsets[:-1] * stride
        place = optional(places, np.int64, count, "offsets")
        keep.append(place)
        structs.append(ffi.new("kullback_array *", (ffi.cast("void *", rows.data), place, row_stride, stride, storage)))
    if mask is None:
        structs.append(ffi.new("kullback_array *"))
    lengths = None if offsets is None else np.diff(offsets)
    row_bytes = values.size * (values.itemsize + 1) // count + 1
    segments = Batch(("values",), tuple(structs), (), (), count, 1, row_bytes, tuple(keep))
    bad = run(
        "kullback_sum_segments", segments, row_bytes, num_threads, optional(lengths, np.int64, count),
        values.shape[-1], pointer(sums, np.float64, count), pointer(kept, np.int64, count),
        pointer(unmasked, np.int64, count),
    )  # fmt: skip
    _refuse(bad, ("values",), ())
    return sums, kept, unmasked


def divergence(
    pair: Batch,
    space: int,
    inverse_temperature: float,
    kind: int,
    parameters: tuple[float, float, float],
    num_threads: int | None,
    mask: NDArray[np.bool_] | None = None,
    state: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """The divergence of that kind, (T,), 0 in masked rows; `state` (T, STATE) is filled for the gradient."""
    _understood(pair, space)
    out = np.zeros(pair.rows)
    if pair.rows:
        bad = run(
            "kullback_divergence", pair, pair.row_bytes, num_threads, optional(mask, np.bool_, pair.rows, "mask"),
            pair.vocab, space, inverse_temperature, kind, *parameters, pointer(out, np.float64, pair.rows),
            optional(state, np.float64, pair.rows * STATE, "state"),
        )  # fmt: skip
        _refuse(bad, pair.names, pair.lead)
    return out


def generated(
    pair: Batch, space: int, inverse_temperature: float, generator: Any, slope: float, num_threads: int | None
) -> NDArray[np.float64]:
    """Σ q·f(p/q) of every pair of rows, (T,), for a compiled scalar function f."""
    state = np.empty((pair.rows, STATE))
    divergence(pair, space, inverse_temperature, LINEAR, (0.0, 1.0, 0.0), num_threads, state=state)
    out = np.empty(pair.rows)
    if pair.rows:
        ffi = engine.current().ffi
        rows = engine.compiled_whole(engine.numba_kernel("generator", "driver")(generator))
        states, values = state.ctypes.data, out.ctypes.data

        def work(start: int, stop: int, held: Any = (state, out)) -> int:
            for first, last, structs in pair.blocks(start, stop):
                p, q = (int(ffi.cast("intptr_t", struct)) for struct in structs)
                bad = int(rows(p, q, states, pair.vocab, space, inverse_temperature, slope, values, first, last))
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
    kind: int,
    parameters: tuple[float, float, float],
    side: int,
    weights: NDArray[np.float64],
    target: Target,
    num_threads: int | None,
    known: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(values, state) of a divergence of logits, given as `known` or found; weights·gradient into `target`."""
    values, state = known or (np.zeros(pair.rows), np.zeros((pair.rows, STATE)))
    if pair.rows:
        ffi = engine.current().ffi
        row_bytes = pair.row_bytes + pair.vocab * ITEM_BYTES[target.storage]
        bad = run(
            "kullback_divergence_gradient", pair, row_bytes, num_threads,
            pointer(weights, np.float64, pair.rows, "weights"), pair.vocab, inverse_temperature, kind, *parameters,
            side, int(known is not None), pointer(values, np.float64, pair.rows, "values"),
            pointer(state, np.float64, pair.rows * STATE, "state"), ffi.cast("void *", target.data), target.row_stride,
            target.storage, keep=target,
        )  # fmt: skip
        _refuse(bad, pair.names, pair.lead)
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
    if not single.rows:
        return
    n, entries = single.rows, None if scatter is None else int(scatter.offsets[-1])
    offsets, ids, values, assign = scatter or (None, None, None, False)
    bad = run(
        "kullback_softmax_gradient", single, single.row_bytes + single.vocab * ITEM_BYTES[target.storage], num_threads,
        pointer(described["lse"], np.float64, n, "lse"), optional(described.get("entropy"), np.float64, n, "entropy"),
        pointer(described["top1"], np.int64, n, "top1"), pointer(mass_weights, np.float64, n, "weights"),
        optional(entropy_weights, np.float64, n, "weights"), optional(offsets, np.int64, n + 1, "offsets"),
        optional(ids, np.int64, entries or 0, "ids"), optional(values, np.float64, entries or 0, "values"),
        int(assign), int(add), single.vocab, inverse_temperature, engine.current().ffi.cast("void *", target.data),
        target.row_stride, target.storage, keep=target,
    )  # fmt: skip
    _refuse(bad, single.names, single.lead)


def rest_mass(
    single: Batch,
    inverse_temperature: float,
    described: dict[str, NDArray[Any]],
    offsets: NDArray[np.int64],
    ids: NDArray[np.int64],
    num_threads: int | None,
) -> NDArray[np.float64]:
    """The probability of every row, (T,), outside its ids, which rise without repeats."""
    out = np.zeros(single.rows)
    if single.rows:
        bad = run(
            "kullback_rest_mass", single, single.row_bytes, num_threads,
            pointer(described["lse"], np.float64, single.rows, "lse"),
            pointer(described["top1"], np.int64, single.rows, "top1"),
            pointer(offsets, np.int64, single.rows + 1, "offsets"), pointer(ids, np.int64, int(offsets[-1]), "ids"),
            single.vocab, inverse_temperature, pointer(out, np.float64, single.rows),
        )  # fmt: skip
        _refuse(bad, single.names, single.lead)
    return out


def phi(x: NDArray[np.float64], num_threads: int | None) -> NDArray[np.float64]:
    """exp(x) - 1 - x of a contiguous vector."""
    out = np.empty(x.size)
    if x.size:
        bad = engine.call(
            "kullback_phi", x.size, 16, num_threads, pointer(x, np.float64, x.size), pointer(out, np.float64, x.size)
        )
        _refuse(bad, ("x",), (x.size,))
    return out
