"""Damaged files of every format until something else than a documented error comes out: `make fuzz`.

`python tests/fuzzing.py FORMAT --examples 1000 --seed 0` writes a sound file, damages it in one of many ways, and opens
and reads it. Only ValueError and OSError may come out, none may take longer than PATIENCE, and no file of a few
kilobytes may cost more than MEMORY. Each example depends on the seed and its number alone; the file of one that failed,
or that ended the process, is kept in build/fuzz. tests/test_sources_fuzz.py runs some hundreds of each format.
"""

import argparse
import faulthandler
import io
import json
import os
import pickle
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch_writer
from peak import peak

from kullback.evaluation.job import compare_files
from kullback.evaluation.merging import merge_logs
from kullback.evaluation.sources import open_logits, open_sparse
from kullback.evaluation.tokens import load_tokens

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "build" / "fuzz"
PATIENCE = 20  # seconds, on a busy machine
MEMORY = 256 << 20
READ = 1 << 24  # bytes of rows read from a file that opens
ROWS = np.linspace(-9, 0, 60, dtype=np.float32).reshape(12, 5)
COLUMNS = {"tokens": np.arange(12) % 5, "groups": np.arange(12) // 4}


# ---- sound files, each written by the library of its format ----


def saved(save, *arrays, **named):
    """The bytes that one of NumPy's functions writes."""
    stream = io.BytesIO()
    save(stream, *arrays, **named)
    return stream.getvalue()


def npy(path):
    path.write_bytes(saved(np.save, ROWS))


def npz(path):
    path.write_bytes(saved(np.savez, logits=ROWS, **COLUMNS))


def npz_deflated(path):
    path.write_bytes(saved(np.savez_compressed, logits=ROWS, **COLUMNS))


def safetensors(path):
    import safetensors.numpy

    path.write_bytes(safetensors.numpy.save({"logits": ROWS, **COLUMNS}))


def dump(path):
    tokens = np.arange(30, dtype="<i4") % 5
    rows = b"".join(struct.pack("<2f6H", 1e-4, -9, *range(6)) for _ in range(12))
    path.write_bytes(b"_logits_" + struct.pack("<3i", 10, 5, 3) + tokens.tobytes() + rows)


def hdf5(path, **options):
    import h5py

    with h5py.File(path, "w") as file:
        file.create_dataset("logits", data=ROWS, **options)
        for name, values in COLUMNS.items():
            file[name] = values


def hdf5_chunked(path):
    hdf5(path, chunks=(5, 5), compression="gzip", shuffle=True, fletcher32=True)


def zarr(path, zarr_format=3):
    import zarr as library

    group = library.open_group(path, mode="w", zarr_format=zarr_format)
    for name, values in {"logits": ROWS, **COLUMNS}.items():
        group.create_array(name, shape=values.shape, dtype=values.dtype, chunks=(5, 5)[: values.ndim])[:] = values


def zarr_2(path):
    zarr(path, 2)


def zarr_sharded(path):
    import zarr as library

    library.create_array(path, data=ROWS, chunks=(2, 5), shards=(6, 5))


def log(path):
    """The checkpoint of a job; what is damaged in it is signed again, as if its writer had meant it."""
    np.savez(path.with_suffix(".npz"), logits=ROWS, **COLUMNS)
    options = {"jensen_shannon": True, "top_k": [2], "chunk_bytes": 4 * 2 * 5 * 4}
    compare_files(*[path.with_suffix(".npz")] * 2, checkpoint=path, **options)


def tokens_text(path):
    path.write_text(", ".join(map(str, range(-100, 100))))


def tokens_json(path):
    path.with_suffix(".json").write_text(json.dumps(list(range(-100, 100)), indent=1))
    path.with_suffix(".json").rename(path)


def tokens_npy(path):
    path.write_bytes(saved(np.save, np.arange(-100, 100)))


def table(kind="list"):
    import pyarrow as pa

    flat = pa.array(ROWS.reshape(-1))
    offsets = pa.array(range(0, 61, 5), pa.int32())
    lists = pa.ListArray.from_arrays(offsets, flat) if kind == "list" else pa.FixedSizeListArray.from_arrays(flat, 5)
    return pa.table({"logits": lists, **COLUMNS})


def parquet(path):
    import pyarrow.parquet as pq

    pq.write_table(table(), path, row_group_size=5)


def parquet_plain(path):
    import pyarrow.parquet as pq

    pq.write_table(table("fixed"), path, row_group_size=12, compression="none", use_dictionary=False)


def arrow(path, kind="list", stream=False, compression=None):
    import pyarrow as pa

    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    source = table(kind)
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.OSFile(str(path), "wb") as file, new(file, source.schema, options=options) as writer:
        writer.write_table(source, max_chunksize=5)


def arrow_fixed(path):
    arrow(path, "fixed", compression="zstd")


def arrow_stream(path):
    arrow(path, stream=True)


def answers(path):
    """vLLM, SGLang, chat and completion answers, a line each."""
    listed = [{"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": [{"token": "b", "logprob": -3.0}]}]
    documents = [
        {"choices": [{"prompt_logprobs": [None, {"9": {"logprob": -9.5, "rank": 4}, "7": {"logprob": -1.0}}]}]},
        {"meta_info": {"input_token_logprobs": [[-0.5, 7, None]], "input_top_logprobs": [[[-0.5, 7, None]]]}},
        {"choices": [{"logprobs": {"content": listed}}]},
        {"choices": [{"logprobs": {"tokens": ["x"], "token_logprobs": [-2.5], "top_logprobs": [{"y": -0.3}]}}]},
    ]
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))


def distillkit(path):
    shutil.copytree(ROOT / "tests" / "data" / "distillkit" / "plain", path)


def torch(path):
    torch_writer.save(path, {"logits": ROWS, **COLUMNS})


def top_k(path, save=np.savez_compressed):
    """A group of ids and log-probabilities with what was read."""
    group = {"ids": np.arange(48).reshape(12, 4) % 7, "log_probs": ROWS[:, :4], "token_ids": COLUMNS["tokens"]}
    path.write_bytes(saved(save, **group, groups=COLUMNS["groups"]))


def hfkldr(path):
    head = struct.pack("<8sIIIIHHI", b"HFKLDR\0\0", 1, 9, 40, 3, 4, 0, 0)
    blocks = [struct.pack("<4I4ffI", 1, 2, 3, 4, -0.5, -2, -3, -4, 0.1, 0) for _ in range(12)]
    path.write_bytes(head + struct.pack("<27I", *range(27)) + b"".join(blocks))


def pickled(path):
    """Files that would run code if anything unpickled them."""
    stream = io.BytesIO()
    np.save(stream, np.array([[Payload(), Payload()]], object), allow_pickle=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("logits.npy", stream.getvalue())
        archive.writestr("data.pkl", pickle.dumps(Payload()))


class Payload:
    """Unpickling it leaves the word in a file name no test overlooks."""

    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle was executed')",)


WRITERS = (npy, npz, npz_deflated, safetensors, dump, hdf5, hdf5_chunked, zarr, zarr_2, parquet, parquet_plain)
WRITERS = (*WRITERS, zarr_sharded, arrow, arrow_fixed, arrow_stream, answers, distillkit, pickled, torch, top_k, hfkldr)
WRITERS = (*WRITERS, log, tokens_text, tokens_json, tokens_npy)
PIPED = {"piped_npy": npy, "piped_safetensors": safetensors, "piped_dump": dump}  # the same bytes as streams
FORMATS = {writer.__name__: writer for writer in WRITERS} | PIPED
SPARSE = ("answers", "distillkit", "top_k", "hfkldr")
BESIDE = ("log", "tokens_text", "tokens_json", "tokens_npy")  # files of other things than logits


# ---- damage ----


def edge(rng, size):
    """An integer of that many bytes that headers are not ready for."""
    top = 1 << (8 * size)
    value = rng.choice(
        [0, 1, top - 1, top // 2, top // 2 - 1, rng.randrange(top), rng.randrange(256), 1 << rng.randrange(8 * size)]
    )
    return value.to_bytes(size, rng.choice(["little", "big"]))


def damaged(rng, data):
    """The bytes with one to four changes, small or large, in the beginning or anywhere."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4])):
        if not data:
            break
        near = min(len(data), rng.choice([16, 64, 512, len(data)]))
        at = rng.choice([rng.randrange(near), len(data) - 1 - rng.randrange(near)])
        kind = rng.randrange(8)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.randrange(256)
        elif kind in (2, 3):
            new = edge(rng, rng.choice([1, 2, 4, 8]))
            data[at : at + len(new)] = new
        elif kind == 4:
            del data[at:]
        elif kind == 5:
            del data[at : at + rng.randrange(1, 40)]
        elif kind == 6:
            start = rng.randrange(len(data))
            data[at:at] = data[start : start + rng.randrange(1, 200)]
        else:
            number = [i for i in range(max(0, at - 200), min(len(data), at + 200)) if 48 <= data[i] < 58]
            if number:  # a digit of a text header becomes another number
                i = rng.choice(number)
                data[i : i + 1] = str(rng.choice([0, 9, 99, -1, 10**9, 10**19, 1e400])).encode()
    return bytes(data)


def damage(rng, path):
    """Damage one file, of a folder any one."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    chosen = rng.choice(files)
    chosen.write_bytes(damaged(rng, chosen.read_bytes()))


def signed(data):
    """A checkpoint with its checksums made to fit what it holds."""
    line, _, rest = data.partition(b"\n")
    before, middle, job = line.partition(b', "job": ')
    before = before.rpartition(b" ")[0] + b" %d" % zlib.crc32(job[:-1])
    line = before + middle + job + b"\n"
    seed, parts = zlib.crc32(line), [line]
    while len(rest) >= 32:
        length = int.from_bytes(rest[20:28], "little")
        archive = rest[32 : 32 + length]
        checksum = zlib.crc32(archive, zlib.crc32(rest[:28], seed))
        parts += [rest[:28], checksum.to_bytes(4, "little"), archive]
        rest = rest[32 + length :]
    return b"".join([*parts, rest])


# ---- the reader under fire ----


def read(name, path):
    """Open the file and read what it says it holds, up to READ bytes."""
    if name in SPARSE:
        json.dumps(open_sparse(path).facts())
        return
    if name == "log":
        path.write_bytes(signed(path.read_bytes()))
        for summary in merge_logs([path], partial=True).values():
            json.dumps(summary.to_dict())
        return
    if name in BESIDE:
        named = path.with_name(f"{path.name}.{name.partition('_')[2]}")
        shutil.copyfile(path, named)
        load_tokens(named)
        return
    if name in PIPED:
        read_piped(path.read_bytes())
        return
    with open_logits(path, salvage=True) as source:
        rows, vocab = source.shape
        fit = READ // (vocab * source.dtype.itemsize)
        for start in {0, max(0, rows - fit)}:
            source.rows(start, min(rows, start + fit))
        json.dumps(source.facts())


def read_piped(data):
    """As a stream whose writer has gone; a pipe holds the few kilobytes of these files."""
    reading, writing = os.pipe()
    try:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(data)
        with open_logits(f"/dev/fd/{reading}") as source:
            json.dumps(source.facts())
            rows, vocab = source.shape
            step = max(1, READ // (vocab * source.dtype.itemsize))
            for start in range(0, min(rows, 3 * step), step):
                source.rows(start, min(rows, start + step))
    finally:
        os.close(reading)


def attempt(name, path):
    """None, or what was wrong."""
    before = peak()
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    try:
        read(name, path)
    except (ValueError, OSError):
        pass
    except BaseException:
        return traceback.format_exc()
    finally:
        faulthandler.cancel_dump_traceback_later()
    grown = peak() - before
    return f"{grown >> 20} MiB for a file of a few kilobytes\n" if grown > MEMORY // 4 else None


def limit_memory():
    """Allocations far beyond a file's size fail instead of straining the machine."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))


def fuzz(name, examples, seed=0, seconds=None, first=0):
    """(examples done, kept files of those that failed)."""
    failures, done = [], 0
    with tempfile.TemporaryDirectory(prefix="kullback-fuzz-") as folder:
        sound, path = Path(folder, "sound"), Path(folder, "damaged")
        FORMATS[name](sound)
        if name != "pickled":
            read(name, sound)  # it is: and all libraries are loaded before memory is limited
        limit_memory()
        KEPT.mkdir(parents=True, exist_ok=True)
        current = KEPT / f"{name}-{seed}-current"
        began = time.monotonic()  # the first of all imports libraries, which may take longer than all `seconds`
        for number in range(first, first + examples):
            if seconds is not None and time.monotonic() - began > seconds:
                break
            if path.is_dir():
                shutil.rmtree(path)
            copy(sound, path)
            if number:  # the first is the sound file
                damage(random.Random(f"{name} {seed} {number}"), path)
            current.write_text(str(number))
            problem = attempt(name, path)
            done += 1
            if problem:
                kept = KEPT / f"{name}-{seed}-{number}"
                if not kept.exists():
                    copy(path, kept)
                failures.append(kept)
                print(f"{kept.relative_to(ROOT)}: {problem}", file=sys.stderr, flush=True)
                if len(failures) >= 5:
                    break
        current.unlink(missing_ok=True)
    return done, failures


def copy(source, target):
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("format", choices=FORMATS, nargs="?")
    parser.add_argument("--list", action="store_true", help="print the formats")
    parser.add_argument("--examples", type=int, default=10**9)
    parser.add_argument("--first", type=int, default=0, help="number of the first example")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.list or options.format is None:
        print(*FORMATS)
        return 0
    warnings.simplefilter("ignore")
    done, failures = fuzz(options.format, options.examples, options.seed, options.seconds, options.first)
    print(f"{options.format}: {done} damaged files, {len(failures)} failures")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
