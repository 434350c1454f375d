"""Sizes that `kullback table` reads from the headers of models, and the picture that it draws."""

import math
import struct
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from test_table import made

from kullback.cli import main
from kullback.evaluation.outputs import is_ours
from kullback.evaluation.table import CandidateTable, read_table
from kullback.evaluation.table.picture import free_places
from kullback.evaluation.table.sizes import ModelSize, amount, model_size, size_text

LOG = Path(__file__).parent.parent / "examples" / "results" / "q8_0.txt"


def gguf_file(path, rows=64):
    """A model of two tensors: rows x 256 in Q8_0, of 8.5 bits each, and 256 in float32."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("general.name", "x" * 50)
    writer.add_token_list(["a", "b", "c"])
    weights = np.random.default_rng(0).normal(size=(rows, 256)).astype(np.float32)
    kind = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor("blk.0.weight", gguf.quantize(weights, kind), raw_dtype=kind)
    writer.add_tensor("norm.weight", np.ones(256, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_gguf(tmp_path):
    path = tmp_path / "q8.gguf"
    gguf_file(path)
    size = model_size(str(path))
    assert size == ModelSize(path.stat().st_size, 64 * 256 + 256, 64 * 256 * 34 // 32 + 1024)
    assert model_size(str(tmp_path)) == size and model_size(str(path), 99) == size
    assert size.bits_per_weight == pytest.approx(8 * (17408 + 1024) / 16640)
    # a folder of one model, and one of several
    path.with_name("q9.gguf").write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="several models in it"):
        model_size(str(tmp_path))


def test_shards(tmp_path):
    for i in (1, 2):
        gguf_file(tmp_path / f"m-{i:05}-of-00002.gguf")
    one = model_size(str(tmp_path / "m-00002-of-00002.gguf"))
    assert one == model_size(str(tmp_path)) and one.parameters == 2 * 16640
    (tmp_path / "m-00001-of-00002.gguf").unlink()
    for path in (tmp_path, tmp_path / "m-00002-of-00002.gguf"):
        with pytest.raises(ValueError, match="1 of 2 shards are there"):
            model_size(str(path))


def test_damaged_gguf(tmp_path):
    path = tmp_path / "q8.gguf"
    gguf_file(path)
    data = path.read_bytes()
    at = data.index(b"tokenizer.ggml.tokens") + len("tokenizer.ggml.tokens") + 8
    for broken in (
        data[:20], data[: len(data) // 2], data[:-100], b"GGUF" + bytes(40),
        b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1 << 60) + data[24:],
        data[:at] + struct.pack("<Q", 1 << 60) + data[at + 8 :],  # a list of 2^60 words
        data[: at - 4] + struct.pack("<IQ", 0, 1 << 60) + data[at + 8 :],  # of bytes
    ):  # fmt: skip
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"q8\.gguf: no GGUF file that can be read"):
            model_size(str(path))
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="does not begin as GGUF does"):
        model_size(str(path))


def test_safetensors(tmp_path):
    from safetensors.numpy import save_file

    for i in (1, 2):
        weights = {f"w{i}": np.zeros((8, 4), np.float16), f"b{i}": np.zeros(3, np.float32)}
        save_file(weights, tmp_path / f"model-{i:05}-of-00002.safetensors")
    size = model_size(str(tmp_path))
    assert (size.parameters, size.tensor_bytes) == (70, 2 * (64 + 12))
    packed = tmp_path / "packed"
    packed.mkdir()
    save_file({"qweight": np.zeros((8, 4), np.int32)}, packed / "model.safetensors")
    assert math.isnan(model_size(str(packed)).bits_per_weight)
    assert model_size(str(packed), 256).bits_per_weight == 4.0
    (packed / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 40) + b"{}")
    with pytest.raises(ValueError, match="header of 1099511627776 bytes"):
        model_size(str(packed))


def test_bytes_in_figures(tmp_path):
    found = [amount(text) for text in ("4100000000", "4.1GB", "3.5GiB", "16.28m", "1 kB", "12B")]
    assert found == [4_100_000_000, 4_100_000_000, 3758096384, 16_280_000, 1000, 12]
    assert amount("7.6B", 10**9) == 7_600_000_000
    assert [amount(text) for text in ("", "GB", "-3", "1e9", "nan", "4.1XB", "²")] == [None] * 7
    assert model_size("8.5GB", 8_000_000_000).bits_per_weight == 8.5
    assert [size_text(n) for n in (7, 4_370_000_000, 999_960, 17_300_000, 140_600_000_000)] == [
        "7 B", "4.37 GB", "1.00 MB", "17.3 MB", "141 GB",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="no such file, and no number of bytes"):
        model_size("q8.gguf.missing")
    with pytest.raises(ValueError, match="no GGUF or safetensors file in it"):
        model_size(str(tmp_path))


def test_sizes_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    gguf_file("q8.gguf")
    (tmp_path / "q8_0.txt").write_bytes(LOG.read_bytes())
    (tmp_path / "q9_0.txt").write_bytes(LOG.read_bytes())
    logs = ["q8_0.txt", "q9_0.txt"]
    assert main(["table", *logs, "--size", "q8_0=q8.gguf", "--size", "q9_0.txt=1GB", "--parameters", "1B"]) == 0
    out = capsys.readouterr().out
    assert "kB*" in out and "8.86" in out and "8.00" in out and "1.00 GB" in out
    for given, words in (
        (["--size", "q7=1GB"], "'q7', which is none of the candidates q8_0.txt, q9_0.txt"),
        (["--size", "q8_0=1GB", "--size", "q8_0=2GB"], "given twice"),
        (["--size", "q8_0=nothing.gguf"], "no such file"),
        (["--svg", "o.png"], "ends in .svg"),
        (["--svg", "o.svg"], "a picture needs candidates with a size"),
    ):
        assert main(["table", *logs, *given]) == 2
        assert words in capsys.readouterr().err
    for given in (["--size", "q8"], ["--size", "=3"], ["--parameters", "0"], ["--sort", "kl"]):
        with pytest.raises(SystemExit) as stop:
            main(["table", *logs, *given])
        assert stop.value.code == 2


def drawn(count, seed=0):
    rng = np.random.default_rng(seed)
    sizes = {f"model-Q{i}$x$": ModelSize(int(2e9 + 12e9 * rng.random())) for i in range(count)}
    kl = {name: 0.1 * 2 ** (-size.bytes / 2e9) * np.exp(0.4 * rng.normal()) for name, size in sizes.items()}
    rows = [made(name, x, error=x / 10, intervals={"mean": (-x, 1.2 * x)}) for name, x in kl.items()]
    return CandidateTable(rows, sizes=sizes)


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_a_picture_is_known_as_ours_and_the_same_each_time(tmp_path, kind):
    table = drawn(12)
    paths = [tmp_path / f"{name}.{kind}" for name in "ab"]
    for path in paths:
        table.to_picture(path)
    assert paths[0].read_bytes() == paths[1].read_bytes() and is_ours(str(paths[0]))
    if kind == "svg":
        ElementTree.parse(paths[0])
    foreign = tmp_path / f"c.{kind}"
    foreign.write_bytes(paths[0].read_bytes().replace(b"kullback table", b"something else"))
    assert not is_ours(str(foreign))


def test_what_is_not_drawn_is_said(tmp_path):
    rows = [made("a", 0.1), made("b", 0.0), made("c", math.nan), made("d", math.inf), made("e", 0.3)]
    table = CandidateTable(rows, sizes={name: ModelSize(10**9) for name in "abcd"})
    (line,) = table.to_picture(tmp_path / "o.svg")
    assert "4 of 5 candidates are not drawn" in line
    lines = drawn(120).to_picture(tmp_path / "many.svg")
    assert len(lines) == 1 and "points are without a label" in lines[0]
    with pytest.raises(ValueError, match=r"ends in .svg or .png"):
        table.to_picture(tmp_path / "o.jpg")


@pytest.mark.parametrize("seed", range(4))
def test_labels_stand_free(seed):
    rng = np.random.default_rng(seed)
    marks = rng.uniform(0, 600, (40, 2))
    line = np.stack([np.linspace(0, 600, 300), np.linspace(500, 50, 300)], axis=1)
    taken = np.concatenate([marks, line])
    frame = (0.0, 0.0, 600.0, 600.0)
    places = free_places(marks, range(40), [(80.0, 12.0)] * 40, taken, frame)
    assert sum(place is not None for place in places) > 10
    boxes = [(i, box) for i, box in enumerate(places) if box is not None]
    for i, (left, bottom, right, top) in boxes:
        assert left >= 0 and bottom >= 0 and right <= 600 and top <= 600
        inside = (taken[:, 0] > left) & (taken[:, 0] < right) & (taken[:, 1] > bottom) & (taken[:, 1] < top)
        assert not inside.any()
        far = [math.dist((x, y), (min(max(x, left), right), min(max(y, bottom), top))) for x, y in marks]
        assert min(far) == pytest.approx(far[i])
        for j, other in boxes:
            assert i == j or right <= other[0] or other[2] <= left or top <= other[1] or other[3] <= bottom


def test_the_places_of_labels_hold_in_what_is_drawn(tmp_path, monkeypatch):
    """No text of the axes covers a point, in the figure as matplotlib lays it out."""
    from matplotlib.figure import Figure

    kept = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: kept.append(self))
    drawn(25, seed=3).to_picture(tmp_path / "o.png")
    (axes,) = kept[0].axes
    marks = np.concatenate([axes.transData.transform(line.get_xydata()) for line in axes.lines])
    assert len(axes.texts) > 8
    for text in axes.texts:
        box = text.get_window_extent()
        assert not (
            (marks[:, 0] > box.x0) & (marks[:, 0] < box.x1) & (marks[:, 1] > box.y0) & (marks[:, 1] < box.y1)
        ).any()


def test_logs_without_sizes_have_no_frontier():
    assert not any(row.frontier for row in read_table([LOG]).rows)


EARLY = """
chunk        PPL          ln(PPL(Q)/PPL(base))          KL-Divergence           Same top
   1        4.0102       0.00104 ±    0.00247       0.00107 ±    0.00008    0.98431 ± 0.00778
   2        4.8437       0.00262 ±    0.00211       0.00131 ±    0.00007    0.97451 ± 0.00699

===== KL-divergence statistics
Average:   0.001312 ±  0.000071
Median :   0.000655
Maximum:   0.019284
KLD_99 :   0.010112
KLD_95 :   0.004811
KLD_90 :   0.003012
Minimum:  -0.000021
KLD_01 :   0.000001
KLD_05 :   0.000005
KLD_10 :   0.000013
"""


@pytest.mark.parametrize("coding", ["utf-8", "utf-16", "cp1252"])
def test_logs_of_early_2024(tmp_path, coding):
    """As perplexity.cpp printed them from January to April of 2024, by its own format strings; they were refused."""
    (tmp_path / "q6.txt").write_bytes(EARLY.encode(coding))
    (row,) = read_table([tmp_path / "q6.txt"]).rows
    found = row.figures
    assert (row.value, found.error, found.same_top1) == (0.001312, 7.1e-5, 0.97451)
    assert [found.kl[x] for x in ("median", "max", "p99", "p95", "p90", "p1", "p5", "p10")] == [
        0.000655, 0.019284, 0.010112, 0.004811, 0.003012, 1e-6, 5e-6, 1.3e-5,
    ]  # fmt: skip
    assert (found.perplexity_ratio, found.perplexity_ratio_error) == (
        pytest.approx(np.exp(0.00262)), pytest.approx(0.00211 * np.exp(0.00262)),
    )  # fmt: skip
    assert found.base.perplexity == pytest.approx(4.8437 / np.exp(0.00262))
    assert found.base.tokens is None
    assert math.isnan(found.kl.get("p99.9", math.nan))


def test_logs_of_early_2024_are_of_one_base_as_far_as_their_digits_tell(tmp_path):
    """The base's perplexity follows from two rounded figures: logs of one base agree, those of others do not."""
    (tmp_path / "a.txt").write_text(EARLY)
    # another candidate of the base of perplexity 4.83102609: exp(ln ratio) times it
    other = EARLY.replace("4.8437       0.00262", "4.9286       0.02000").replace("0.001312", "0.011312")
    (tmp_path / "b.txt").write_text(other)
    assert [row.name for row in read_table([tmp_path / "b.txt", tmp_path / "a.txt"]).rows] == ["a.txt", "b.txt"]
    (tmp_path / "c.txt").write_text(EARLY.replace("4.8437", "4.8537"))
    with pytest.raises(ValueError, match=r"c.txt has a base of perplexity"):
        read_table([tmp_path / "a.txt", tmp_path / "c.txt"])
    (tmp_path / "far.txt").write_text(EARLY.replace("0.00262", "800.00000"))
    assert math.isnan(read_table([tmp_path / "far.txt"]).rows[0].figures.perplexity_ratio)
    (tmp_path / "d.txt").write_text(EARLY + EARLY)
    with pytest.raises(ValueError, match="logs of several runs"):
        read_table([tmp_path / "d.txt"])
    (tmp_path / "e.txt").write_text(EARLY.partition("=====")[1] + EARLY.partition("=====")[2])
    (row,) = read_table([tmp_path / "e.txt"]).rows
    assert row.value == 0.001312
    assert math.isnan(row.figures.same_top1) and math.isnan(row.figures.base.perplexity)
