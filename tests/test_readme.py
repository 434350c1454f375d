"""README.md and the generated pages: what commands wrote is what they would write now, links lead somewhere."""

import doctest
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import kullback as kb

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
README = PAGES[0].read_text(encoding="utf-8")
KEPT_PICTURES = sorted(path.name for path in (DOCS / "pictures").iterdir())
MINUTES = {"change_power.svg"}  # drawn with its table by `make audit-table`, too long for a test


@pytest.fixture(scope="module", autouse=True)
def generators():
    sys.path.insert(0, str(DOCS))
    yield
    sys.path.remove(str(DOCS))


@pytest.mark.parametrize("page", ["README.md", "docs/table.md", "docs/commands.md"])
def test_generated_blocks_are_fresh(page):
    import generate

    assert {*generate.BLOCKS} == {"README.md", "docs/table.md", "docs/commands.md"}
    text = (ROOT / page).read_text(encoding="utf-8")
    assert generate.with_blocks(text, page) == text, "run `make generated`"


def test_the_examples_of_commands_are_commands():
    """They parse, and each command has one."""
    from kullback.cli.program import EXAMPLES, parser

    names = {action.dest: action for action in parser()._actions}["command"].choices
    assert {*EXAMPLES} == {"", *names}
    for name, example in EXAMPLES.items():
        assert parser().parse_args(example.split()).command == (name or "compare")


@pytest.mark.parametrize("name", sorted({*KEPT_PICTURES} - MINUTES))
def test_pictures_are_fresh(name):
    """The same text; positions may differ by what another processor's last bits do to a tenth of a pixel."""
    from pictures import PICTURES

    assert_fresh(DOCS / "pictures" / name, PICTURES[name]())


def test_the_sample_report_is_fresh():
    from sample_report import sample_report

    assert_fresh(DOCS / "sample_report.html", sample_report())
    assert (DOCS / "sample_report.html").stat().st_size < 300_000
    assert "(docs/sample_report.html)" in README


def assert_fresh(path, made):
    number = re.compile(r"-?\d+\.\d+")
    kept = path.read_text(encoding="utf-8")
    assert number.sub("#", kept) == number.sub("#", made), "run `make generated`"
    assert [float(x) for x in number.findall(kept)] == pytest.approx([float(x) for x in number.findall(made)], abs=0.11)


def test_every_picture_is_kept_and_shown():
    from pictures import PICTURES

    assert sorted({*PICTURES, *MINUTES}) == KEPT_PICTURES, "run `make generated`"
    shown = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert not [name for name in KEPT_PICTURES if f"pictures/{name})" not in shown]


def _marks(svg):
    """(x, y) of points no more than two units apart along every curve, dot and bar of a picture."""
    for drawn in re.findall(r'<polyline class="[^"]*" points="([^"]*)"', svg):
        points = [tuple(map(float, point.split(","))) for point in drawn.split()]
        for (x, y), (to_x, to_y) in pairwise(points):
            steps = 1 + int(max(abs(to_x - x), abs(to_y - y)) / 2)
            yield from ((x + (to_x - x) * i / steps, y + (to_y - y) * i / steps) for i in range(steps + 1))
    for dot in re.findall(r'<circle [^>]*cx="([^"]*)" cy="([^"]*)"', svg):
        yield tuple(map(float, dot))
    for bar in re.findall(r'<rect class="[a-d]" x="([^"]*)" y="([^"]*)" width="([^"]*)" height="([^"]*)"', svg):
        x, y, width, height = map(float, bar)
        yield from ((x + width * i / 20, y + height * j / 40) for i in range(21) for j in range(41))


@pytest.mark.parametrize("name", KEPT_PICTURES)
def test_labels_of_pictures_stand_free(name):
    """No label on a curve, a dot, a bar or another label, none beyond the edge."""
    svg = (DOCS / "pictures" / name).read_text(encoding="utf-8")
    width, height = map(int, re.search(r'viewBox="0 0 (\d+) (\d+)"', svg).groups())
    boxes = []
    for attributes, words in re.findall(r"<text([^>]*)>([^<]+)</text>", svg):
        if "rotate" in attributes:  # the name of a vertical axis, left of its numbers
            continue
        x, y = (float(re.search(rf' {axis}="([^"]*)"', attributes)[1]) for axis in "xy")
        long = len(words) * (7.2 if "title" in attributes else 6.4)  # of the widest usual system fonts
        x -= long * (0.5 if '"middle"' in attributes else '"end"' in attributes)
        boxes.append((words, x, x + long, y - 10, y + 3))
    marks = list(_marks(svg))
    for words, left, right, top, bottom in boxes:
        assert left >= 0 and right <= width and top >= 0 and bottom <= height, f"{words!r} is cut off"
        assert not [1 for x, y in marks if left < x < right and top < y < bottom], f"something runs through {words!r}"
        over = [b[0] for b in boxes if b[0] != words and b[1] < right and left < b[2] and b[3] < bottom and top < b[4]]
        assert not over, f"{words!r} lies on {over}"


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", ["kl_divergence", "jensen_shannon_divergence", "total_variation"])
def test_accuracy_page_is_fresh(name, dtype):
    import accuracy

    text = accuracy.PAGE.read_text(encoding="utf-8")
    table = [[cell.strip("` ") for cell in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    said = float(next(row for row in table if row[0] == name)[table[0].index(dtype)])
    now = accuracy.worst_error(name, accuracy.DTYPES[dtype])
    assert said / 3 < now < 3 * said, "run `make accuracy`"


def test_examples_of_the_readme_run():
    blocks = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert blocks
    example = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, "README.md", "README.md", 0)
    report = []
    assert doctest.DocTestRunner(verbose=False).run(example, out=report.append).failed == 0, "".join(report)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_names_in_the_readme_exist():
    table = re.findall(r"^\| .*\|$", README, re.MULTILINE)
    names = re.findall(r"`([a-z_0-9]+)`", "\n".join(table))
    assert len(names) > 10
    missing = [name for name in names if not hasattr(kb, name)]
    assert not missing


def test_every_divergence_of_the_family_is_in_the_readme():
    from kullback.rows import kl, mixtures, renyi

    for module in (mixtures, renyi, kl):
        for name in getattr(module, "__all__", ("kl_divergence", "cross_entropy", "entropy")):
            page = README + (DOCS / "choosing.md").read_text(encoding="utf-8")
            assert f"`{name}`" in page, f"neither README.md nor docs/choosing.md names {name}"


def test_the_two_commands_exist():
    for target in ("demo", "test", "lint", "types", "bench", "docs", "generated"):
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
