"""Drift: counts by brute force, the same bits for any split, order and threads, truth from SciPy."""

import itertools
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, strategies as st
from kullback.kernels.histogram import count_table
from scipy import stats
from scipy.spatial.distance import jensenshannon

from kullback import drift
from kullback.drift.cells import numeric_cells, padded

RNG = np.random.default_rng


def counted(x, edge_lists, uniform):
    """count_table on columns with these edges."""
    width = 1 << int(max(len(e) for e in edge_lists)).bit_length()
    edges = np.full((len(edge_lists), width), np.inf)
    for row, e in zip(edges, edge_lists, strict=True):
        row[: len(e)] = e
    sizes = np.array([len(e) for e in edge_lists])
    steps = np.array([(len(e) - 1) / (e[-1] - e[0]) if uniform else 0.0 for e in edge_lists])
    units = np.full(len(edge_lists), 2.0**-20)
    counts = np.zeros((len(edge_lists), sizes.max() + 2), np.int64)
    extremes = np.tile([np.inf, -np.inf], (len(edge_lists), 1))
    excess = np.zeros((len(edge_lists), 2, 2), np.int64)
    count_table(x, edges, sizes, steps, 1 / units, counts, extremes, excess)
    return counts, extremes, [[(int(s[1]) << 31) + int(s[0]) for s in sides] for sides in excess]


def brute_force(column, edges, width):
    """The definition: cell = number of edges at or below the value; NaN last."""
    row = np.zeros(width, np.int64)
    for value in column.astype(np.float64):
        row[len(edges) + 1 if np.isnan(value) else sum(e <= value for e in edges)] += 1
    return row


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("layout", ["C", "F", "strided"])
def test_kernel_counts_as_defined(uniform, dtype, layout):
    rng = RNG(1)
    x = rng.normal(size=(1500, 4)).astype(dtype)
    x[rng.random(x.shape) < 0.02] = np.nan
    x[:4, 0] = [np.inf, -np.inf, np.finfo(dtype).max, np.finfo(dtype).min]
    edges = [np.linspace(-3, 2.5, n) if uniform else np.sort(rng.normal(size=n)) for n in (3, 10, 64, 129)]
    x[10:13, :] = np.array([e[[0, 1, -1]] for e in edges]).T  # values on edges
    x = {"C": x, "F": np.asfortranarray(x), "strided": np.repeat(np.repeat(x, 2, 0), 3, 1)[::2, ::3]}[layout]
    counts, extremes, excess = counted(x, edges, uniform)
    for j, e in enumerate(edges):
        column = x[:, j].astype(np.float64)
        for side, beyond in enumerate((e[0] - column[column < e[0]], column[column >= e[-1]] - e[-1])):
            assert excess[j][side] == sum(int(min(far * 2.0**20, 2.0**62)) for far in beyond.tolist())
        np.testing.assert_array_equal(counts[j], brute_force(x[:, j], e, counts.shape[1]))
        assert (extremes[j] == [np.nanmin(x[:, j]), np.nanmax(x[:, j])]).all()


@given(st.floats(-1e300, 1e300), st.floats(1e-12, 1e12), st.integers(3, 200), st.integers(0, 10**6))
def test_equal_widths_never_miscount(low, width, n, seed):
    """The guess of the fast path is repaired wherever the plan says the edges are even enough for it."""
    low, width = np.float64(low), np.float64(width)
    sample = low + width * RNG(seed).random(300)
    cells = numeric_cells("x", np.sort(sample), n, "width", n, "separate")
    before = np.nextafter(cells.edges, -np.inf)
    probe = np.concatenate([sample, cells.edges, before, [np.inf, -np.inf, np.nan]])
    edges, sizes, steps, units = padded([cells])
    counts = np.zeros((1, sizes[0] + 2), np.int64)
    excess = np.zeros((1, 2, 2), np.int64)
    count_table(probe[:, None], edges, sizes, steps, units, counts, np.zeros((1, 2)), excess)
    expected = np.searchsorted(cells.edges, probe[:-1], side="right")
    np.testing.assert_array_equal(counts[0, :-1], np.bincount(expected, minlength=sizes[0] + 1))
    assert counts[0, -1] == 1


def mixed_table(rows, seed, shift=0.0):
    rng = RNG(seed)
    letters = rng.choice(np.array(["a", "b", "c", None], dtype=object), rows, p=[0.5, 0.3, 0.15, 0.05])
    numbers = rng.normal(shift, 1, rows)
    numbers[rng.random(rows) < 0.03] = np.nan
    return {
        "normal": numbers,
        "single": rng.lognormal(shift, 1, rows).astype(np.float32),
        "count": rng.poisson(4 + shift, rows),
        "letter": letters,
        "flag": rng.random(rows) < 0.4,
    }


def bits(state):
    """Everything a state holds, as bytes."""
    everything = []
    for counts in (state.reference, state.current):
        everything.append(counts.rows)
        for part in (counts.by_column, counts.extremes, counts.excess):
            everything += [(name, array.tobytes()) for name, array in part.items()]
        everything.append({name: others and sorted(others.items()) for name, others in counts.others.items()})
    return everything


@given(st.lists(st.integers(0, 4000), max_size=6), st.randoms(use_true_random=False), st.integers(1, 3))
def test_any_split_order_and_threads_give_the_same_bits(cuts, random, num_threads):
    reference, current = mixed_table(3000, 1), mixed_table(4000, 2, 0.2)
    whole = drift.fit(reference, num_threads=1)
    whole.update(current)
    borders = [0, *sorted(cuts), 4000]
    parts = []
    for start, stop in itertools.pairwise(borders):
        state = drift.fit(reference, num_threads=num_threads)
        state.update({name: column[start:stop] for name, column in current.items()})
        parts.append(pickle.loads(pickle.dumps(state)))
    random.shuffle(parts)
    merged = parts[0]
    for part in parts[1:]:
        merged.merge(part)
    assert bits(merged) == bits(whole)
    assert str(merged.report().to_dict()) == str(whole.report().to_dict())


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_any_layout_threads_and_type(order):
    x = RNG(3).normal(size=(5000, 7)).astype(np.float32)
    states = []
    for table in (np.asarray(x, order=order), x.astype(np.float64), {str(j): x[:, j] for j in range(7)}):
        for num_threads in (1, 2, 9):
            state = drift.fit(table, num_threads=num_threads)
            state.update(table[::2] if isinstance(table, np.ndarray) else {k: v[::2] for k, v in table.items()})
            states.append(bits(state))
    assert all(state == states[0] for state in states)
    integers = RNG(4).integers(-50, 50, (1000, 3), dtype=np.int16)
    assert bits(drift.fit(integers)) == bits(drift.fit(integers.astype(np.float64)))


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_a_matrix_is_its_array():
    """Whose columns are matrices again, of two axes."""
    rows = np.random.default_rng(0).random((30, 2))
    assert bits(drift.fit(np.matrix(rows))) == bits(drift.fit(rows))


def test_reference_in_pieces():
    reference = mixed_table(3000, 1)
    whole, half = drift.fit(reference), drift.fit(reference)
    piece = {name: column[:1000] for name, column in reference.items()}
    whole.extend_reference(piece)
    other = drift.fit(reference)
    other.reference = type(other.reference)(other.reference.cells)
    other.extend_reference(piece)
    half.reference.merge(other.reference)
    assert bits(whole) == bits(half)
    with pytest.raises(ValueError, match="`other` has other reference counts in column 'normal'"):
        whole.merge(drift.fit(reference))


def test_statistics_against_scipy():
    reference, current = RNG(5).normal(size=4000), RNG(6).normal(0.3, 1.3, size=3000)
    edges = np.linspace(-3, 3, 13)
    state = drift.fit(reference, bins=edges)
    state.update(current)
    report = state.report()
    p, q = (
        np.histogram(x, [-np.inf, *edges[1:-1], np.inf])[0] for x in (reference, current)
    )  # the outer bins are open
    assert report.kl[0] == pytest.approx(stats.entropy(p, q), rel=1e-13)
    assert report.reverse_kl[0] == pytest.approx(stats.entropy(q, p), rel=1e-13)
    assert report.psi[0] == pytest.approx(stats.entropy(p, q) + stats.entropy(q, p), rel=1e-13)
    assert report.js_distance[0] == pytest.approx(jensenshannon(p, q), rel=1e-13)
    assert report.js[0] == pytest.approx(jensenshannon(p, q) ** 2, rel=1e-13)
    p_share, q_share = p / p.sum(), q / q.sum()
    hellinger = np.sqrt(1 - np.sqrt(p_share * q_share).sum())
    assert report.hellinger[0] == pytest.approx(hellinger, rel=1e-12)
    assert report.tv[0] == pytest.approx(0.5 * np.abs(p_share - q_share).sum(), rel=1e-13)
    g = stats.chi2_contingency([p, q], lambda_="log-likelihood", correction=False)
    assert report.g_test_p_value[0] == pytest.approx(g.pvalue, rel=1e-9)
    psi_null = stats.chi2.sf(report.psi[0] / (1 / 4000 + 1 / 3000), 11)
    assert report.psi_p_value[0] == pytest.approx(psi_null, rel=1e-9)
    assert report.below[0] == (current < -3).sum() and report.above[0] == (current > 3).sum()
    # less its noise PSI is still above 0.1; the KS distance is that of the edges
    assert report.psi_noise[0] == pytest.approx(11 * (1 / 4000 + 1 / 3000), rel=0.05)
    assert report.band[0] == "watch" and report.n_current[0] == 3000
    ks = stats.ks_2samp(reference, current).statistic
    assert report.ks[0] <= ks <= report.ks[0] + report.ks_bound[0] and report.ks[0] == pytest.approx(ks, rel=0.05)


@pytest.mark.parametrize("spacing", ["quantile", "width"])
@pytest.mark.parametrize("name", ["norm", "expon", "t", "randint"])
def test_wasserstein_within_its_bound(spacing, name):
    args = {"norm": (), "expon": (), "t": (3,), "randint": (0, 30)}[name]
    for seed, shift in ((0, 0.0), (1, 0.1), (2, 5.0)):
        reference = getattr(stats, name).rvs(*args, size=3000, random_state=seed).astype(float)
        current = shift + getattr(stats, name).rvs(*args, size=2000, random_state=seed + 10)
        state = drift.fit(reference, spacing=spacing)
        state.update(current)
        report = state.report()
        truth = stats.wasserstein_distance(reference, current)
        assert abs(report.wasserstein[0] - truth) <= report.wasserstein_bound[0]
        assert report.wasserstein_scaled[0] == pytest.approx(report.wasserstein[0] / reference.std())
        energy, ks = stats.energy_distance(reference, current), stats.ks_2samp(reference, current).statistic
        assert abs(report.energy[0] - energy) <= report.energy_bound[0]
        assert report.ks[0] <= ks * (1 + 1e-12) and ks <= report.ks[0] + report.ks_bound[0] + 1e-12
    if name == "norm":
        assert report.wasserstein[0] == pytest.approx(truth, rel=1e-3)


def test_p_values_are_uniform_without_drift():
    """400 columns without drift: the share of p-values below α is α (binomial, six standard deviations)."""
    state = drift.fit(RNG(7).normal(size=(20_000, 400)))
    state.update(RNG(8).normal(size=(10_000, 400)))
    report = state.report()
    for p_values in (report.psi_p_value, report.g_test_p_value):
        assert stats.kstest(p_values, "uniform").pvalue > 1e-3
    limit = drift.psi_threshold(20_000, 10_000, 10, 0.05)
    assert abs((report.psi > limit).mean() - 0.05) < 6 * np.sqrt(0.05 * 0.95 / 400)
    assert report.psi.mean() == pytest.approx(9 * (1 / 20_000 + 1 / 10_000), rel=0.1)
    assert set(report.band) == {"stable"} and not "".join(report.alarm)


def test_missing_unseen_and_outside_are_counted():
    reference = {"x": np.array([0.0, 1.0, 2.0, np.nan]), "c": np.array(["a", "a", "b", None], dtype=object)}
    current = {
        "x": np.array([-5.0, 1.0, np.inf, np.nan, np.nan]),
        "c": np.array(["a", "z", "y", "b", None], dtype=object),
    }
    state = drift.fit(reference, bins=2)
    state.update(current)
    report = state.report(smoothing=None, alpha=1.0)
    assert report.missing_reference.tolist() == [1, 1] and report.missing_current.tolist() == [2, 1]
    assert report.n_reference.tolist() == [3, 3] and report.n_current.tolist() == [3, 4]
    assert report.below.tolist() == [1, 0] and report.above.tolist() == [1, 0]
    assert report.unseen.tolist() == [0, 2]
    assert report.kind.tolist() == ["numeric", "categorical"]
    # categories: (2/3, 1/3, 0) against (1/4, 1/4, 2/4)
    assert report.kl[1] == pytest.approx(stats.entropy([2, 1, 0], [1, 1, 2]))
    assert report.reverse_kl[1] == np.inf and report.psi[1] == np.inf and report.band[1] == "act"
    assert 0.1 < report.psi_p_value[1] <= 1.0 and 0.1 < report.g_test_p_value[1] <= 1.0
    assert state.report().psi[1] < 1.0 and state.report().band[1] == "stable"  # four values tell nothing
    assert report.wasserstein[0] == np.inf and np.isnan(report.wasserstein[1])
    with_missing = state.report(missing="bin", smoothing=None)
    assert with_missing.kl[1] == pytest.approx(stats.entropy([2, 1, 0, 1], [1, 1, 2, 1]))
    smoothed = state.report(smoothing="jeffreys")
    p, q = np.array([2.5, 1.5, 0.5]) / 4.5, np.array([1.5, 1.5, 2.5]) / 5.5
    assert smoothed.psi[1] == pytest.approx(((p - q) * np.log(p / q)).sum())
    assert smoothed.smoothing == "jeffreys" and report.empty_reference[1] == 1


def test_outside_values_in_bins_of_their_own():
    state = drift.fit(np.arange(100.0), bins=4, outside="separate", identifiers=())
    state.update(np.array([-1.0, 5.0, 30.0, 60.0, 80.0, 200.0]))
    report = state.report(smoothing=None)
    assert report.bins[0] == 6 and report.empty_reference[0] == 2
    assert report.kl[0] == pytest.approx(stats.entropy([0, 25, 25, 25, 25, 0], [1] * 6))


def test_odd_columns():
    reference = {
        "constant": np.full(50, 3.0),
        "nothing": np.full(50, np.nan),
        "huge": np.linspace(-1.0, 1.0, 50) * 1e308,
        "tiny": np.linspace(0, 5e-324 * 40, 50),
        "two": np.repeat([0, 1], 25),
    }
    state = drift.fit(reference)
    state.update(reference)
    report = state.report()
    assert report.band.tolist() == ["stable", "empty", "stable", "stable", "stable"]
    assert report.psi[[0, 2, 3, 4]].tolist() == [0.0] * 4 and np.isnan(report.psi[1])
    assert report.wasserstein[[0, 2, 3, 4]].tolist() == [0.0] * 4
    moved = state.window()
    moved.update(reference | {"constant": np.full(50, 4.0)})
    assert (
        moved.report(smoothing=None).psi[0] == np.inf
        and moved.report().band[0] == "act"
        and moved.report().wasserstein[0] == pytest.approx(1.0)
    )
    assert state.window().report().band.tolist() == ["empty"] * 5


def test_choices_of_bins_and_columns():
    table = mixed_table(2000, 9)
    state = drift.fit(table, bins={"normal": "doane", "single": [0.0, 1.0, 2.0, 4.0]}, columns=["single", "normal"])
    report = state.report()
    assert report.column.tolist() == ["single", "normal"]
    finite = table["normal"][np.isfinite(table["normal"])]
    assert report.bins.tolist() == [3, len(np.histogram_bin_edges(finite, "doane")) - 1]
    by_value = drift.fit(table, categorical=["count"]).report()
    assert by_value.kind.tolist() == ["numeric", "numeric", "categorical", "categorical", "categorical"]
    assert by_value.bins[2] == len(set(table["count"].tolist()))  # none is rare or new
    few = drift.fit({"c": np.array(list("aaaabbbccd"))}, max_categories=2)
    few.update({"c": np.array(list("abcz"))})
    assert few.current.by_column["c"].tolist() == [1, 1, 2, 0] and few.report().unseen[0] == 2


def test_errors_name_what_is_wrong():
    table = mixed_table(50, 1)
    state = drift.fit(table)
    with pytest.raises(ValueError, match="the batch has no column 'flag', expected normal, single"):
        state.update({name: column for name, column in table.items() if name != "flag"})
    before = bits(state)
    with pytest.raises(TypeError, match="column 'normal' has type <U1, expected numbers as in the reference"):
        state.update(table | {"normal": np.full(50, "x")})
    assert bits(state) == before
    with pytest.raises(TypeError, match="column 'z' has type complex128, expected numbers, strings, booleans, dates"):
        drift.fit({"z": np.zeros(3, complex)})
    with pytest.raises(TypeError, match=r"column 'normal' has type datetime64\[s\], expected numbers as in the ref"):
        state.update(table | {"normal": np.zeros(50, "datetime64[s]")})
    with pytest.raises(ValueError, match="`reference` has no rows"):
        drift.fit(np.zeros((0, 2)))
    with pytest.raises(ValueError, match="`spacing` is 'equal', expected one of quantile, width"):
        drift.fit(table, spacing="equal")
    with pytest.raises(ValueError, match="expected at least two rising finite edges"):
        drift.fit(np.arange(9.0), bins=[3.0, 1.0])
    with pytest.raises(ValueError, match="`bins` is 0 for column '0', expected a positive integer"):
        drift.fit(np.arange(9.0), bins=0)
    with pytest.raises(ValueError, match="`bins` is 'knuth', expected a number, edges or one of auto"):
        drift.fit(np.arange(9.0), bins="knuth")
    with pytest.raises(ValueError, match="`reference` has no column 'z', expected one of normal"):
        drift.fit(table, columns=["z"])
    with pytest.raises(ValueError, match="`other` has other cells in column 'normal'"):
        state.merge(drift.fit(mixed_table(60, 2)))
    with pytest.raises(ValueError, match=r"`batch` has columns of shapes \[\(2,\), \(3,\)\]"):
        state.update({"normal": np.zeros(2), "single": np.zeros(3)})
    with pytest.raises(ValueError, match="`missing` is 'ignore', expected one of drop, bin"):
        state.report(missing="ignore")
    with pytest.raises(ValueError, match="`band_metric` is 'mean'"):
        state.report(band_metric="mean")


def test_report_as_text_and_lists():
    state = drift.fit(RNG(1).normal(size=(100, 40)))
    state.update(RNG(2).normal(size=(100, 40)))
    report = state.report(smoothing="laplace", bands=(0.0, 0.0), band_metric="tv", alpha=1.0)
    assert set(report.band) == {"act"}
    text = str(report)
    assert text.splitlines()[0].split() == ["column", "band", "psi", "noise", "ks", "W1/sd", "q", "missing", "alarm"]
    assert "... and 10 more" in text and "smoothing: laplace" in text
    worst = report.column[np.argmax(report.psi)]
    assert text.splitlines()[1].split()[0] == worst
    assert all(len(values) == 40 for values in report.to_dict().values())


def test_importing_does_not_import_numba():
    code = "import sys, kullback.drift, kullback.samples; sys.exit(bool({'numba', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
