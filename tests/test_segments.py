"""The segment-sum kernel against exactly rounded sums, for every storage, stride, length and mask."""

import itertools
import math

import ml_dtypes
import numpy as np
import pytest
from kullback.kernels import entries
from kullback.kernels.contract import structure
from kullback.kernels.records import record_at
from kullback.kernels.storage import FLOATS
from numba import njit

import kullback as kb

STORAGE = {kind.name: kind.tag for kind in FLOATS}
ARRAY = structure("kullback_array")


@njit
def entry(x, mask, lengths, sums, kept, unmasked, count):
    arrays = record_at(x, ARRAY), record_at(mask, ARRAY)
    return entries.kullback_sum_segments(*arrays, lengths, 0, sums, kept, unmasked, 0, count, 0)


def described(array, starts, storage):
    """The words of a kullback_array whose rows begin at `starts`."""
    places = np.asarray(starts, np.int64) * array.strides[0]
    return np.array([array.ctypes.data, places.ctypes.data, 0, array.strides[0], storage], np.int64), places


def sum_segments(values, offsets, mask=None):
    """(sums, kept, unmasked) of values[offsets[t]:offsets[t + 1]]."""
    count, lengths = len(offsets) - 1, np.diff(offsets).astype(np.int64)
    x, x_places = described(values, offsets[:-1], STORAGE[values.dtype.name])
    flags, flag_places = (np.zeros(5, np.int64), None) if mask is None else described(mask, offsets[:-1], 0)
    sums, kept, unmasked = np.empty(count), np.empty(count, np.int64), np.empty(count, np.int64)
    inputs = [array.ctypes.data for array in (x, flags, lengths)]
    assert entry(*inputs, *(array.ctypes.data for array in (sums, kept, unmasked)), count) == 0
    del x_places, flag_places  # alive until here
    return sums, kept, unmasked


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("dtype", [kind.name for kind in FLOATS])
def test_sums_are_exact_but_for_one_rounding(dtype, step, masked):
    rng = np.random.default_rng(1)
    lengths = [*range(35), 0, 2047, 2048, 2049, 5000, 1]
    offsets = np.cumsum([0, *lengths])
    spread = rng.normal(size=offsets[-1] * step) * 10.0 ** rng.uniform(-4, 4, offsets[-1] * step)
    values = spread.astype(getattr(ml_dtypes, dtype, dtype))[::step]
    values[rng.random(values.size) < 0.05] = np.nan
    mask = (rng.random(values.size) < 0.6) if masked else None
    sums, kept, unmasked = sum_segments(values, offsets, mask)
    for t, (start, stop) in enumerate(itertools.pairwise(offsets)):
        own = values[start:stop].astype(np.float64)
        wanted = np.ones(own.size, bool) if mask is None else mask[start:stop]
        keep = wanted & ~np.isnan(own)
        assert sums[t] == math.fsum(own[keep])
        assert (kept[t], unmasked[t]) == (keep.sum(), wanted.sum())


def test_cancellation_keeps_its_digits():
    x = np.array([1e16, 1.0, -1e16, 1e-16] * 50 + [3.0])
    assert sum_segments(x, [0, 200, 201])[0].tolist() == [50.0 + 50e-16, 3.0]


@pytest.mark.parametrize("length", [3, 8, 40, 3000])
def test_infinities_behave_as_in_a_plain_sum(length):
    x = np.ones((4, length))
    x[0, length // 2] = np.inf
    x[1, 0] = -np.inf
    x[2, 0], x[2, -1] = np.inf, -np.inf
    sums, _, _ = sum_segments(x.reshape(-1), np.arange(5) * length)
    assert np.array_equal(sums, [np.inf, -np.inf, np.nan, length], equal_nan=True)


def test_garbage_behind_the_mask_and_around_the_segment_is_not_seen():
    x = np.full(64, np.inf)
    x[20:33] = 1.0
    mask = np.zeros(64, bool)
    mask[20:33] = True
    assert sum_segments(x, [0, 20, 33, 64], mask)[0].tolist() == [0.0, 13.0, 0.0]
    assert sum_segments(x[20:33], [0, 13])[0].tolist() == [13.0]


@pytest.mark.parametrize("n", [3, 8, 9, 40])
def test_sums_that_leave_float64_on_the_way(n):
    """What is beyond float64 is inf, what is within it a number; an infinity outweighs what only adds up to one."""
    big, padding = 1.5e308, [0.0] * (n - 3)
    one_lane = np.zeros((1, 24))  # of eight
    one_lane[0, ::8] = big, big, -big
    assert kb.sequence_sums(one_lane) == big
    one_lane[0, 16] = -np.inf
    assert kb.sequence_sums(one_lane) == -np.inf
    assert kb.sequence_sums([[big, big, -big, *padding]]) == big
    assert kb.sequence_sums([[*padding, -big, -big, big]]) == -big
    assert kb.sequence_sums([[big, *padding, big, 1.0]]) == np.inf
    assert kb.sequence_sums([[big, big, *padding, -np.inf]]) == -np.inf
    assert kb.sequence_sums([[big, -np.inf, big, *padding]], [[1, 0, 0, *padding]]) == big
    assert np.isnan(kb.sequence_sums([[np.inf, -np.inf, big, *padding]]))
    assert kb.sequence_sums([[big, big, -np.inf, *padding, np.nan]], nan_policy="omit")[0] == -np.inf
