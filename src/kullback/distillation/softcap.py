"""Blocks of rows in float scratch, for what the kernels do not do in place: soft-capped logits and their gradients.

z' = c·tanh(z/c)        dz'/dz = 1 - (z'/c)²
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import arrays, calls, views

SCRATCH_BYTES = 8 << 20  # of one block of rows


def decoded(array: NDArray[Any], storage: int) -> NDArray[Any]:
    """Stored rows as a new float32 or float64 array."""
    if storage == views.BFLOAT16:
        words = np.ascontiguousarray(array).view(np.uint16).astype(np.uint32)
        return (words << 16).view(np.float32)
    if views.STORAGES[storage].bytes == 1:
        values: NDArray[np.float32] = _of_byte(storage)[np.ascontiguousarray(array).view(np.uint8)]
        return values
    return np.array(array, np.float64 if storage == views.FLOAT64 else np.float32)


@cache
def _of_byte(storage: int) -> NDArray[np.float32]:
    """The values of the 256 bytes of a float8."""
    kind = views.STORAGES[storage]
    codes = np.arange(256)
    exponent, fraction = (codes & 0x7F) >> kind.mantissa, codes & ((1 << kind.mantissa) - 1)
    whole = np.where(exponent > 0, fraction + (1 << kind.mantissa), fraction)
    values = np.ldexp(whole.astype(np.float32), np.maximum(exponent, 1) - kind.bias - kind.mantissa)
    if kind.infinities:
        special = exponent == (1 << kind.exponent) - 1
        values[special] = np.where(fraction[special] == 0, np.inf, np.nan)
    else:
        values[(codes & 0x7F) == 0x7F] = np.nan
    signed: NDArray[np.float32] = np.where(codes & 0x80, -values, values).astype(np.float32)
    return signed


def encode(values: NDArray[Any], out: NDArray[Any], storage: int) -> None:
    """Round float values to nearest even into stored rows."""
    if storage != views.BFLOAT16:
        out[...] = values
        return
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    words = (bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16
    out.view(np.uint16)[...] = np.where(np.isnan(values), 0x7FC0, words)


def cap(logits: NDArray[Any], softcap: float) -> None:
    """Soft-cap in place."""
    np.divide(logits, softcap, out=logits)
    np.tanh(logits, out=logits)
    np.multiply(logits, softcap, out=logits)


def through_cap(gradient: NDArray[Any], capped: NDArray[Any], softcap: float) -> None:
    """Turn the gradient along capped logits into that along the logits themselves, in place."""
    slope = capped / softcap
    np.multiply(slope, slope, out=slope)
    np.subtract(1.0, slope, out=slope)
    gradient *= slope


def row_blocks(lead: tuple[int, ...], row_bytes: int) -> Iterator[tuple[tuple[Any, ...], slice]]:
    """(index of a block of rows, the same rows counted flat) over a leading shape; no block is above SCRATCH_BYTES."""
    if not lead:
        yield (None,), slice(0, 1)
        return
    step = max(1, SCRATCH_BYTES // max(row_bytes, 1))
    for outer, index in enumerate(np.ndindex(lead[:-1])):
        for start in range(0, lead[-1], step):
            stop = min(start + step, lead[-1])
            yield (*index, slice(start, stop)), slice(outer * lead[-1] + start, outer * lead[-1] + stop)


def capped_rows(
    whole: Callable[..., NDArray[np.float64]],
    logits: tuple[Any, Any],
    softcap: float,
    row_weights: NDArray[np.float64],
    sides: tuple[int, ...],
    outs: list[Any],
    mask: NDArray[np.bool_] | None,
    pair: calls.Batch,
) -> NDArray[np.float64]:
    """`whole` on soft-capped copies of a few rows at a time; gradients go through the cap into `outs`."""
    seen = [arrays.rows(x, name) for name, x in zip(pair.names, logits, strict=True)]
    targets = {side: arrays.rows(outs[side], "out") for side in sides}
    values = np.zeros(pair.rows)
    for index, flat in row_blocks(pair.lead, pair.vocab * 8):
        if mask is not None and not mask[flat].any():
            for target in targets.values():
                target.owner[index] = 0
            continue
        blocks = [
            decoded(np.broadcast_to(x.owner, (*pair.lead, x.vocab))[index][..., : pair.vocab], x.storage) for x in seen
        ]
        for block in blocks:
            cap(block, softcap)
        gradients: list[Any] = [None, None]
        for side in sides:
            gradients[side] = np.empty_like(blocks[side])
        part = calls.batch(*zip(pair.names, blocks, strict=True))
        values[flat] = whole(part, row_weights[flat], sides, gradients, None if mask is None else mask[flat])
        for side, target in targets.items():
            through_cap(gradients[side], blocks[side], softcap)
            encode(gradients[side], target.owner[index][..., : pair.vocab], target.storage)
            target.owner[index][..., pair.vocab :] = 0
    return values
