"""README.md and the generated pages: what commands wrote is what they would write now, links lead somewhere."""

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kullback as kb

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
README = PAGES[0].read_text(encoding="utf-8")


@pytest.fixture(scope="module", autouse=True)
def generators():
    sys.path.insert(0, str(DOCS))
    yield
    sys.path.remove(str(DOCS))


def test_generated_blocks_are_fresh():
    import generate

    assert generate.with_blocks(README) == README, "run `make generated`"


@pytest.mark.parametrize("name", ["kl_per_token.svg", "two_directions.svg"])
def test_pictures_are_fresh(name):
    """The same text; positions may differ by what another processor's last bits do to a tenth of a pixel."""
    from pictures import PICTURES

    number = re.compile(r"-?\d+\.\d+")
    kept, made = (DOCS / "pictures" / name).read_text(encoding="utf-8"), PICTURES[name]()
    assert number.sub("#", kept) == number.sub("#", made), "run `make generated`"
    assert [float(x) for x in number.findall(kept)] == pytest.approx([float(x) for x in number.findall(made)], abs=0.11)


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
