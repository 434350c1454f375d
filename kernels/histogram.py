"""Counts of the values of many columns between the edges of their cells, in one pass over a table.

Column j has n = edge_counts[j] rising edges, stored in edges[j, :n] and padded with +inf to a power of two.
Its cell of x is the number of edges ≤ x: 0 is below the first edge, n is at or above the last, n + 1 is for
NaN. A caller who wants cells closed on the right moves each edge to the next float: e < x is next(e) ≤ x.

Counts and excess are integers, least and greatest values have no order: any split of a table over threads or
batches gives the same bits. Measured on one core of a 2.5 GHz Cascade Lake, 200 columns: 2.5 ns a value with
equal widths, 3 ns with 11 edges, 4.5 ns with 130.
"""

import numpy as np
from numba import njit

TILE = 512  # values of one column at a time: two buffers of 4 kB stay in the first-level cache
FARTHEST = 2.0**62
LOW_WORD = (1 << 31) - 1


@njit
def uniform_cells(x, edges, n, step_inverse, cells):
    """Cells among edges equally spaced to within a quarter of a step: a guess, then two comparisons."""
    last = n - 1.0
    for i in range(x.shape[0]):
        t = (x[i] - edges[0]) * step_inverse
        t = t if t > 0.0 else 0.0  # also NaN, which has no integer
        t = t if t < last else last
        guess = np.uint64(np.int64(t))
        cells[i] = guess + np.uint64(x[i] >= edges[guess]) + np.uint64(x[i] >= edges[guess + np.uint64(1)])


@njit
def searched_cells(x, edges, cells):
    """Cells by binary search, every value one level at a time: no branches, so it runs in SIMD lanes."""
    cells[:] = np.uint64(0)
    half = np.uint64(edges.shape[0] >> 1)
    while half > np.uint64(0):
        for i in range(x.shape[0]):
            cells[i] += half * np.uint64(x[i] >= edges[cells[i] + half - np.uint64(1)])
        half >>= np.uint64(1)


@njit
def add_cells(x, cells, edges, n, unit_inverse, counts, extremes, excess):
    """Count the cells of one tile, widen (least, greatest) to its values, add up how far outside the edges
    they lie.

    The distances are whole numbers of units, in two words of 31 bits and the rest, so that their sum has no
    order.
    """
    top = np.uint64(n)
    low, high = extremes[0], extremes[1]
    for i in range(x.shape[0]):
        v = x[i]
        if v != v:
            counts[n + 1] += 1
            continue
        cell = min(cells[i], top)  # +inf is not below the padding
        counts[cell] += 1
        low = v if v < low else low
        high = v if v > high else high
        if (cell == 0 or cell == top) and unit_inverse > 0.0:
            side = 0 if cell == 0 else 1
            distance = edges[0] - v if cell == 0 else v - edges[n - 1]
            units = np.int64(min(distance * unit_inverse, FARTHEST))
            excess[side, 0] += units & LOW_WORD
            excess[side, 1] += units >> 31
    extremes[0], extremes[1] = low, high


@njit(nogil=True)
def count_table(table, edges, edge_counts, step_inverses, unit_inverses, counts, extremes, excess):
    """Add the values of table (T, D) to counts (D, cells), extremes (D, 2) and excess (D, 2 sides, 2 words).

    edges (D, 2^k): at least one +inf after the last edge. step_inverses (D,): 1 / step of equally spaced
    edges, else 0. unit_inverses (D,): 1 / unit of excess; 0 to leave it. A distance beyond 2^62 units counts
    as that.
    """
    rows, columns = table.shape
    values = np.empty(TILE)
    cells = np.empty(TILE, np.uint64)
    for start in range(0, rows, TILE):
        stop = min(start + TILE, rows)
        x = values[: stop - start]
        c = cells[: stop - start]
        for j in range(columns):
            for i in range(x.shape[0]):
                x[i] = table[start + i, j]
            n = edge_counts[j]
            if step_inverses[j] > 0.0:
                uniform_cells(x, edges[j], n, step_inverses[j], c)
            else:
                searched_cells(x, edges[j], c)
            add_cells(x, c, edges[j], n, unit_inverses[j], counts[j], extremes[j], excess[j])
