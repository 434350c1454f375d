"""Logits read from pipes while they are written: the figures of the files, and errors that say what happened."""

import contextlib
import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from streaming import TIMEOUT, run

from kullback.cli import main
from kullback.evaluation.distributed import compare_on_cluster
from kullback.evaluation.job import compare_candidates, compare_files
from kullback.evaluation.sources import open_logits, pipes
from kullback.evaluation.sources.convert import convert

N_CTX, CHUNKS, VOCAB = 16, 6, 41
ROWS = CHUNKS * (N_CTX - 1 - N_CTX // 2)
TABLE = np.random.default_rng(0).integers(0, VOCAB, (CHUNKS, N_CTX))
DUMP_HEADER, DUMP_ROW = 20 + 4 * TABLE.size, 8 + 2 * (VOCAB + 1)
CHUNK = 4 * 2 * VOCAB * 4  # bytes of both files: some rows at a time


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(1)
    p = rng.normal(0, 3, (ROWS, VOCAB)).astype(np.float32)
    q = (p + rng.normal(0, 0.3, p.shape)).astype(np.float32)
    for name, x in (("p", p), ("q", q)):
        np.save(folder / f"{name}.npy", x)
        np.save(folder / f"{name}_16.npy", x.astype(np.float16))
        convert(folder / f"{name}.npy", folder / f"{name}.kld", chunk_tokens=TABLE)
        convert(folder / f"{name}.kld", folder / f"{name}.safetensors")
    return folder


@pytest.fixture
def fifos(tmp_path):
    for name in ("P", "Q"):
        os.mkfifo(tmp_path / name)
    return tmp_path / "P", tmp_path / "Q"


WRITERS = {}


def sent(path, data, piece=None, pause=0.0):
    """A writer of `data`, a thread; one whose reader has gone ends as a process would, before another follows it."""
    if path in WRITERS:
        WRITERS[path].join(TIMEOUT)

    def write():
        with contextlib.suppress(BrokenPipeError), open(path, "wb", buffering=0) as file:
            for at in range(0, len(data), piece or 1 << 20):
                part = data[at : at + (piece or 1 << 20)]
                while part:
                    part = part[file.write(part) :]
                time.sleep(pause)

    thread = WRITERS[path] = threading.Thread(target=write, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize(("p", "q"), [("p.kld", "q.npy"), ("p_16.npy", "q.kld"), ("p.safetensors", "q.safetensors")])
@pytest.mark.parametrize(("piece", "pause"), [(None, 0.0), (997, 2e-4), (DUMP_ROW, 1e-3)])
def test_two_streams_give_the_bits_of_the_files(files, fifos, p, q, piece, pause):
    options = {"tokens": TABLE[:, N_CTX // 2 + 1 :].reshape(-1), "chunk_bytes": CHUNK, "top_k": [3]}
    expected = compare_files(files / p, files / q, **options)
    writers = [
        sent(*pair, piece, pause) for pair in zip(fifos, ((files / n).read_bytes() for n in (p, q)), strict=True)
    ]
    steps = []
    found = compare_files(*fifos, progress=lambda *step: steps.append(step), **options)
    assert found == expected
    assert {name: x for name, x in found.to_dict().items() if name not in "pq"} == {
        name: x for name, x in expected.to_dict().items() if name not in "pq"
    }
    assert steps[0] == (0, ROWS)  # the header tells how many there will be
    assert steps[-1] == (ROWS, ROWS)
    for writer in writers:
        writer.join(TIMEOUT)
        assert not writer.is_alive()


def test_standard_input_descriptors_and_redirections(files):
    compare = "kullback compare --quiet --json -"
    expected = json.loads(run(f"{compare} p.kld q.npy", files).stdout)["kl"]
    for line in (
        f"cat p.kld | {compare} - q.npy",
        f"{compare} - q.npy < p.kld",
        f"cat p.kld | {compare} /dev/stdin <(cat q.npy)",
        f"{compare} /dev/fd/5 - 5< <(cat p.kld) < q.npy",
    ):
        done = run(f"set -o pipefail; {line}", files)
        assert (done.returncode, done.stderr) == (0, ""), line
        assert json.loads(done.stdout)["kl"] == expected, line


def test_one_writer_of_both_that_opens_them_the_other_way(files, fifos):
    """Each waits for nothing but bytes: opened one after the other, reader and writer would wait for each other."""
    data = [(files / name).read_bytes() for name in ("q.npy", "p.npy")]

    def write():
        with open(fifos[1], "wb", buffering=0) as q, open(fifos[0], "wb", buffering=0) as p:
            for at in range(0, len(data[0]), 1000):
                q.write(data[0][at : at + 1000])
                p.write(data[1][at : at + 1000])

    threading.Thread(target=write, daemon=True).start()
    assert compare_files(*fifos, chunk_bytes=CHUNK) == compare_files(files / "p.npy", files / "q.npy")


@pytest.mark.parametrize("candidates", [["q.kld"], ["q.kld", "q.npy", "q_16.npy"]])
def test_a_base_that_is_a_stream_is_read_once_for_all_candidates(files, fifos, candidates):
    paths = {name: files / name for name in candidates}
    sent(fifos[0], (files / "p.kld").read_bytes())
    found = compare_candidates(fifos[0], paths, chunk_bytes=CHUNK)
    expected = compare_candidates(files / "p.kld", paths, chunk_bytes=CHUNK)
    assert [found[name] == expected[name] for name in candidates] == [True] * len(candidates)


def test_convert_and_info(files, fifos, tmp_path, capsys):
    for source, target in (
        ("p.kld", "a.npy"),
        ("p.kld", "a.kld"),
        ("p.npy", "a.safetensors"),
        ("q.safetensors", "a.npy"),
    ):
        sent(fifos[0], (files / source).read_bytes(), 1000)
        assert main(["convert", str(fifos[0]), str(tmp_path / target), "--quiet", "--force"]) == 0
        convert(files / source, tmp_path / f"b{target[1:]}")
        assert (tmp_path / target).read_bytes() == (tmp_path / f"b{target[1:]}").read_bytes()
    capsys.readouterr()
    for name in ("p.kld", "p.npy", "p.safetensors"):
        sent(fifos[0], (files / name).read_bytes())
        facts = []
        for path in (fifos[0], files / name):
            assert main(["info", str(path), "--json"]) == 0
            facts.append(json.loads(capsys.readouterr().out) | {"path": ""})
        assert facts[0] == facts[1]


class TestWritersThatStop:
    @pytest.mark.parametrize(
        ("size", "message"),
        [
            (0, "an empty stream; its writer ended without a byte"),
            (12, "the stream ended within its header, 12 bytes"),  # llama-perplexity on a text that is too short
            (DUMP_HEADER - 1, f"the stream ended within its header, {DUMP_HEADER - 1} bytes"),
            (DUMP_HEADER, f"the stream ended after 0 of {ROWS} rows"),
            (DUMP_HEADER + 30 * DUMP_ROW, f"the stream ended after 30 of {ROWS} rows"),
            (DUMP_HEADER + 31 * DUMP_ROW - 1, f"the stream ended after 30 of {ROWS} rows"),
        ],
    )
    @pytest.mark.parametrize("command", ["compare", "convert", "info"])
    def test_one_line_the_code_of_what_may_go_better_next_time_and_nothing_left(
        self, files, fifos, tmp_path, capsys, command, size, message
    ):
        writer = sent(fifos[0], (files / "p.kld").read_bytes()[:size])
        outputs = [str(tmp_path / name) for name in ("o.npy", "o.json", "o.csv")]
        arguments = {
            "compare": [str(files / "q.npy"), "--json", outputs[1], "--per-token", outputs[2], "--quiet"],
            "convert": [outputs[0], "--quiet"],
            "info": [],
        }[command]
        assert main([command, str(fifos[0]), *arguments]) == 3
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert message in error
        assert {path.name for path in tmp_path.iterdir()} == {"P", "Q"}
        writer.join(TIMEOUT)

    def test_of_other_formats(self, files, fifos):
        for name, lost in (("p.npy", 5 * VOCAB * 4), ("p.safetensors", 5 * VOCAB * 4), ("p.npy", ROWS * VOCAB * 4 + 9)):
            data = (files / name).read_bytes()
            sent(fifos[1], data[: len(data) - lost])
            where = f"after {ROWS - 5} of {ROWS} rows" if lost == 5 * VOCAB * 4 else "within its header"
            with pytest.raises(OSError, match=f"the stream ended {where}"):
                compare_files(files / "p.npy", fifos[1])

    def test_the_other_stream_is_not_waited_for(self, files, fifos):
        """Its writer may be slow, or wait for that one."""
        data = (files / "q.npy").read_bytes()
        sent(fifos[0], (files / "p.kld").read_bytes()[: DUMP_HEADER + 20 * DUMP_ROW])
        with open(os.open(fifos[1], os.O_RDWR), "wb", buffering=0) as stays:
            stays.write(data[: len(data) - 2000])
            with pytest.raises(OSError, match=f"the stream ended after 20 of {ROWS} rows"):
                compare_files(*fifos, chunk_bytes=CHUNK)

    def test_more_than_the_header_says(self, files, fifos, monkeypatch):
        """As of the files: a dump has an end, behind the array of a .npy others may follow."""
        for name, pattern in (("p.kld", "goes on after the|make .* bytes, but it has"), ("p.npy", None)):
            data = (files / name).read_bytes() + b"x"
            (files / f"longer{Path(name).suffix}").write_bytes(data)
            for path in (fifos[0], files / f"longer{Path(name).suffix}"):
                writer = sent(fifos[0], data) if path == fifos[0] else None
                with pytest.raises(ValueError, match=pattern) if pattern else contextlib.nullcontext():
                    compare_files(path, files / "q.npy")
                if writer is not None:
                    writer.join(TIMEOUT)

    def test_a_writer_that_does_not_close_is_not_waited_for_forever(self, files, fifos, monkeypatch):
        monkeypatch.setattr(pipes, "END_SECONDS", 0.2)
        with open(os.open(fifos[0], os.O_RDWR), "wb", buffering=0) as stays:
            stays.write((files / "p.kld").read_bytes())
            assert compare_files(fifos[0], files / "q.npy") == compare_files(files / "p.kld", files / "q.npy")


def test_what_needs_a_file_is_refused_before_anything_is_waited_for(files, fifos, capsys):
    """There is no writer."""
    p, q = str(fifos[0]), str(files / "q.npy")
    lines = {
        "`checkpoint` (--checkpoint) needs files that can be read again": ["--checkpoint", "log"],
        "hidden states and lm_head (--lm-head) are read from files": ["--lm-head", q, "--norm", "applied"],
        "`salvage` (--salvage) works on files": ["--salvage"],
    }
    for message, arguments in lines.items():
        assert main(["compare", p, q, "--quiet", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert main(["compare", q, q, "--lm-head", p, "--norm", "applied", "--quiet"]) == 2
    assert "are read from files" in capsys.readouterr().err
    assert main(["compare", q, p, p]) == 2
    assert "are one stream, which is read once" in capsys.readouterr().err
    with pytest.raises(ValueError, match="the tasks of a cluster open files"):
        compare_on_cluster(p, [q], scheduler="tcp://127.0.0.1:9")
    done = run("kullback compare - q.npy < /dev/null", files)
    assert (done.returncode, done.stderr) == (
        2,
        "kullback: -: standard input is a device, expected a pipe or a file of logits\n",
    )


def test_a_header_is_enough_to_refuse(files, fifos):
    """Rows come when the model has computed them, minutes after the header: what does not fit is told before."""
    np.save(files / "short.npy", np.zeros((ROWS - 1, VOCAB)))
    np.save(files / "narrow.npy", np.zeros((ROWS, VOCAB - 1)))
    convert(files / "q.npy", files / "other_text.kld", chunk_tokens=(TABLE + 1) % VOCAB)
    misfits = {
        "short.npy": "41 rows, expected 42",
        "narrow.npy": "a vocabulary of 40",
        "other_text.kld": "have different tokens from row 0 on",
    }
    with open(os.open(fifos[0], os.O_RDWR), "wb", buffering=0) as stays:
        for name, message in misfits.items():
            stays.write((files / "p.kld").read_bytes()[:DUMP_HEADER])
            with pytest.raises(ValueError, match=message):
                compare_files(fifos[0], files / name)


def test_rows_from_the_first(files, fifos):
    sent(fifos[0], (files / "p.kld").read_bytes())
    with pytest.raises(ValueError, match=r"`rows` begins at 3 .*, expected 0, or files"):
        compare_files(fifos[0], files / "q.npy", rows=(3, 9))
    sent(fifos[0], (files / "p.kld").read_bytes())
    expected = compare_files(files / "p.kld", files / "q.npy", rows=(0, 9))
    assert compare_files(fifos[0], files / "q.npy", rows=(0, 9)) == expected


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"PK\x03\x04", ".npz"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"PAR1", "Parquet"),
        (b"ARROW1\0\0", "Arrow"),
        (b"{", "'{"),
    ],
)
def test_formats_that_are_read_from_several_places(files, fifos, head, name):
    sent(fifos[0], head + bytes(100))
    with pytest.raises(
        ValueError, match=f"{name}.* (cannot come through a pipe; write it to a file|no reader of stream)"
    ):
        compare_files(fifos[0], files / "q.npy")


def test_rows_come_once_and_in_order(files, fifos):
    expected = np.load(files / "p.npy")
    sent(fifos[0], (files / "p.npy").read_bytes())
    with open_logits(fifos[0]) as source:
        for start, stop in ((5, 9), (0, 3), (2, 20)):  # the first ones stay, to be looked at
            np.testing.assert_array_equal(source.rows(start, stop), expected[start:stop])
        for stream in source.streams():
            stream.forward()
        for start, stop in ((1, 4), (4, 22), (30, 31)):
            np.testing.assert_array_equal(source.rows(start, stop), expected[start:stop])
        with pytest.raises(ValueError, match="row 29 has gone by: a stream gives its rows once and in order; write it"):
            source.rows(29, 35)
    with pytest.raises(ValueError, match="the stream is closed"):
        source.rows(31, 35)


def test_what_stays_is_bounded(files, fifos, monkeypatch):
    monkeypatch.setattr(pipes, "KEPT_BYTES", 4000)
    sent(fifos[0], (files / "p.npy").read_bytes())
    with open_logits(fifos[0]) as source:
        source.rows(0, ROWS)
        with pytest.raises(ValueError, match="has gone by"):
            source.rows(0, 1)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("logits", "tokens"), "'tokens' lies behind 'logits'"),
        (("logits_0", "logits_2", "logits_1"), "'logits_1' lies behind 'logits_2'"),
        (("tokens", "logits_0", "logits_1", "logits_2"), None),
    ],
)
def test_the_order_in_safetensors(fifos, names, message):
    """Files have any; what a stream gives too late is told from its header."""
    header, data = {}, b""
    for name in names:
        x = np.zeros(3 * names.count("logits") or 9, np.int64) if name == "tokens" else np.eye(3, 5, dtype=np.float32)
        part = x.tobytes()
        kind = "I64" if name == "tokens" else "F32"
        header[name] = {"dtype": kind, "shape": x.shape, "data_offsets": [len(data), len(data) + len(part)]}
        data += part
    text = json.dumps(header).encode()
    sent(fifos[0], len(text).to_bytes(8, "little") + text + data)
    with pytest.raises(ValueError, match=message) if message else contextlib.nullcontext(), open_logits(fifos[0]) as s:
        np.testing.assert_array_equal(s.rows(0, 9), np.tile(np.eye(3, 5), (3, 1)))


def test_a_writer_with_more_tensors_behind_the_rows_is_heard_out(fifos):
    """It would else be killed for writing to nobody, which `set -o pipefail` takes for a failure."""
    data = safetensors.numpy.save({"logits": np.eye(3, 5), "z": np.zeros(1 << 20, np.uint8)})
    ended = []

    def write():
        with open(fifos[0], "wb") as file:
            file.write(data)
        ended.append(True)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    with open_logits(fifos[0]) as source:
        source.rows(0, 3)
    thread.join(TIMEOUT)
    assert ended


def test_a_window_that_the_first_rows_do_not_show(files, fifos):
    """A file shows rows from all over before the work; of a stream the figures would not be those of the file."""
    data = bytearray((files / "p.kld").read_bytes())
    scale = np.float32(24 / 65535).tobytes()
    for row in range(20, ROWS):
        data[DUMP_HEADER + row * DUMP_ROW : DUMP_HEADER + row * DUMP_ROW + 4] = scale
    sent(fifos[0], bytes(data))
    with pytest.raises(ValueError, match=r"nats under their maxima, the first 16 no more than 16; .* from a file only"):
        compare_files(fifos[0], files / "q.npy")
    for row in range(20):
        data[DUMP_HEADER + row * DUMP_ROW : DUMP_HEADER + row * DUMP_ROW + 4] = scale
    (files / "wide.kld").write_bytes(data)
    sent(fifos[0], bytes(data))
    found = compare_files(fifos[0], files / "q.npy")
    assert found.facts["p"]["window"] == 24
    assert found == compare_files(files / "wide.kld", files / "q.npy")
