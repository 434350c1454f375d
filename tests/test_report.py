"""The report: one self-contained page, right figures, well-formed drawings; the terminal's tables."""

import hashlib
import io
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from base64 import b64encode
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from kullback.comparison import compare, share_text
from kullback.evaluation.figures import percent, ratio_text
from kullback.evaluation.job import compare_candidates, compare_files
from kullback.evaluation.report import drawings, render_report, write_report
from kullback.evaluation.terminal import print_facts, print_summaries
from kullback.evaluation.text import short

EXAMPLES = Path(__file__).parent.parent / "examples"
T, V = 300, 120


@pytest.fixture(scope="module")
def summaries(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    p = rng.normal(0, 3, (T, V)).astype(np.float32)
    columns = {"tokens": rng.integers(0, V, T), "groups": np.arange(T) // 30}
    safetensors.numpy.save_file({"logits": p} | columns, folder / "base.safetensors")
    names = []
    for noise in (0.01, 0.3):
        names.append(folder / f"<q {noise}>.npy")  # a name that must be escaped
        np.save(names[-1], p + rng.normal(0, noise, p.shape).astype(np.float32))
    return compare_candidates(folder / "base.safetensors", names, top_k=[1, 5]).summaries


class Page(HTMLParser):
    """Checks that tags are closed in order; collects text and addresses."""

    EMPTY = frozenset(("meta", "br"))

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.links, self.tags = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href", "action")]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.mark.parametrize("count", [1, 2])
def test_one_page_with_the_figures(summaries, count):
    text = render_report(summaries[:count])
    page = Page(text)
    assert page.links == []
    assert not re.search(r"https?://|@import|url\(", text)
    assert not {"link", "img", "iframe"} & set(page.tags)
    # one script, of the page's own and let through by its digest, without which nothing is missing
    (script,) = re.findall("<script>(.*?)</script>", text, re.S)
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert page.tags.count("script") == 1
    page = Page(text.replace(script, ""))
    assert page.tags.count("svg") == 6 + count  # of several candidates their means too
    assert "prefers-color-scheme: dark" in text
    words = " ".join(page.text)
    for s in summaries[:count]:
        for number, digits in ((s.kl.mean, 4), (s.kl.max, 3), (s.reverse_kl.mean, 4), (s.kl.group_standard_error, 2)):
            assert short(number, digits) in words
        assert f"{s.perplexity_ratio:.5f}" in words
        assert share_text(s.same_top1.mean) in words
        for token in s.parts["worst_tokens"].tokens:
            assert str(token["row"]) in words
    assert "<q 0.01>.npy" in words
    assert f"± group {short(summaries[0].kl.group_standard_error, 2)}" in words
    assert not re.search(r"±(?! (s\.e\.|group))", words)  # which error it is, as on the terminal
    assert len(text) < 120_000


def test_small_differences_keep_their_digits():
    """On the page as on the terminal: 99.998 % is not 100.00 %, nor a Δp of 0.000062 % one of 0.00 %."""
    p = np.full((50_000, 3), [3.0, 1.0, 0.0])
    q = p + np.array([0, 1e-5, 0])
    q[7, 1] = 4
    s = compare(p, q, tokens=np.zeros(len(p), int)).summary()
    page = render_report([s])
    for text in (share_text(s.same_top1.mean), percent(s.delta_prob.mean), percent(s.delta_prob.rms)):
        assert text in page
    assert share_text(s.same_top1.mean) == "99.9980 %"


def test_drawings_are_well_formed_svg(summaries):
    names = ["a & b", "<c>"]
    for draw in (
        drawings.kl_distribution,
        drawings.delta_distribution,
        drawings.kl_by_position,
        drawings.agreement_by_confidence,
        drawings.acceptance_distribution,
        drawings.acceptance_by_confidence,
        drawings.acceptance_by_position,
    ):
        for some in (summaries[:1], summaries):
            root = ElementTree.fromstring(draw(some, names[: len(some)]))
            _, _, width, height = (float(x) for x in root.get("viewBox").split())
            for shape in root.iter():
                if shape.tag == "circle":
                    assert 0 <= float(shape.get("cx")) <= width
                    assert 0 <= float(shape.get("cy")) <= height
                if shape.tag in ("polygon", "polyline"):
                    points = [tuple(map(float, pair.split(","))) for pair in shape.get("points").split()]
                    assert all(0 <= x <= width and 0 <= y <= height for x, y in points)


def test_the_kl_histogram_holds_every_token(summaries):
    root = ElementTree.fromstring(drawings.kl_distribution(summaries[:1], ["q"]))
    polygon = next(root.iter("polygon"))
    points = [tuple(map(float, pair.split(","))) for pair in polygon.get("points").split()]
    heights = [points[0][1] - y for _, y in points[1:-1:2]]
    ticks = [t for t in root.iter("text") if t.get("text-anchor") == "end"]
    top = max(ticks, key=lambda t: float(t.text))
    scale = float(top.text) / (points[0][1] - (float(top.get("y")) - 4))
    assert sum(heights) * scale == pytest.approx(100, abs=1)


@pytest.mark.parametrize("change", ["identical", "infinite", "one row", "no tokens", "undefined"])
def test_odd_inputs(tmp_path, change):
    rng = np.random.default_rng(0)
    p = rng.normal(0, 3, (1 if change == "one row" else 9, 20))
    q = p.copy() if change == "identical" else p + rng.normal(0, 0.1, p.shape)
    if change == "infinite":
        q[:, 3] = -np.inf
    if change == "undefined":
        p[2:, 0] = np.nan
    np.save(tmp_path / "p.npy", p)
    np.save(tmp_path / "q.npy", q)
    tokens = None if change == "no tokens" else np.zeros(len(p), int)
    found = compare_files(tmp_path / "p.npy", tmp_path / "q.npy", tokens=tokens)
    Page(render_report([found]))
    out = io.StringIO()
    print_summaries([found], out)
    assert "KL(p‖q)" in out.getvalue()
    if change == "undefined":
        assert "7 (NaN, +inf or no mass)" in out.getvalue()
    if change == "infinite":
        assert "9 rows: q is 0 where p is not" in out.getvalue()
        assert "without these rows" not in out.getvalue()  # there are no others
    assert "± 0.000" not in out.getvalue()


def test_dumps_tell_what_is_clipped(tmp_path):
    found = compare_files(EXAMPLES / "f16.kld", EXAMPLES / "q4_k_m.kld", convention="llama.cpp")
    write_report([found], tmp_path / "r.html", title="A title & more")
    text = (tmp_path / "r.html").read_text()
    assert "<title>A title &amp; more</title>" in text
    words = " ".join(Page(text).text)
    assert "beyond the window of the 16-bit codes: 1 in p, 1 in q of 38" in words
    assert "Mean PPL(Q)" in words
    out = io.StringIO()
    print_summaries([found], out)
    assert "clipped targets" in out.getvalue()
    assert str(found.parts["llama_cpp"].statistics) in out.getvalue()


def test_words_where_a_tokenizer_is_given(summaries):
    worst = summaries[0].parts["worst_tokens"]
    tree = json.dumps(worst.to_dict())
    worst.add_text(lambda ids: "".join(f"<{i}>" for i in ids))
    words = " ".join(Page(render_report(summaries[:1])).text)
    first = worst.tokens[0]
    assert "".join(f"<{i}>" for i in first["context"]) in words
    out = io.StringIO()
    print_summaries(summaries[:1], out)
    assert f"<{first['token']}>" in out.getvalue()
    for token in worst.tokens:
        del token["text"]
    assert json.dumps(worst.to_dict()) == tree


def test_eighty_columns_of_plain_text(summaries):
    out = io.StringIO()
    print_summaries(summaries, out)
    text = out.getvalue()
    assert "\x1b" not in text
    assert max(len(line) for line in text.splitlines() if "safetensors" not in line and ".npy  (" not in line) <= 80
    assert not re.search("[─│┃━]", text)  # no drawn lines in a pipe
    facts = io.StringIO()
    print_facts({"path": "x", "shape": [2, 3], "tokens": True, "groups": None}, facts)
    assert re.search(r"shape +2 x 3", facts.getvalue())
    assert re.search(r"groups +unknown", facts.getvalue())


@pytest.mark.parametrize(
    ("x", "text"),
    [(0.0, "0"), (1.5, "1.500"), (123456.0, "1.23e5"), (0.000123, "0.0001230"), (1.2345e-7, "1.23e-7"),
     (float("inf"), "inf"), (float("nan"), "-"), (None, "-"), (-0.25, "-0.2500"), (98765.0, "98765")],
)  # fmt: skip
def test_short_numbers(x, text):
    assert short(x) == text


@pytest.mark.integration
def test_headless_chromium_shows_it(summaries, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.fail("this test needs Chromium: apt-get install chromium")
    write_report(summaries, tmp_path / "r.html")
    common = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    for size in ("1200,900", "500,900"):
        shot = tmp_path / f"{size}.png"
        command = [*common, f"--screenshot={shot}", f"--window-size={size}", f"file://{tmp_path / 'r.html'}"]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        assert shot.stat().st_size > 20_000
    dump = subprocess.run(
        [*common, "--dump-dom", f"file://{tmp_path / 'r.html'}"],
        check=True,
        capture_output=True,
        timeout=120,
        text=True,
    )
    assert dump.stdout.count("<svg") == 8


def test_a_tokenizer_file(tmp_path):
    import tokenizers

    from kullback.evaluation.tokens import decoder

    words = {"one": 0, "two": 1, "three": 2}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="one"))
    model.save(str(tmp_path / "tokenizer.json"))
    assert decoder(tmp_path / "tokenizer.json")([2, 0, 1]) == "three one two"
    assert decoder(None) is None


def ticks(svg, anchor):
    """(x, y, text) of what is written beside an axis."""
    found = [t for t in ElementTree.fromstring(svg).iter("text") if t.get("text-anchor") == anchor and t.get("x")]
    return [(float(t.get("x")), float(t.get("y")), "".join(t.itertext())) for t in found]


def test_nothing_that_is_written_beside_an_axis_touches(tmp_path):
    """On a page of 420 points text is 17 units high and at most 10 a character wide."""
    rng = np.random.default_rng(0)
    p = rng.normal(0, 4, (2000, 30))
    names = [tmp_path / f"{noise}.npy" for noise in (1e-7, 20)]
    np.save(tmp_path / "p.npy", p)
    for name in names:
        np.save(name, p + rng.normal(0, float(name.stem), p.shape))
    found = compare_candidates(tmp_path / "p.npy", names, tokens=rng.integers(0, 30, 2000)).summaries
    for draw in (
        drawings.kl_distribution,
        drawings.delta_distribution,
        drawings.kl_by_position,
        drawings.agreement_by_confidence,
        drawings.acceptance_distribution,
        drawings.acceptance_by_confidence,
        drawings.acceptance_by_position,
    ):
        svg = draw(found, ["a", "b"])
        heights = sorted(y for _, y, _ in ticks(svg, "end"))
        assert min(np.diff(heights)) > 17
        lines = {}
        for x, y, text in ticks(svg, "middle"):
            lines.setdefault(y, []).append((x, text))
        for line in lines.values():
            for (x, text), (right, other) in pairwise(line):
                assert right - x > 10 * (len(text) + len(other)) / 2


def test_ratios_of_perplexity_have_the_digits_of_their_error():
    p = np.zeros((400, 2))
    tokens = np.arange(400) % 2
    texts = [
        ratio_text(compare(p, p + change * np.random.default_rng(0).normal(0, 1, p.shape), tokens=tokens).summary())
        for change in (1e-8, 0.1, 1e3)
    ]
    assert re.fullmatch(r"(1|0)\.\d{10,12}", texts[0])
    assert re.fullmatch(r"(1|0)\.\d{5}", texts[1])
    assert len(texts[2]) < 12
    assert "e" in texts[2]
