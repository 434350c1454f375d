"""What drift alarms on and what it leaves alone; states and reports that travel as text."""

import html.parser
import json

import numpy as np
import pytest
from scipy import stats

from kullback import drift
from kullback.drift.significance import adjusted, missing_test, pooled_cells, unseen_test, value_tests

RNG = np.random.default_rng


def report_of(reference, current, fit=None, **options):
    state = drift.fit(reference, **(fit or {}))
    state.update(current)
    return state.report(**options)


def zipf(rng, n, categories=200):
    weights = 1.0 / np.arange(1, categories + 1)
    return rng.choice(categories, n, p=weights / weights.sum()).astype(str)


def test_rare_categories_do_not_alarm():
    """Once PSI = inf and "act" in every run: 10,000 against 1,000 rows of a Zipf column of 200 categories."""
    for seed in range(20):
        report = report_of({"c": zipf(RNG(seed), 10_000)}, {"c": zipf(RNG(seed + 100), 1000)})
        assert np.isfinite(report.psi[0]) and report.band[0] == "stable" and report.alarm[0] == ""
        assert report.psi[0] == pytest.approx(report.psi_noise[0], rel=0.5)


def test_bands_know_the_number_of_values():
    """PSI of 50 values in ten bins is 0.2 on average without drift: the usual bands, less that."""
    psi = []
    for seed in range(40):
        report = report_of(RNG(seed).normal(size=5000), RNG(seed + 100).normal(size=50))
        psi.append(report.psi[0])
        assert report.band[0] == "stable"
    assert np.mean(np.array(psi) > 0.1) > 0.8 and np.mean(psi) == pytest.approx(report.psi_noise[0], rel=0.25)


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("numbers", lambda rng, n, k: np.arange(k * n, (k + 1) * n)),
        ("shuffled", lambda rng, n, k: rng.permutation(np.arange(k * n, (k + 1) * n)).astype(float)),
        ("text", lambda rng, n, k: np.array([f"{k}-{i}" for i in range(n)])),
        ("clock", lambda rng, n, k: np.datetime64("2026-01-01", "s") + np.arange(k * n, (k + 1) * n)),
    ],
)
def test_identifiers_do_not_alarm_but_for_missing_ones(kind, make):
    rng = RNG(0)
    reference, current = make(rng, 1000, 0), make(rng, 1000, 1)
    report = report_of({"id": reference}, {"id": current})
    assert report.kind[0] == "identifier" and report.band[0] == "stable" and np.isnan(report.psi[0])
    assert "identifier" not in report_of({"id": reference}, {"id": current}, {"identifiers": ()}).kind
    missing = {"text": None, "clock": np.datetime64("NaT")}.get(kind, np.nan)
    holes = current.astype(object if kind == "text" else current.dtype if kind == "clock" else float)
    holes[:300] = missing
    report = report_of({"id": reference}, {"id": holes})
    assert report.band[0] == "act" and report.alarm[0] == "missing"


def test_what_is_no_identifier():
    rng = RNG(0)
    table = {
        "wide": rng.integers(0, 10**9, 5000),  # too few draws to meet
        "float": np.sort(rng.normal(size=5000)),
        "count": rng.integers(0, 50, 5000),
        "text": rng.choice(list("abc"), 5000),
        "dates": np.datetime64("2026-01-01") + rng.integers(0, 365, 5000).astype("m8[D]"),
    }
    assert report_of(table, table).kind.tolist() == ["numeric", "numeric", "numeric", "categorical", "datetime"]
    assert report_of(table, table, {"identifiers": ["wide"]}).kind.tolist()[0] == "identifier"


def test_missing_rates_alarm():
    """Once "stable" for 1 % to 50 % missing."""
    x, y = RNG(0).normal(size=10_000), RNG(1).normal(size=10_000)
    sides = [np.where(RNG(2).random(10_000) < share, np.nan, z) for share, z in ((0.01, x), (0.5, y))]
    report = report_of(*sides)
    assert report.band[0] == "act" and report.alarm[0] == "missing" and report.g_test_p_value[0] > 0.01
    assert report.missing_psi[0] == pytest.approx(2.25, abs=0.1)
    report = report_of(x, np.full(100, np.nan))
    assert report.band[0] == "act" and np.isnan(report.psi[0])
    report = report_of(x, sides[0], band_metric="tv", bands=(0.05, 0.2))
    assert report.band[0] == "shifted" and report.alarm[0] == "missing"  # significant, and small


def test_what_alarms_is_never_stable():
    """Once "stable" in all of 60 runs of which 53 alarmed: 0.24 of PSI in rare categories, most of it half counts."""
    weights = 1.0 / np.arange(1, 201) ** 1.3
    alarms = 0
    for seed in range(12):
        rng = RNG(seed)
        reference, current = zipf(rng, 10_000), rng.choice(200, 500, p=weights / weights.sum()).astype(str)
        report = report_of({"c": reference}, {"c": current})
        assert (report.band[0] == "stable") == (report.alarm[0] == "")
        assert (report.band[0] == "watch") == (report.alarm[0] != "")  # the noise is 0.1 and more: no size is known
        alarms += report.alarm[0] != ""
    assert alarms >= 8
    x, y = RNG(0).normal(size=20_000), RNG(1).normal(0.1, 1, 20_000)
    report = report_of(x, y)
    assert report.psi[0] < 0.02 and report.band[0] == "shifted" and report.alarm[0] == "values, shape"
    assert report_of(x, y, alpha=1.0).band[0] == "stable"  # by size alone
    few = report_of(x, np.where(RNG(2).random(20_000) < 0.003, np.nan, x), {"bins": 2})
    assert few.band[0] == "shifted" and few.alarm[0] == "missing"
    assert report.to_html().count(">shifted<") == 1 and json.loads(report.to_json())["band_metric"] == "psi"


def test_the_text_says_what_bands_are():
    x, y = RNG(0).normal(size=2000), RNG(1).normal(1, 1, 2000)
    text = str(report_of({"x": x}, {"x": y}))
    assert "act: beyond chance, psi less noise is 0.25 or more. watch: 0.1 or more" in text
    assert "stable: as chance" in text and max(map(len, text.splitlines())) <= 110
    text = str(report_of({"x": x}, {"x": y}, band_metric="tv", bands=(0.05, 0.3)))
    assert "tv is 0.3 or more. watch: 0.05 or more" in text
    own = report_of({"x": x, "y": x**2}, {"x": y, "y": y}, {"chunks": 10}, bands="reference")
    assert "less noise is act_from or more. watch: watch_from or more" in str(own)


def test_bins_are_those_that_hold_something():
    """Once four of three categories: the bin of rare ones was counted although there were none."""
    three = {"c": np.repeat(list("abc"), 100)}
    assert report_of(three, three).bins[0] == 3 and report_of(three, three).empty_reference[0] == 0
    rare = {"c": np.append(three["c"], ["d", "e"])}
    assert report_of(three, rare).bins[0] == 4 and report_of(three, rare).empty_reference[0] == 1
    assert report_of(three, three, missing="bin").bins[0] == 3
    holes = {"c": np.append(three["c"].astype(object), [None] * 30)}
    assert report_of(three, holes, missing="bin").bins[0] == 4


def test_unseen_categories_alarm():
    rng = RNG(0)
    reference, current = zipf(rng, 10_000), zipf(rng, 1000)
    current[rng.random(1000) < 0.05] = "new"
    report = report_of({"c": reference}, {"c": current})
    assert report.band[0] != "stable" and "unseen" in report.alarm[0] and report.unseen_p_value[0] < 1e-12
    assert report.unseen[0] == np.count_nonzero(~np.isin(current, reference))
    many = current.astype(object)
    many[:50] = [f"new {i}" for i in range(50)]  # each of them once
    assert "unseen" in report_of({"c": reference}, {"c": many}).alarm[0]


def test_more_values_than_are_counted_each(monkeypatch):
    monkeypatch.setattr("kullback.drift.counting._MOST_OTHERS", 50)
    reference = np.repeat(np.array(list("abcd")), 500)
    current = np.array([f"v{i}" for i in range(60)])
    parts = [drift.fit({"c": reference}) for _ in range(2)]
    parts[0].update({"c": current[:30]})
    parts[1].update({"c": current[30:]})
    parts[0].merge(parts[1])
    whole = drift.fit({"c": reference})
    whole.update({"c": current})
    assert whole.current.others["c"] is None is parts[0].current.others["c"]
    assert whole.report().band[0] == "act" and whole.report().unseen[0] == 60


def test_false_discoveries_are_a_share_of_all():
    """200 columns, 20 of them moved: the moved ones are found, and of those found few are not."""
    found, false = 0, 0
    for seed in range(5):
        reference, current = RNG(seed).normal(size=(2000, 200)), RNG(seed + 50).normal(size=(2000, 200))
        current[:, :20] += 0.5
        alarm = report_of(reference, current, alpha=0.05).alarm != ""
        found, false = found + alarm[:20].sum(), false + alarm[20:].sum()
    assert found == 100 and false <= 12  # 5 % of 105 and three standard deviations
    p = RNG(0).random(50) ** 2
    np.testing.assert_allclose(adjusted(p), stats.false_discovery_control(p), rtol=1e-12)
    assert np.isnan(adjusted(np.array([0.5, np.nan]))[1]) and adjusted(np.array([0.5, np.nan]))[0] == 0.5


def test_p_values_against_scipy():
    assert missing_test(3, 100, 9, 100) == pytest.approx(2 * stats.fisher_exact([[3, 97], [9, 91]], "less").pvalue)
    assert missing_test(300, 1000, 350, 1000) == pytest.approx(
        stats.chi2_contingency([[300, 700], [350, 650]], lambda_="log-likelihood", correction=False).pvalue
    )
    assert missing_test(0, 10, 0, 10) == missing_test(10, 10, 10, 10) == 1.0
    # by permutation: the exact law of two bins
    r, c = np.array([18, 12]), np.array([9, 21])
    exact = stats.fisher_exact([r, c]).pvalue
    assert value_tests(r, c, None, [0]).g == pytest.approx(exact, abs=3 * np.sqrt(exact / 800))  # of so many draws
    # one category of k values, unseen in the reference: (m/(n + m))^k
    assert unseen_test(4, np.array([4]), 100, 100, [0]) == pytest.approx(1 / 16, abs=0.02)
    assert unseen_test(30, np.array([30]), 100, 100, [0]) == pytest.approx(0.5**30, rel=0.01)
    r, c = pooled_cells(np.array([9, 1, 0, 4, 2]), np.array([9, 1, 3, 1, 7]))
    assert r.tolist() == [4, 2, 9, 1] and c.tolist() == [1, 7, 9, 4]


def test_ks_sees_what_bins_do_not():
    """A small shift of the mean: the likelihood ratio of ten bins spends its power on nine degrees of freedom."""
    ks, g = np.array(
        [
            [
                (r := report_of(RNG(s).normal(size=4000), RNG(s + 99).normal(0.09, 1, 2000))).ks_p_value[0],
                r.g_test_p_value[0],
            ]
            for s in range(30)
        ]
    ).T
    assert np.mean(ks < 0.01) > np.mean(g < 0.01) > 0


def test_limits_from_the_reference_itself():
    """Days that differ from each other: a batch like another day is within them, one beyond is not."""
    rng = RNG(0)
    days = rng.normal(0, 0.5, 20)
    reference = np.concatenate([rng.normal(day, 1, 500) for day in days])
    state = drift.fit(reference, chunks=20)
    assert len(state.chunks) == 20 and sum(chunk.rows for chunk in state.chunks) == 10_000
    typical, beyond = state.window(), state.window()
    typical.update(rng.normal(0.6, 1, 500))
    beyond.update(rng.normal(3.0, 1, 500))
    assert typical.report().band[0] != "stable"  # by the usual bands
    report = typical.report(bands="reference")
    assert report.band[0] == "stable" and report.watch_from[0] > 0.25
    assert report.act_from[0] == pytest.approx(2.5 * report.watch_from[0])
    assert beyond.report(bands="reference").band[0] == "act"
    with pytest.raises(ValueError, match="`bands` is 'reference', expected two numbers for a state fitted without"):
        drift.fit(reference).report(bands="reference")


def test_dates():
    rng = RNG(0)
    day = np.datetime64("2026-01-01", "s")
    reference = day + rng.integers(0, 86_400 * 100, 5000).astype("m8[s]")
    late = reference + np.timedelta64(30, "D")
    report = report_of({"when": reference}, {"when": late})
    assert report.kind[0] == "datetime" and report.band[0] == "act" and "shape" in report.alarm[0]
    assert report.wasserstein[0] == pytest.approx(30 * 86_400, rel=1e-2)
    plain = drift.fit({"when": reference})
    for unit in ("us", "ns", "ms"):
        other = drift.fit({"when": reference.astype(f"M8[{unit}]")})
        assert (other.reference.by_column["when"] == plain.reference.by_column["when"]).all()
    holes = np.append(late, np.datetime64("NaT"))
    assert report_of({"when": reference}, {"when": holes}).missing_current[0] == 1
    spans = {"span": rng.integers(0, 1000, 500).astype("m8[m]")}
    assert drift.fit(spans).reference.extremes["span"].max() <= 60_000
    for early in (np.array(["1969-12-31T23:59:59.999999999"], "M8[ns]"), np.array(["0001-01-01"], "M8[D]")):
        seconds = drift.fit({"t": early}).reference.extremes["t"][0]
        assert seconds == early.astype("M8[us]").astype(np.int64)[0] / 1e6


def test_time_chunks():
    rng = RNG(0)
    start = np.datetime64("2026-03-01", "s")
    when = start + rng.integers(0, 10 * 86_400, 5000).astype("m8[s]")
    x = rng.normal(size=5000) + 2.0 * (when >= start + np.timedelta64(7, "D"))
    state = drift.fit({"x": rng.normal(size=5000)})
    days = state.by_time({"x": x, "when": when}, "when", "1d")
    assert list(days) == [start + np.timedelta64(day, "D") for day in range(10)]
    assert [window.report().band[0] for window in days.values()] == ["stable"] * 7 + ["act"] * 3
    assert sum(window.current.rows for window in days.values()) == 5000 and state.current.rows == 0
    weeks = list(state.by_time({"x": x, "when": when}, "when", "1w"))
    assert [week.astype("M8[D]").astype(object).weekday() for week in weeks] == [0] * len(weeks)
    for error, call, named in (
        (ValueError, lambda: state.by_time({"x": x, "when": when}, "day", "1d"), "the batch has no column 'day'"),
        (ValueError, lambda: state.by_time({"x": x, "when": when}, "when", "1 day"), "`every` is '1 day'"),
        (TypeError, lambda: state.by_time({"x": x}, "x", "1d"), "column 'x' has type float64, expected dates"),
        (ValueError, lambda: state.by_time({"x": x[:1], "w": np.array(["NaT"], "M8[s]")}, "w", "1d"), "missing dates"),
    ):
        with pytest.raises(error, match=named):
            call()


def mixed():
    rng = RNG(5)
    return {
        "x": np.where(rng.random(300) < 0.1, np.nan, rng.normal(size=300)),
        "when": np.datetime64("2026-01-01") + rng.integers(0, 99, 300).astype("m8[D]"),
        "c": rng.choice(np.array(["a", "ä\n", "", None], object), 300),
        "odd": rng.choice(np.array([1.5, b"x", 2**70, np.datetime64("2026-01-01").item()], object), 300),
        "flag": rng.random(300) < 0.3,
        "id": np.arange(300),
    }


def test_states_are_saved_as_json(tmp_path):
    state = drift.fit(mixed(), chunks=3, max_categories=2)
    state.update({**mixed(), "x": np.append(RNG(0).normal(size=299), np.inf)})
    state.save(tmp_path / "state.json")
    again = drift.load(tmp_path / "state.json")
    assert repr(again.report().to_dict()) == repr(state.report().to_dict())
    assert repr(again.report(bands="reference").to_dict()) == repr(state.report(bands="reference").to_dict())
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "state.json").read_bytes()
    again.merge(state)
    assert again.current.rows == 600 and {file.name for file in tmp_path.iterdir()} == {"state.json", "again.json"}
    with pytest.raises(TypeError, match=r"column 'c' has the category .*, expected text, numbers"):
        drift.fit({"c": np.array([frozenset()] * 3, object)}).save(tmp_path / "never.json")


def test_damaged_states_are_refused(tmp_path):
    path = tmp_path / "state.json"
    drift.fit(mixed()).save(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    rng = RNG(0)
    for damage in (
        lambda c: c.update(version=2),
        lambda c: c["reference"]["by_column"].update(x=[1, 2]),
        lambda c: c["reference"]["by_column"]["x"].__setitem__(3, -1),
        lambda c: c["reference"]["by_column"]["x"].__setitem__(3, 0.5),
        lambda c: c["cells"][0]["edges"].reverse(),
        lambda c: c["cells"][0].pop("unit"),
        lambda c: c["cells"][0].update(bins=[0]),
        lambda c: c["current"]["others"].update(c=3),
    ):
        damaged = json.loads(json.dumps(content))
        damage(damaged)
        path.write_text(json.dumps(damaged), encoding="utf-8")
        with pytest.raises(ValueError, match="`path` holds no drift state of version 1"):
            drift.load(path)
    text = json.dumps(content)
    for _ in range(50):
        path.write_text(text[: rng.integers(0, len(text))], encoding="utf-8")
        with pytest.raises(ValueError, match="`path` holds no drift state of version 1"):
            drift.load(path)


def test_reports_as_json_and_html():
    state = drift.fit({**mixed(), "<b>": np.arange(300.0) ** 0.5})
    state.update({**mixed(), "<b>": np.full(300, np.inf)})
    report = state.report()
    content = json.loads(report.to_json())
    assert [row["column"] for row in content["columns"]] == report.column.tolist()
    last = content["columns"][-1]
    assert last["wasserstein"] == "inf" and last["band"] == "act" and last["unseen_p_value"] is None
    assert content["alpha"] == 0.01 and last["psi"] == report.psi[-1]
    page = report.to_html()
    tags = []
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append(tag)
    parser.feed(page)
    assert tags.count("tr") == 8 and "b" not in tags and "&lt;b&gt;" in page
    assert "http" not in page and "<script" not in page
    assert page.index("&lt;b&gt;") < page.index(">flag<")  # what drifts comes first


def frames(table):
    pandas, polars, pyarrow = (pytest.importorskip(name) for name in ("pandas", "polars", "pyarrow"))
    arrays = {name: pyarrow.array(column, from_pandas=True) for name, column in table.items()}
    yield pandas.DataFrame(table)
    yield polars.DataFrame(pyarrow.table(arrays))
    yield pyarrow.table(arrays)


@pytest.mark.integration
def test_pandas_polars_and_arrow_agree(tmp_path):
    """Numbers, categories, missing values, dates, bools and text: the same states and reports."""
    table = mixed()
    del table["odd"]
    table["when"] = table["when"].astype("M8[us]")
    table["n"] = RNG(0).integers(0, 1000, 300)
    texts = set()
    for frame in frames(table):
        state = drift.fit(frame, chunks=2)
        state.update(frame)
        texts.add((state.report().to_json(), state.report(bands="reference").to_json()))
        days = state.by_time(frame, "when", "7d")
        texts.add("".join(window.report().to_json() for window in days.values()))
    assert len(texts) == 2
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    zoned = pandas.Series(table["when"]).dt.tz_localize("UTC").dt.tz_convert("Europe/Berlin")
    state = drift.fit({"when": table["when"]})
    for frame in (
        pandas.DataFrame({"when": zoned}),
        polars.DataFrame({"when": table["when"]}).with_columns(polars.col("when").dt.replace_time_zone("UTC")),
    ):
        assert (drift.fit(frame).reference.by_column["when"] == state.reference.by_column["when"]).all()
