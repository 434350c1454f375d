"""Labels on the page: a table of labels and candidates for each set, worst first, and a drawing of it."""

import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import numpy as np
import pytest

from kullback.comparison import share_text
from kullback.evaluation.job import compare_candidates
from kullback.evaluation.report import render_report
from kullback.evaluation.report.by_label import label_sections
from kullback.evaluation.report.frame import log_ticks
from kullback.evaluation.text import short

T, V = 400, 20


@pytest.fixture(scope="module")
def found():
    rng = np.random.default_rng(5)
    p = rng.normal(0, 3, (T, V))
    groups = np.arange(T) // 10
    domain = np.array(["code", "<math>", "prose"])[groups % 3]
    noise = np.where(domain == "code", 0.5, 0.1)[:, None] * rng.normal(size=p.shape)
    rare = np.where(groups == 7, "rare", "common")
    by = {"domain": domain, "how often": rare}
    return compare_candidates(p, {"far": p + noise, "near": p + noise / 10}, groups=groups, by=by)


def cells(page, title):
    """The rows of a table of the page, tags taken out."""
    table = re.search(rf'aria-label="{title}"[^>]*>(<table.*?</table>)', page, re.S)[1]
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.S)
    return [
        [re.sub("<[^>]*>", " ", cell).split("  ") for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in rows
    ]


def test_a_row_a_label_and_a_column_a_candidate(found):
    page = render_report(found)
    head, *rows = (["".join(cell) for cell in row] for row in cells(page, "By domain"))
    assert [x.strip() for x in head[3:]] == ["near: KL(p‖q)", "same top", "far: KL(p‖q)", "same top"]
    assert [row[0].strip() for row in rows] == sorted(
        ["code", "&lt;math&gt;", "prose"],
        key=lambda name: -found["far"].by["domain"][name.replace("&lt;", "<").replace("&gt;", ">")].kl.mean,
    )
    for label, *row in rows:
        name = label.strip().replace("&lt;", "<").replace("&gt;", ">")
        assert row[0].strip() == str(found["far"].by["domain"][name].tokens)
        for i, candidate in enumerate(("near", "far")):
            s = found[candidate].by["domain"][name]
            low, high = s.kl.group_interval()
            assert short(s.kl.mean) in row[2 + 2 * i]
            assert f"{short(low, 3)} to {short(high, 3)}" in row[2 + 2 * i]
            assert row[3 + 2 * i].strip() == share_text(s.same_top1.mean)


def test_a_label_of_one_document_has_no_interval(found):
    sections = label_sections({"far": found["far"]}, ["far"], 6)
    of = {row.label: row.cells[0] for row in sections[1].rows}
    assert of["rare"].interval is None
    assert of["common"].interval is not None


def test_every_candidate_of_every_label_is_drawn_with_its_interval(found):
    for section in label_sections(found, ["near", "far"], 6):
        root = ElementTree.fromstring(section.drawing)
        assert section.drawn == len(section.rows)
        assert len(list(root.iter("circle"))) == 2 * len(section.rows)
        _, _, width, height = (float(x) for x in root.get("viewBox").split())
        spans = [line for line in root.iter("line") if line.get("class").startswith("line")]
        assert len(spans) == 2 * len(section.rows)
        for span, dot in zip(spans, root.iter("circle"), strict=True):
            assert 0 <= float(span.get("x1")) <= float(dot.get("cx")) <= float(span.get("x2")) <= width
            assert 0 <= float(dot.get("cy")) <= height
        heights = sorted(float(dot.get("cy")) for dot in root.iter("circle"))
        assert min(b - a for a, b in pairwise(heights)) > 8


def test_where_the_candidates_differ_is_that_of_the_comparison(found):
    page = render_report(found)
    rows = [["".join(cell).strip() for cell in row] for row in cells(page, "Differences of mean KL by domain")[1:]]
    tests = {test.label: test for test in found.tests([("far", "near")], by="domain")}
    assert len(rows) == 3
    for label, high, low, mean, ends, _ in rows:
        test = tests[label.replace("&lt;", "<").replace("&gt;", ">")]
        assert (high, low) == ("far", "near")
        assert mean == short(test.difference.mean, 3)
        start, stop = test.difference.interval()
        assert ends == f"{short(start, 3)} to {short(stop, 3)}"
    assert "3 of 3 questions, pairs times labels, told from chance at 5 % (Holm)" in page
    assert "Differences of mean KL by" not in render_report(found.summaries)


def test_many_labels_are_cut_and_said_to_be():
    rng = np.random.default_rng(2)
    p = rng.normal(0, 2, (1200, 8))
    labels = np.array([f"l{i:03}" for i in range(120)])[np.arange(1200) % 120]
    page = render_report(compare_candidates(p, {"q": p + 0.1 * rng.normal(size=p.shape)}, by={"topic": labels}))
    assert "20 further labels have less KL; the JSON has them all" in page
    assert "The 15 labels with the greatest KL are drawn" in page
    assert len(cells(page, "By topic")) == 101
    assert "Intervals take tokens as independent" in page


def test_what_is_equal_has_a_table_and_no_drawing():
    p = np.random.default_rng(2).normal(0, 2, (40, 8))
    same = compare_candidates(p, {"q": p}, by={"half": np.arange(40) % 2})
    (section,) = label_sections(same, ["q"], 6)
    assert (section.drawing, section.drawn, len(section.rows)) == ("", 0, 2)
    assert "are drawn" not in render_report(same)


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [(0.011, 0.18, ["0.01", "0.02", "0.05", "0.1", "0.2"]),
     (3e-9, 0.5, ["10^-9", "10^-7", "10^-5", "0.001", "0.1", "10"]),
     (0.02, 0.02, ["0.02", "0.05"]), (2e-5, 4e-5, ["2·10^-5", "5·10^-5"])],
)  # fmt: skip
def test_ticks_of_a_logarithmic_scale_enclose_what_is_drawn(low, high, texts):
    ticks = log_ticks(low, high)
    assert [text for _, text in ticks] == texts
    assert ticks[0][0] <= low
    assert high <= ticks[-1][0]
