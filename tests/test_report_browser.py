"""The report in a headless browser: axe-core finds nothing, light and dark, wide and narrow; few pages when printed."""

import html
import json
import re
import shutil
import subprocess
from importlib import resources

import numpy as np
import pytest

from kullback.evaluation.job import compare_candidates
from kullback.evaluation.report import render_report

pytestmark = pytest.mark.integration
T, V = 400, 60


@pytest.fixture(scope="module")
def pages():
    rng = np.random.default_rng(0)
    p = rng.normal(0, 3, (T, V))
    noisy = {f"q{bits}": p + noise * rng.normal(0, 1, p.shape) for bits, noise in ((8, 0.01), (6, 0.011), (4, 0.3))}
    by = {"domain": np.array(["code", "math"])[np.arange(T) // 10 % 2], "tens": np.arange(T) // 10 % 10}
    common = {"groups": np.arange(T) // 10, "tokens": rng.integers(0, V, T), "by": by}
    several = compare_candidates(p, noisy, **common)
    return {
        "one": render_report(compare_candidates(p, {"q4": noisy["q4"]}, **common)),
        "three": render_report(several, sizes={"q8": 8e9, "q6": 6e9}),
    }


def chromium(tmp_path, page, *options):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.fail("this test needs Chromium: apt-get install chromium")
    (tmp_path / "page.html").write_text(page)
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += [*options, f"file://{tmp_path / 'page.html'}"]
    return subprocess.run(command, check=True, capture_output=True, timeout=120, text=True).stdout


def with_axe(page):
    """The page with axe-core in it, everything unfolded, and what axe finds wrong at its end."""
    axe = (resources.files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")
    page, policies = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    assert policies == 1
    report = """axe.run().then(found => { const pre = document.createElement("pre"); pre.id = "axe";
        pre.textContent = JSON.stringify([found.passes.length, found.violations.map(v =>
            [v.id, v.nodes.map(n => n.html)])]); document.body.append(pre) })"""
    return page.replace("<details>", "<details open>").replace(
        "</body>", f"<script>{axe}</script><script>{report}</script></body>"
    )


def violations(tmp_path, page, width):
    size = f"--window-size={width},900"
    dump = chromium(tmp_path, with_axe(page), size, "--virtual-time-budget=20000", "--dump-dom")
    passes, found = json.loads(html.unescape(re.search(r'<pre id="axe">(.*?)</pre>', dump, re.S)[1]))
    assert passes > 15  # rules that found something to look at
    return found


@pytest.mark.parametrize("width", [1400, 420])
@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("name", ["one", "three"])
def test_axe_finds_nothing(pages, tmp_path, name, colours, width):
    page = pages[name]
    if colours == "dark":
        page = page.replace("@media screen and (prefers-color-scheme: dark)", "@media screen")
        assert page != pages[name]
    assert violations(tmp_path, page, width) == []


def with_script(page, script):
    """The page with another script at its end, and what that has left in `document.title`."""
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    return page.replace("</body>", f"<script>{script}</script></body>")


def test_its_own_script_runs_and_no_other(pages, tmp_path):
    """The policy lets the page's script through, which makes headings buttons, and nothing that was put in."""
    assert "<button" not in pages["three"]
    alien = pages["three"].replace("</body>", "<script>document.title = 'alien'</script></body>")
    dump = chromium(tmp_path, alien, "--dump-dom")
    assert dump.count('<button type="button">') > 20
    assert "<title>alien" not in dump


def test_a_heading_sorts_and_a_filter_filters(pages, tmp_path):
    press = """const table = [...document.querySelectorAll('[aria-label^="By tens"] table')][0];
        const names = () => [...table.tBodies[0].rows].filter(r => !r.hidden).map(r => r.cells[0].textContent);
        const head = table.tHead.rows[0].cells, field = document.querySelector(".filter input");
        const found = [names()];
        const press = i => { head[i].firstChild.click(); found.push(names(), head[i].ariaSort) };
        press(0); press(0); press(3); press(3);
        field.value = "1"; field.dispatchEvent(new Event("input")); found.push(names());
        document.title = JSON.stringify(found)"""
    dump = chromium(tmp_path, with_script(pages["three"], press), "--dump-dom")
    before, up, rising, down, falling, far, worst, near, least, one = json.loads(
        html.unescape(re.search("<title>(.*?)</title>", dump)[1])
    )
    assert (up, rising) == ([str(i) for i in range(10)], "ascending")
    assert (down, falling, worst, least) == (up[::-1], "descending", "descending", "ascending")
    assert far == near[::-1]
    assert sorted(before) == up
    assert one == ["1"]
    kl = dict(re.findall(r'<th scope="row">(\d)</th><td>\d+</td><td>\d+</td><td data-value="([^"]*)"', pages["three"]))
    assert near == sorted(kl, key=lambda label: float(kl[label]))


def test_axe_would_find_something(pages, tmp_path):
    """That the harness sees: grey on white, and a table region that no keyboard reaches."""
    page = re.sub("--soft: #[0-9a-f]+", "--soft: #bbb", pages["three"], count=1).replace(' lang="en"', "")
    assert {"color-contrast", "html-has-lang"} <= {rule for rule, _ in violations(tmp_path, page, 420)}


@pytest.mark.parametrize(("name", "most"), [("one", 3), ("three", 5)])
def test_it_prints_on_a_few_pages(pages, tmp_path, name, most):
    chromium(tmp_path, pages[name], f"--print-to-pdf={tmp_path / 'page.pdf'}", "--no-pdf-header-footer")
    sheets = len(re.findall(rb"/Type\s*/Page\b", (tmp_path / "page.pdf").read_bytes()))
    assert 1 <= sheets <= most
