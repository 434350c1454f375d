"""What summaries are written as from Python: pages, Markdown, the tables of notebooks."""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

import kullback as kb
from kullback.evaluation.report import render_report
from kullback.evaluation.table import table_of

RNG = np.random.default_rng(0)
P = RNG.normal(0, 2, (60, 12))
Q = {"far <b>\n": P + RNG.normal(size=P.shape), "near": P + 0.01 * RNG.normal(size=P.shape)}
GROUPS = np.arange(60) // 6


@pytest.fixture(scope="module")
def found():
    return kb.compare_candidates(P, Q, groups=GROUPS)


@pytest.fixture(scope="module")
def summary():
    return kb.compare(P, Q["near"], tokens=np.zeros(60, int)).summary(GROUPS)


def test_a_page_is_returned_or_written(found, summary, tmp_path):
    sizes = {"near": 4e9, "far <b>\n": 2e9}
    page = found.to_html(title="Two", sizes=sizes, frontier="kl.p99")
    assert page == render_report(found, title="Two", sizes=sizes, frontier="kl.p99")
    assert found.to_html(tmp_path / "two.html", title="Two", sizes=sizes, frontier="kl.p99") is None
    assert (tmp_path / "two.html").read_text() == page
    assert summary.to_html() == render_report([summary])
    assert summary.to_html(str(tmp_path / "one.html"), title="One") is None
    assert "<title>One</title>" in (tmp_path / "one.html").read_text()


def test_a_page_has_no_section_without_content():
    """A summary of arrays has no parts by confidence or position, nor labels or documents."""
    page = kb.compare(P, Q["near"]).summary().to_html()
    assert "Where they differ" not in page
    assert "The worst tokens" not in page
    assert "Where they differ" in kb.compare(P, Q["near"]).summary(by=GROUPS).to_html()


def test_the_worst_tokens_have_no_columns_for_what_nobody_told(found):
    """Context, token and its log-probs stood there empty where tokens were not given."""
    worst = found.to_html().partition("The worst tokens")[2].partition("The distribution")[0]
    assert "<td></td>" not in worst
    assert "context and token" not in worst
    assert "ln p" not in worst
    told = kb.compare_candidates(P, Q, tokens=np.zeros(60, int)).to_html().partition("The worst tokens")[2]
    assert "context and token" in told
    assert "<mark>0</mark>" in told


def test_the_lower_floor_alone_has_its_page():
    """No import of the evaluation before, and none by `import kullback` or by comparing."""
    program = """
import sys, numpy as np
from kullback.comparison import compare
s = compare(np.eye(3), 2 * np.eye(3)).summary()
assert not any(name.startswith("kullback.evaluation") for name in sys.modules)
print(len(s.to_html()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 10_000


def test_a_page_needs_jinja2(summary, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match=r"the report needs jinja2: pip install kullback\[report\]"):
        summary.to_html()


def test_candidates_as_markdown(found):
    assert found.to_markdown() == table_of(found).to_markdown()
    assert "4.00 GB" in found.to_markdown(sizes={"near": 4e9})


def cells(text):
    """The rows of the table that a notebook shows."""
    root = ElementTree.fromstring(f"<div>{text.replace('<br>', '<br/>')}</div>")
    return [["".join(cell.itertext()) for cell in row] for row in root.iter("tr")]


def test_notebooks_show_tables(found, summary):
    head, *rows = cells(found._repr_html_())
    assert [row[0] for row in rows] == ["near", "far <b>\\n"]
    low, high = found["near"].kl.interval()
    assert rows[0][1:3] == [f"{found['near'].kl.mean:.4g}", f"{low:.3g} to {high:.3g}"]
    assert {len(row) for row in rows} == {len(head)}
    lines = [line.strip("| ").split(" | ") for line in summary.to_markdown().splitlines() if line.startswith("| ")]
    assert [[x for x in row if x] for row in cells(summary._repr_html_())] == lines
    assert "60 tokens in 10 groups" in summary._repr_html_()
