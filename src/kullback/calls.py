"""One Python function for each C function of kullback.h: checked arrays in, filled arrays or one clear error out."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kullback import arrays, engine

_ITEM_BYTES = (8, 4, 2, 2, 2)  # by storage tag
_PAIR_FIELDS = (
    "kl", "reverse_kl", "entropy_p", "entropy_q", "lse_p", "lse_q", "top1_p", "top1_q", "log_prob_p", "log_prob_q",
    "log_ratio",
)  # fmt: skip
_ROW_FIELDS = ("lse", "entropy", "top1")
_NEGATIVE = {1: "p", 2: "q"}
LINEAR, MIXTURE, VARIATION, RENYI = 0, 1, 2, 3  # kinds of divergence
STATE = 9  # doubles kept of a pair of rows for its gradient


class Batch(NamedTuple):
    """Arrays with a common leading shape and vocabulary, as the kernels take them."""

    names: tuple[str, ...]
    structs: tuple[Any, ...]  # a kullback_array each
    lead: tuple[int, ...]
    rows: int
    vocab: int
    row_bytes: int  # read for one row, all arrays together
    keep: tuple[Any, ...]  # memory the structs point into
    parts: int = 1  # consecutive rows that are parts of one row of the caller's
    chosen: NDArray[np.int64] | None = None  # the caller's rows that these are, where they are not all


def batch(*named: tuple[str, Any], axis: int = -1, vocab_size: int | None = None) -> Batch:
    """Check and place one or two arrays."""
    viewed = [(name, arrays.rows(x, name, axis)) for name, x in named]
    vocab = arrays.vocabulary(vocab_size, *viewed)
    lead = arrays.leading_shape(*viewed)
    ffi = engine.current().ffi
    structs, keep = [], []
    for _, array in viewed:
        offsets, row_stride = arrays.row_places(array, lead)
        places = ffi.NULL if offsets is None else address(offsets, "const int64_t *")
        data = ffi.cast("void *", array.data)
        structs.append(ffi.new("kullback_array *", (data, places, row_stride, array.stride, array.storage)))
        keep += [array.owner, offsets]
    total = 1
    for n in lead:
        total *= n
    row_bytes = vocab * sum(_ITEM_BYTES[array.storage] for _, array in viewed)
    return Batch(tuple(name for name, _ in named), tuple(structs), lead, total, vocab, row_bytes, tuple(keep))


def address(array: NDArray[Any], c_type: str) -> Any:
    """The memory of a contiguous array as a C pointer (the caller keeps the array alive)."""
    return engine.current().ffi.cast(c_type, array.ctypes.data)


def _outputs(struct: str, fields: tuple[str, ...], wanted: dict[str, NDArray[Any]]) -> Any:
    new = engine.current().ffi.new(f"{struct} *")
    for field in fields:
        if field in wanted:
            setattr(new, field, address(wanted[field], "int64_t *" if field.startswith("top1") else "double *"))
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


def compare(
    pair: Batch,
    space: int,
    inverse_temperature: float,
    wanted: tuple[str, ...],
    num_threads: int | None,
    tokens: NDArray[np.int64] | None = None,
) -> dict[str, NDArray[Any]]:
    """The wanted fields of a kullback_comparison, (T,) each."""
    found = _empty(wanted, pair.rows)
    if pair.rows:
        outputs = _outputs("kullback_comparison", _PAIR_FIELDS, found)
        ids = engine.current().ffi.NULL if tokens is None else address(tokens, "const int64_t *")
        bad = engine.call(
            "kullback_compare", pair.rows, pair.row_bytes, num_threads,
            *pair.structs, ids, pair.vocab, space, inverse_temperature, outputs,
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
    ids = chosen.ffi.NULL if tokens is None else address(tokens, "const int64_t *")
    mixture = chosen.ffi.NULL
    if jensen_shannon:
        found["jensen_shannon"] = np.empty(pair.rows)
        mixture = address(found["jensen_shannon"], "double *")
    rooms: list[NDArray[np.float32]] = []  # two decoded rows for each thread

    def work(start: int, stop: int) -> tuple[int, int] | None:
        room = rooms.pop() if rooms else np.empty(2 * pair.vocab, np.float32)
        bad_row = chosen.ffi.new("int64_t *", start)
        status = function(
            *pair.structs, ids, pair.vocab, *windows, address(room, "float *"), outputs, mixture, start, stop, bad_row
        )
        rooms.append(room)
        return (bad_row[0], status) if status else None

    findings = engine.over_rows(work, pair.rows, 2 * pair.row_bytes, num_threads)
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
    found = _empty(wanted, single.rows)
    null = engine.current().ffi.NULL
    ids, log_probs, per_row = null, null, 0
    if tokens is not None:
        per_row = tokens.shape[-1]
        found["log_probs"] = np.empty(tokens.shape)
        ids, log_probs = address(tokens, "const int64_t *"), address(found["log_probs"], "double *")
    if single.rows:
        outputs = _outputs("kullback_description", _ROW_FIELDS, found)
        bad = engine.call(
            "kullback_describe", single.rows, single.row_bytes, num_threads,
            *single.structs, ids, per_row, single.vocab, space, inverse_temperature, outputs, log_probs,
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
        dtype, c_type = (np.int64, "int64_t *") if field in ("ranks", "top_ids") else (np.float64, "double *")
        found[field] = np.empty((single.rows, *shapes.get(field, per_row)), dtype)
        setattr(outputs, field, address(found[field], c_type))
    if single.rows:
        ids, offsets, kept_ids = (
            ffi.NULL if array is None else address(array, "const int64_t *")
            for array in (tokens, *(kept or (None, None)))
        )
        bad = engine.call(
            "kullback_describe_tokens", single.rows, single.row_bytes, num_threads, *single.structs, ids,
            per_row[0] if per_row else 0, offsets, kept_ids, top_k, single.vocab, *slope_and_limit, outputs,
        )  # fmt: skip
        _refuse(bad, single.names, single.lead)
    return found


def log_softmax(single: Batch, inverse_temperature: float, out: NDArray[Any], num_threads: int | None) -> None:
    """Write the log-softmax of every row into the contiguous `out`, float32 or float64."""
    if single.rows:
        wide = int(out.dtype == np.float64)
        bad = engine.call(
            "kullback_log_softmax", single.rows, single.row_bytes + single.vocab * out.itemsize, num_threads,
            *single.structs, single.vocab, inverse_temperature, address(out, "void *"), wide,
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
    seen = [arrays.rows(values, "values")]
    if mask is not None:
        place = mask.ctypes.data  # a row of bytes has no storage tag; the kernel asks for none
        seen.append(arrays.Rows(mask, place, mask.shape[:-1], mask.strides[:-1], mask.shape[-1], 1, arrays.FLOAT64))
    structs, keep = [], []
    for array in seen:
        places, row_stride = arrays.row_places(array, array.lead)
        if offsets is not None:
            places = offsets[:-1] * array.stride
        keep.append(places)
        place = ffi.NULL if places is None else address(places, "const int64_t *")
        data = ffi.cast("void *", array.data)
        structs.append(ffi.new("kullback_array *", (data, place, row_stride, array.stride, array.storage)))
    if mask is None:
        structs.append(ffi.new("kullback_array *"))
    lengths = None if offsets is None else np.diff(offsets)
    row_bytes = values.size * (values.itemsize + 1) // count + 1
    bad = engine.call(
        "kullback_sum_segments", count, row_bytes, num_threads, *structs,
        ffi.NULL if lengths is None else address(lengths, "const int64_t *"), values.shape[-1],
        address(sums, "double *"), address(kept, "int64_t *"), address(unmasked, "int64_t *"),
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
    out = np.zeros(pair.rows)
    if pair.rows:
        null = engine.current().ffi.NULL
        bad = engine.call(
            "kullback_divergence", pair.rows, pair.row_bytes, num_threads,
            *pair.structs, null if mask is None else address(mask, "const uint8_t *"), pair.vocab, space,
            inverse_temperature, kind, *parameters, address(out, "double *"),
            null if state is None else address(state, "double *"),
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
        p, q = (int(ffi.cast("intptr_t", struct)) for struct in pair.structs)
        rows = engine.numba_kernel("generator", "driver")(generator)

        def work(start: int, stop: int) -> int:
            return int(
                rows(
                    p, q, state.ctypes.data, pair.vocab, space, inverse_temperature, slope, out.ctypes.data, start, stop
                )
            )

        row_bytes = pair.row_bytes * 16  # a scalar loop: slower than its bytes suggest
        found = engine.over_rows(work, pair.rows, row_bytes, engine.thread_count(num_threads))
        if found:
            raise ValueError(
                f"q is 0 where p > 0 in row {min(found) - 1}: give `slope_at_infinity`, the limit of generator(u)/u"
            )
    return out


class Target(NamedTuple):
    """Where a gradient goes: rows of contiguous elements."""

    data: int
    row_stride: int  # bytes
    storage: int

    @classmethod
    def of(cls, out: Any, name: str, shape: tuple[int, ...]) -> "Target":
        """A writeable array of that shape whose rows lie evenly spaced, checked."""
        view = arrays.rows(out, name)
        if (*view.lead, view.vocab) != shape:
            raise ValueError(f"`{name}` has shape {(*view.lead, view.vocab)}, expected {shape}")
        offsets, row_stride = arrays.row_places(view, view.lead)
        if offsets is not None or (view.stride != _ITEM_BYTES[view.storage] and view.vocab > 1):
            raise ValueError(f"`{name}` has strides {out.strides}, expected contiguous rows at an even distance")
        if isinstance(out, np.ndarray) and not out.flags.writeable:
            raise ValueError(f"`{name}` is read-only, expected a writeable array")
        return cls(view.data, row_stride, view.storage)


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
        row_bytes = pair.row_bytes + pair.vocab * _ITEM_BYTES[target.storage]
        bad = engine.call(
            "kullback_divergence_gradient", pair.rows, row_bytes, num_threads,
            *pair.structs, address(weights, "const double *"), pair.vocab, inverse_temperature, kind, *parameters,
            side, int(known is not None), address(values, "double *"), address(state, "double *"),
            ffi.cast("void *", target.data), target.row_stride, target.storage,
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
    ffi = engine.current().ffi

    def place(array: NDArray[Any] | None, c_type: str) -> Any:
        return ffi.NULL if array is None else address(array, c_type)

    bad = engine.call(
        "kullback_softmax_gradient", single.rows, single.row_bytes + single.vocab * _ITEM_BYTES[target.storage],
        num_threads, *single.structs, place(described["lse"], "const double *"),
        place(described.get("entropy"), "const double *"), place(described["top1"], "const int64_t *"),
        place(mass_weights, "const double *"), place(entropy_weights, "const double *"),
        place(scatter and scatter.offsets, "const int64_t *"), place(scatter and scatter.ids, "const int64_t *"),
        place(scatter and scatter.values, "const double *"), int(scatter is not None and scatter.assign), int(add),
        single.vocab, inverse_temperature, ffi.cast("void *", target.data), target.row_stride, target.storage,
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
        bad = engine.call(
            "kullback_rest_mass", single.rows, single.row_bytes, num_threads, *single.structs,
            address(described["lse"], "const double *"), address(described["top1"], "const int64_t *"),
            address(offsets, "const int64_t *"), address(ids, "const int64_t *"), single.vocab, inverse_temperature,
            address(out, "double *"),
        )  # fmt: skip
        _refuse(bad, single.names, single.lead)
    return out


def phi(x: NDArray[np.float64], num_threads: int | None) -> NDArray[np.float64]:
    """exp(x) - 1 - x of a contiguous vector."""
    out = np.empty(x.size)
    if x.size:
        bad = engine.call(
            "kullback_phi", x.size, 16, num_threads, address(x, "const double *"), address(out, "double *")
        )
        _refuse(bad, ("x",), (x.size,))
    return out
