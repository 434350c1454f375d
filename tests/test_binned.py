"""Quantiles of cut values: within their bound on streams made to break them, in any order to the same bits."""

import itertools
import json

import numpy as np
import pytest

from kullback.comparison import Spread
from kullback.comparison.binned import BITS, Binned, cut

N = 120_000
LEVELS = (0.0, 0.0001, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999, 1.0)


def streams():
    rng = np.random.default_rng(0)
    ordinary = rng.lognormal(-4, 2, N)
    tail = rng.lognormal(-8, 2, N)
    tail[::1000] = 10 * rng.pareto(0.5, N // 1000)
    yield "ordinary", ordinary
    yield "rising", np.sort(ordinary)
    yield "falling", np.sort(ordinary)[::-1]
    yield "outward", np.sort(ordinary)[np.argsort(np.abs(np.arange(N) - N // 2), kind="stable")]
    yield "heavy tail", tail
    yield "two levels", np.where(rng.random(N) < 0.999, 1e-9 * (1 + rng.random(N)), 5 + rng.random(N))
    yield "blocks that grow", np.concatenate([10.0**k * rng.random(N // 30) for k in range(-15, 15)])
    yield "both signs", rng.normal(size=N) ** 3
    yield "near equal", 1 + 1e-7 * rng.random(N)
    yield "few", rng.integers(0, 4, N) / 4
    yield "all of float64", 10.0 ** rng.uniform(-307, 308, N) * rng.choice([-1, 1], N)


def spread_of(parts, most):
    found = Spread()
    for part in parts:
        found = found.merge(Spread.of(part))
        found.compact(most)
    return found


@pytest.mark.parametrize(("name", "values"), list(streams()), ids=lambda x: x if isinstance(x, str) else "")
def test_quantiles_are_within_their_bound(name, values):
    found = spread_of(np.array_split(values, 9), 10_000)
    assert found.sketched
    ordered = np.sort(values)
    for level in LEVELS:
        below = int(level * (N - 1))
        beside = max(abs(ordered[below]), abs(ordered[min(below + 1, N - 1)]))
        with np.errstate(over="ignore"):
            error = abs(found.quantile(level) - np.quantile(ordered, level))
        assert error <= found.quantile_error * beside, level
    assert (found.min, found.max) == (ordered[0], ordered[-1])
    assert found.quantile_error == 2.0**-BITS  # the number of values is not what makes it coarser
    if name == "few":
        assert found.quantile(0.3) == 0.25  # short numbers are exact


def test_the_room_is_bounded_and_so_is_the_error():
    values = 10.0 ** np.random.default_rng(1).uniform(-307, 308, 50_000)
    for most in (3000, 20_000):
        binned = Binned.of(values, most)
        assert binned.values.size <= most
        assert binned.size == values.size
        ordered = np.sort(values)
        for place in range(0, 50_000, 333):
            assert ordered[place] * (1 - binned.error) <= binned.at(place) <= ordered[place]
    # by octaves filled, of either sign: 2^19 values are 14 bits of 32 octaves, 7 of all there are
    octaves = np.ldexp(1 + np.arange(1 << 14) / (1 << 14), np.arange(32)[:, None]).ravel()
    assert Binned.of(octaves).bits == 14
    whole = np.ldexp(1 + np.arange(1 << 8) / (1 << 8), np.arange(-1022, 1024)[:, None]).ravel()
    assert Binned.of(np.concatenate([whole, -whole])).bits == 7


@pytest.mark.parametrize(("name", "values"), list(streams()), ids=lambda x: x if isinstance(x, str) else "")
def test_any_order_and_any_parts_give_the_same_bits(name, values):
    rng = np.random.default_rng(2)
    values = values[:20_000].copy()
    values[rng.integers(0, 20_000, 5)] = [np.inf, -np.inf, np.inf, np.nan, 0.0]
    results = []
    for pieces, most in itertools.product((1, 4, 37), (50, 3000)):
        parts = np.array_split(values[rng.permutation(values.size)], pieces)
        results.append(spread_of(parts, most))
    pairs = [spread_of(np.array_split(part, 3), 500) for part in np.array_split(values[::-1], 2)]
    results += [pairs[0].merge(pairs[1]), pairs[1].merge(pairs[0])]
    assert all(result == results[0] for result in results)
    assert len({json.dumps(result.to_dict()) for result in results}) == 1


def test_order_does_not_matter_where_bits_are_dropped():
    rng = np.random.default_rng(3)
    values = 10.0 ** rng.uniform(-300, 300, 6000)
    parts = [Binned.of(part, 500) for part in np.array_split(values, 12)]
    whole = Binned.of(values, 500)
    assert whole.bits < BITS
    for _ in range(5):
        rng.shuffle(parts)
        merged = parts[0]
        for part in parts[1:]:
            merged = merged.merge(part, 500)
        assert merged == whole
    left, right = parts[0].merge(parts[1], 500), parts[2].merge(parts[3], 500)
    assert left.merge(right, 500) == parts[3].merge(parts[1], 500).merge(parts[2].merge(parts[0], 500), 500)


def test_cut_values():
    values = np.array([0.0, -0.0, 1.0, 1 + 2.0**-14, 1 + 2.0**-15, -1.75, 5e-324, np.inf, -np.inf, np.finfo(float).max])
    found = cut(values, 14)
    np.testing.assert_array_equal(
        found, [0, 0, 1, 1 + 2.0**-14, 1, -1.75, 0, np.inf, -np.inf, np.ldexp(2 - 2.0**-14, 1023)]
    )
    assert not np.signbit(found[1])
    for bits in range(14):
        np.testing.assert_array_equal(cut(cut(values, 14), bits), cut(values, bits))


def test_infinities_are_values():
    binned = Binned.of(np.array([-np.inf, 1.0, 0.1, np.inf, np.inf]))
    assert [binned.at(place) for place in range(5)] == [-np.inf, pytest.approx(0.1, rel=1e-4), 1.0, np.inf, np.inf]
    assert binned.finite().size == 2
    assert Binned.of(np.array([np.inf])).finite() is None
