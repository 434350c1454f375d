"""Sizes on the page and acceptance: KL against size with the frontier, what `compare --size` takes, pictures of what
speculative decoding refuses."""

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from itertools import combinations

import numpy as np
import pytest

import kullback as kb
from kullback.cli import main
from kullback.comparison import share_text
from kullback.evaluation.job import compare_candidates
from kullback.evaluation.report import drawings, render_report
from kullback.evaluation.report.frontier import size_picture
from kullback.evaluation.table import read_table
from kullback.evaluation.table.sizes import ModelSize

T, V = 300, 16
NOISE = {"a": 0.02, "b": 0.05, "c": 0.3, "d <&>": 0.31, "e": 1.0, "f": 1.1, "g": 1.2, "h": 2.0}
SIZES = {"a": 9e9, "b": 8e9, "c": 8.5e9, "d <&>": 4e9, "e": 3e9, "f": 3.5e9, "g": 2.9e9}  # h has none


@pytest.fixture(scope="module")
def found():
    rng = np.random.default_rng(8)
    p = rng.normal(0, 2, (T, V))
    noise = rng.normal(size=p.shape)
    return compare_candidates(p, {name: p + x * noise for name, x in NOISE.items()}, groups=np.arange(T) // 10)


def picture(found, statistic="kl.mean", sizes=SIZES):
    sizes = {name: ModelSize(int(size)) for name, size in sizes.items()}
    return size_picture(found, found.ranking(), sizes, statistic)


def dots(svg):
    """Where the point of each candidate is, by its name."""
    root = ElementTree.fromstring(svg)
    return {
        dot[0].text.rpartition(", ")[0]: (float(dot.get("cx")), float(dot.get("cy"))) for dot in root.iter("circle")
    }


@pytest.mark.parametrize(("statistic", "level"), [("kl.mean", None), ("kl.p99", 0.99), ("kl.median", 0.5)])
def test_the_frontier_is_what_nothing_beats(found, statistic, level):
    value = {name: found[name].kl.mean if level is None else found[name].kl.quantile(level) for name in SIZES}
    best = {
        name
        for name in SIZES
        if not any(SIZES[x] <= SIZES[name] and value[x] <= value[name] for x in SIZES if x != name)
    }
    drawn = picture(found, statistic)
    assert 2 < len(best) < len(SIZES)
    assert set(drawn.best) == best
    assert list(drawn.best) == sorted(best, key=SIZES.get)
    assert drawn.left_out == ("h",)
    at = dots(drawn.drawing)
    for a, b in combinations(SIZES, 2):  # larger is further right, further is higher up
        assert (at[a][0] - at[b][0]) * (SIZES[a] - SIZES[b]) > 0
        assert (at[a][1] - at[b][1]) * (value[a] - value[b]) < 0
    (line,) = ElementTree.fromstring(drawn.drawing).iter("polyline")
    points = [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]
    assert points == [at[name] for name in drawn.best]


def test_names_stand_beside_their_points_and_touch_nothing(found):
    drawn = picture(found)
    root = ElementTree.fromstring(drawn.drawing)
    at, boxes = dots(drawn.drawing), {}
    for text in root.iter("text"):
        if text.get("class") == "name":
            x, width = float(text.get("x")), 9.6 * len(text.text)
            left = x - width * {"start": 0, "middle": 0.5, "end": 1}[text.get("text-anchor")]
            bottom = float(text.get("y")) + 4
            boxes[text.text] = (left, bottom - 17, left + width, bottom)
    assert set(boxes) | set(drawn.unlabelled) == set(SIZES)
    assert len(boxes) > 4
    for a, b in combinations(boxes.values(), 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    for left, top, right, bottom in boxes.values():
        assert not any(left < x < right and top < y < bottom for x, y in at.values())


def test_sizes_far_apart_and_equal_ones_are_drawn(found):
    wide = dots(picture(found, sizes={"a": 1e12, "b": 1e9, "c": 1e6}).drawing)
    assert wide["b"][0] - wide["c"][0] == pytest.approx(wide["a"][0] - wide["b"][0], abs=0.2)  # logarithmic
    equal = picture(found, sizes={"a": 5e9, "b": 5e9})
    assert equal.best == ("a",)
    assert len(dots(equal.drawing)) == 2
    assert picture(found, sizes={"a": 5e9}).drawing == ""


def test_the_page_says_at_which_size(found):
    page = render_report(found, sizes=SIZES | {"a": ModelSize(9_000_000_000, 10**9)}, frontier="kl.p99")
    assert "99 % quantile of KL(p‖q) against size; on the frontier" in page
    assert re.search(r"9.00 GB ★?<small>72 bits a weight</small>", page)
    assert "Not drawn, without a size or a KL above 0: h." in page
    assert page.count("★") == 1 + len(picture(found, "kl.p99").best)
    with pytest.raises(ValueError, match=r"`frontier` is 'kl\.p50'"):
        render_report(found, frontier="kl.p50")
    alone = render_report(compare_candidates(np.eye(3), {"q": 2 * np.eye(3)}), sizes={"q": 4e9})
    assert "<b>4.00 GB</b>" in alone
    assert "against size" not in alone


def test_compare_takes_sizes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    p = rng.normal(size=(60, 9))
    for name, noise in (("p", 0), ("near", 1e-3), ("far", 0.5)):
        np.save(f"{name}.npy", p + noise * rng.normal(size=p.shape))
    (tmp_path / "model.bin").write_bytes(bytes(5000))
    files = ["p.npy", "near.npy", "far.npy", "--quiet"]
    sizes = ["--size", "near=model.bin", "--size", "far.npy=4kB"]
    log = ["--checkpoint", "job.log"]
    assert (
        main(["compare", *files, *sizes, *log, "--html", "r.html", "--markdown", "r.md", "--frontier", "kl.p90"]) == 0
    )
    out = capsys.readouterr().out
    assert re.search(r"near.npy +5.00 kB", out)
    assert "near.npy, which is the only one" in out
    assert (
        "90 % quantile of KL(p‖q) against size; on the frontier far.npy, near.npy" in (tmp_path / "r.html").read_text()
    )
    assert r"5.00 kB\*" in (tmp_path / "r.md").read_text()
    assert main(["merge", "job.log", *sizes, "--html", "m.html"]) == 0
    assert "mean KL(p‖q) against size; on the frontier far.npy, near.npy" in (tmp_path / "m.html").read_text()
    capsys.readouterr()
    for given, words in (
        (["--size", "q7=1GB"], "'q7', which is none of the candidates near.npy, far.npy"),
        (["--size", "near=1GB", "--size", "near=2GB"], "given twice"),
        (["--size", "near=nothing.gguf"], "no such file"),
        (["--size", "near=model.bin", "--html", "model.bin", "--force"], "model.bin"),
    ):
        assert main(["compare", *files, *given, "--checkpoint", "never.log"]) == 2
        assert words in capsys.readouterr().err
        assert not (tmp_path / "never.log").exists()  # before any work
    assert (tmp_path / "model.bin").read_bytes() == bytes(5000)


def test_results_keep_the_sizes(tmp_path, monkeypatch, capsys):
    """So that `kullback table` knows them; what is given there comes before."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    p = rng.normal(size=(60, 9))
    for name, noise in (("p", 0), ("near", 1e-3), ("far", 0.5)):
        np.save(f"{name}.npy", p + noise * rng.normal(size=p.shape))
    sizes = ["--size", "near=8GB", "--size", "far=4GB", "--parameters", "8000000000"]
    assert main(["compare", "p.npy", "near.npy", "far.npy", "--quiet", *sizes, "--json", "r.json"]) == 0
    assert main(["compare", "p.npy", "far.npy", "--quiet", "--size", "far=4GB", "--json", "one.json"]) == 0
    capsys.readouterr()
    rows = {row.name: row for row in read_table(["r.json"], sizes={"far": 5_000_000_000}).rows}
    assert rows["near.npy"].size == ModelSize(8_000_000_000, 8_000_000_000)
    assert rows["far.npy"].size == ModelSize(5_000_000_000)
    assert read_table(["one.json"]).rows[0].size == ModelSize(4_000_000_000)
    assert main(["compare", "p.npy", "far.npy", "--quiet", "--json", "one.json"]) == 0  # one of ours is replaced
    for wrong in ({"bytes": -1}, {"bytes": 1.5}, {"bytes": True}, 7, {"bytes": 3, "parameters": "x"}):
        tree = json.loads((tmp_path / "one.json").read_text()) | {"size": wrong}
        (tmp_path / "wrong.json").write_text(json.dumps(tree))
        assert read_table(["wrong.json"]).rows[0].size is None


def test_acceptance_by_confidence_and_position_is_that_of_the_rows():
    rng = np.random.default_rng(4)
    p = rng.normal(0, 3, (T, V))
    q = p + rng.normal(0, 0.4, p.shape)
    (s,) = compare_candidates(p, {"q": q}, groups=np.arange(T) // 10).values()
    accepted = kb.compare(p, q).acceptance
    chances = np.exp(p - p.max(1, keepdims=True))
    top = (chances / chances.sum(1, keepdims=True)).max(1)
    parts = s.parts["by_confidence"]
    for key, means in parts.bins.items():
        low, high = (float(end) for end in parts.labels[key].split("-"))
        inside = (low <= top) & ((top < high) | (high == 1))
        assert means["acceptance"].mean == pytest.approx(accepted[inside].mean(), rel=1e-12)
    for key, means in s.parts["by_position"].bins.items():
        assert means["acceptance"].mean == pytest.approx(accepted[key::10].mean(), rel=1e-12)
    by_position = s.to_dict()["by_position"]
    assert by_position[3]["acceptance"]["mean"] == s.parts["by_position"].bins[3]["acceptance"].mean
    page = render_report([s])
    for means in parts.bins.values():
        assert share_text(means["acceptance"].mean) in page
    titles = re.findall(r"<title>q?.*?([0-9.]+) \((\d+) tokens\)", drawings.acceptance_by_position([s], ["q"]))
    assert [float(x) for x, _ in titles] == [float(f"{100 * (1 - accepted[i::10].mean()):.3g}") for i in range(10)]


def test_the_histogram_of_acceptance_holds_every_token(found):
    for name in ("a", "h"):
        s = found[name]
        svg = drawings.acceptance_distribution([s], [name])
        polygon = next(ElementTree.fromstring(svg).iter("polygon"))
        points = [tuple(map(float, pair.split(","))) for pair in polygon.get("points").split()]
        ticks = [t for t in ElementTree.fromstring(svg).iter("text") if t.get("text-anchor") == "end"]
        top = max(ticks, key=lambda t: float(t.text))
        scale = float(top.text) / (points[0][1] - (float(top.get("y")) - 4))
        steps = points[1:-1]
        assert sum(points[0][1] - y for _, y in steps[::2]) * scale == pytest.approx(100, abs=1)
        # half of the tokens are left of the median
        left, right, first = 74.0, 614.0, -(len(steps) // 2) / 8
        middle = left + (right - left) * (math.log10(1 - s.acceptance.median) - first) / -first
        before = sum(
            points[0][1] - y for (x, y), (stop, _) in zip(steps[::2], steps[1::2], strict=True) if stop <= middle
        )
        upto = sum(points[0][1] - y for x, y in steps[::2] if x <= middle)
        assert before * scale <= 51
        assert upto * scale >= 49
