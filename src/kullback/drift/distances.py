"""Distances of the distribution functions of a numeric column, from its cells, and how far they can be off."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kullback.drift.cells import Cells, NumericCells
from kullback.drift.counting import Counts
from kullback.samples import integral_of_absolute

Float64s = NDArray[np.float64]
NAMES = ("wasserstein", "wasserstein_bound", "wasserstein_scaled", "energy", "energy_bound", "ks", "ks_bound")


def distances(name: str, cells: Cells, reference: Counts, current: Counts) -> dict[str, float]:
    """W1, the energy distance √(2·∫ (F - G)²) and sup abs(F - G), each with the most by which it can be off."""
    if not isinstance(cells, NumericCells) or cells.edges.size == 0:
        return dict.fromkeys(NAMES, np.nan)
    r, c = reference.by_column[name][:-1], current.by_column[name][:-1]
    if r.sum() == 0 or c.sum() == 0:
        return dict.fromkeys(NAMES, np.nan)
    p, q = r / r.sum(), c / c.sum()
    width = np.diff(cells.edges)
    difference = np.cumsum(p)[:-1] - np.cumsum(q)[:-1]
    outer = [[_mean_excess(name, cells, counts, side) for counts in (reference, current)] for side in (0, 1)]
    result = _wasserstein(cells, difference, p + q, width, outer)
    result |= _energy(cells, difference, p + q, width, outer)
    inside = np.abs(difference).max(initial=0.0)
    return result | {"ks": float(inside), "ks_bound": _farthest(p, q, difference, inside)}


def _farthest(p: Float64s, q: Float64s, difference: Float64s, largest: float) -> float:
    """By how much F - G can go beyond its values at the edges: within a cell by the mass of one side."""
    before = np.append(0.0, difference)
    reach = np.maximum(before + p, q - before)
    return float(max(reach.max(initial=0.0) - largest, 0.0))


def _wasserstein(
    cells: NumericCells, difference: Float64s, mass: Float64s, width: Float64s, outer: list[list[float]]
) -> dict[str, float]:
    """W1 and how far it can be off.

    Between the outermost edges mass is spread evenly within its cell, which moves it by half the cell's width
    h at most: Σ (r + c)·h/2. Outside, where all but one of the distribution functions are usually constant,
    the area between them is the difference of the summed distances a and b to the edge; it is a + b at most.
    """
    distance = float(integral_of_absolute(difference, width))
    bound = float((mass[1:-1] * width).sum() / 2)
    for a, b in outer:
        if a == b == np.inf:
            return dict.fromkeys(("wasserstein", "wasserstein_bound", "wasserstein_scaled"), np.nan)
        distance += abs(a - b)
        bound += 2 * min(a, b) + cells.unit
    scaled = distance / cells.scale if cells.scale > 0 else np.inf
    return {
        "wasserstein": distance,
        "wasserstein_bound": bound,
        "wasserstein_scaled": scaled if distance > 0 else distance,
    }


def _energy(
    cells: NumericCells, difference: Float64s, mass: Float64s, width: Float64s, outer: list[list[float]]
) -> dict[str, float]:
    """The energy distance and how far it can be off.

    Within a cell F - G is taken to be linear from a to b, (a² + ab + b²)/3 of its width; it can be anything
    between -s - max and s + max where s is the mass of both sides in the cell. Outside an edge, where s is the
    share of both sides' values there and d their mean distances to it, ∫ (F - G)² lies between 0 and s·Σ d: two
    thirds of s·d for one side alone that is spread evenly.
    """
    a, b = difference[:-1], difference[1:]
    square = float(((a * a + a * b + b * b) / 3.0 * width).sum())
    inner = mass[1:-1]
    bound = float((width * inner * (inner + 2.0 * np.maximum(np.abs(a), np.abs(b)))).sum())
    for side, (far_r, far_c) in enumerate(outer):
        if far_r == far_c == np.inf:
            return dict.fromkeys(("energy", "energy_bound"), np.nan)
        if far_r + far_c > 0:
            square += abs(far_r - far_c) * mass[-side] * 2.0 / 3.0
            bound += (far_r + far_c) * mass[-side]
    if square == np.inf:
        return {"energy": np.inf, "energy_bound": np.inf}
    energy = np.sqrt(2.0 * square)
    least = np.sqrt(2.0 * max(square - bound, 0.0))
    return {
        "energy": float(energy),
        "energy_bound": float(max(np.sqrt(2.0 * (square + bound + cells.unit)) - energy, energy - least)),
    }


def _mean_excess(name: str, cells: NumericCells, counts: Counts, side: int) -> float:
    """How far values lie beyond an edge, averaged over all values; inf if one is beyond what can be counted."""
    least, greatest = counts.extremes[name]
    farthest = cells.edges[0] - least if side == 0 else greatest - cells.edges[-1]
    if farthest >= 2.0**62 * cells.unit:
        return float("inf")
    low, rest = (int(word) for word in counts.excess[name][side])
    return (low + (rest << 31)) / int(counts.by_column[name][:-1].sum()) * cells.unit
