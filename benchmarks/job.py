"""`python -m benchmarks.job`: comparisons of large files, at full size or small: rate, memory, kills.

Pairs of synthetic float16 files are written to a folder and removed afterwards. Then, on them:

rate     the command `kullback compare` on files that are not in the page cache, against the slower of reading them
         alone and computing alone, all three in turns; and the most memory of its own that the process had
kills    the same job with a checkpoint, killed (SIGKILL) at random points and resumed until it is done: its JSON
         against that of the uninterrupted job, byte by byte
mapped   `kullback.compare` on two memory-mapped files: memory beyond the page cache
"""

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from . import machine, report

VOCAB = 131_072
GIB, MIB = 1 << 30, 1 << 20
SEED = 20
POOL, NOISES = 1 << 21, 6  # see write_pair
BLOCK = 16 * MIB  # bytes that a plain read asks for: what a job reads of one file at a time
IN_MEMORY = GIB  # bytes of both files that the kernels are timed on, at most
MOST_KILLS = 3  # of one job

COMMAND = [sys.executable, "-c", "import sys; from kullback.cli import main; sys.exit(main())", "compare"]
MAPPED = """\
import sys
import numpy as np
import kullback as kb
p, q = (np.load(path, mmap_mode="r") for path in sys.argv[1:])
print(kb.compare(p, q).summary().kl.mean)
"""


# ------------------------------------------------------------------------------------------------------------ files


def write_pair(folder, total, vocab=VOCAB, seed=SEED):
    """Two float16 files of `total` bytes together, and the tokens; logits N(0, 3²), those of q 0.3 away.

    The rows are stretches of one long row, begun at random places; with them go stretches of one of NOISES long rows of
    the other model. Rounding numbers to float16 would take longer than writing them.
    """
    rows = max(1, total // (4 * vocab))
    rng = np.random.default_rng(seed)
    base = 3 * rng.standard_normal(vocab + POOL, dtype=np.float32)
    noisy = [base + np.float32(0.3) * rng.standard_normal(base.size, dtype=np.float32) for _ in range(NOISES)]
    base, noisy = base.astype(np.float16), [x.astype(np.float16) for x in noisy]
    starts, noises = rng.integers(0, POOL, rows), rng.integers(0, NOISES, rows)
    paths = [Path(folder) / name for name in ("p.npy", "q.npy", "tokens.npy")]
    p, q = (open_memmap(path, "w+", np.float16, (rows, vocab)) for path in paths[:2])
    for t in range(rows):
        part = slice(starts[t], starts[t] + vocab)
        p[t], q[t] = base[part], noisy[noises[t]][part]
        if t % 2048 == 2047:  # few dirty pages at a time
            p.flush(), q.flush()
    p.flush(), q.flush()
    np.save(paths[2], rng.integers(0, vocab, rows))
    return paths


def drop(paths):
    """Put the files out of the page cache."""
    for path in paths:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(path):
    """Read a file from end to end, into the same memory again and again."""
    room = bytearray(BLOCK)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(room):
            pass


# ------------------------------------------------------------------------------------------------------------ rates


def seconds_of(work):
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def disk_seconds(paths, threads):
    """Seconds that reading the files takes by itself, one file after the other or a thread for each."""
    drop(paths)
    with ThreadPoolExecutor(threads) as pool:
        return seconds_of(lambda: list(pool.map(read, paths)))


class Kernel:
    """The columns of a job computed for rows that lie in memory: the same call as in the job, nothing read."""

    def __init__(self, paths):
        from kullback.evaluation.columns import Plan
        from kullback.evaluation.reading import CHUNK_BYTES

        mapped = [np.load(path, mmap_mode="r") for path in paths]
        total, vocab = mapped[0].shape
        rows = min(total, max(1, IN_MEMORY // (4 * vocab)))
        self.p, self.q = (np.array(x[:rows]) for x in mapped)
        self.tokens = np.load(paths[0].parent / "tokens.npy")[:rows]
        self.plan = Plan("logits", vocab, total)
        self.step = max(1, CHUNK_BYTES // (4 * vocab))
        self.bytes = self.p.nbytes + self.q.nbytes
        self.run(self.step)

    def run(self, rows):
        from kullback.evaluation.columns import compare_rows

        for start in range(0, rows, self.step):
            part = slice(start, start + self.step)
            compare_rows(self.plan, self.p[part], self.q[part], (0.0, 0.0), start, self.tokens[part], None)

    def seconds(self):
        return seconds_of(lambda: self.run(len(self.p)))


# --------------------------------------------------------------------------------------------------------- processes


class Process:
    """A process whose memory is watched: the most it had of its own, and with the page cache that it maps."""

    def __init__(self, command):
        self.began = time.perf_counter()
        self.popen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.own = self.resident = 0
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def _watch(self):
        path = f"/proc/{self.popen.pid}/status"
        with contextlib.suppress(OSError, KeyError):  # a process that ended has no memory
            while True:
                with open(path, encoding="ascii", errors="replace") as file:
                    pairs = dict(line.split(":", 1) for line in file)
                kib = {name: int(pairs[name].split()[0]) for name in ("RssAnon", "RssShmem", "VmHWM")}
                self.own = max(self.own, (kib["RssAnon"] + kib["RssShmem"]) << 10)
                self.resident = max(self.resident, kib["VmHWM"] << 10)
                time.sleep(0.002)

    def finish(self):
        """Wait for it; its output."""
        out, err = self.popen.communicate()
        self.seconds = time.perf_counter() - self.began
        self._watcher.join()
        if self.popen.returncode:
            raise RuntimeError(f"exit code {self.popen.returncode}: {err.strip()}")
        return out

    def kill(self):
        """SIGKILL; whether it was still at work."""
        at_work = self.popen.poll() is None
        if at_work:
            self.popen.send_signal(signal.SIGKILL)
        self.popen.communicate()
        return at_work and self.popen.returncode == -signal.SIGKILL


def job(paths, json_path, *options):
    p, q, tokens = map(str, paths)
    return Process([*COMMAND, p, q, "--tokens", tokens, "--quiet", "--json", str(json_path), *options])


# ------------------------------------------------------------------------------------------------------ measurements


def measure_rate(paths, rounds, options=()):
    """Reading alone, computing alone and the job in turns; each one's rate is that of the median round."""
    files, json_path = paths[:2], paths[0].parent / "result.json"
    total = sum(path.stat().st_size for path in files)
    kernel = Kernel(files)
    took = {name: [] for name in ("disk, a file at a time", "disk, both files", "kernel", "job")}
    memory = {"own": 0, "resident": 0}
    for _ in range(rounds):
        took["disk, a file at a time"].append(disk_seconds(files, 1))
        took["disk, both files"].append(disk_seconds(files, 2))
        took["kernel"].append(kernel.seconds() * total / kernel.bytes)
        drop(files)
        process = job(paths, json_path, *options)
        process.finish()
        took["job"].append(process.seconds)
        memory = {name: max(most, getattr(process, name)) for name, most in memory.items()}
    rates = {name: total / statistics.median(seconds) / 1e9 for name, seconds in took.items()}
    disk = max(rate for name, rate in rates.items() if name.startswith("disk"))
    return {
        "bytes": total,
        "seconds": took,
        "gb_per_s": rates,
        "share_of_slower": rates["job"] / min(disk, rates["kernel"]),
        "own_memory_mib": memory["own"] / MIB,
        "resident_memory_mib": memory["resident"] / MIB,
    }


def measure_kills(paths, times, seed=SEED, options=()):
    """Kill the job at random points and resume it, `times` times over; how many results had the same bytes."""
    folder = paths[0].parent
    log, found, whole = (folder / name for name in ("checkpoint.log", "killed.json", "uninterrupted.json"))
    job(paths, whole, *options).finish()
    job(paths, found, "--checkpoint", str(log), *options).finish()
    size, expected = log.stat().st_size, whole.read_bytes()
    same, kills, points = 0, 0, []
    choose = random.Random(seed)
    for _ in range(times):
        for path in (log, found):
            path.unlink(missing_ok=True)
        for point in sorted(choose.random() for _ in range(choose.randint(1, MOST_KILLS))):
            process = job(paths, found, "--checkpoint", str(log), "--resume", *options)
            while process.popen.poll() is None and not (log.exists() and log.stat().st_size >= point * size):
                time.sleep(0.0005)
            time.sleep(choose.random() * 0.02)  # anywhere in the work on a chunk
            if process.kill():
                kills += 1
                points.append(log.stat().st_size / size)
        job(paths, found, "--checkpoint", str(log), "--resume", *options).finish()
        same += found.read_bytes() == expected
    for path in (log, found, whole):
        path.unlink(missing_ok=True)
    return {"jobs": times, "kills": kills, "same": same, "points": points}


def measure_mapped(paths):
    """Memory beyond the page cache of a comparison of two memory-mapped files."""
    files = paths[:2]
    drop(files)
    process = Process([sys.executable, "-c", MAPPED, *map(str, files)])
    process.finish()
    total = sum(path.stat().st_size for path in files)
    return {
        "bytes": total,
        "gb_per_s": total / process.seconds / 1e9,
        "own_memory_mib": process.own / MIB,
        "resident_memory_mib": process.resident / MIB,
    }


def run(folder, sizes, kills, rounds, vocab=VOCAB, options=()):
    """All of it in `folder`; `sizes`: bytes of the pair for the job, and of the mapped pair."""
    results = {"machine": machine.facts(), "vocab": vocab}
    with tempfile.TemporaryDirectory(prefix="kullback-job-", dir=folder) as inside:
        paths = write_pair(inside, sizes[0], vocab)
        results["rate"] = measure_rate(paths, rounds, options)
        if kills:
            results["kills"] = measure_kills(paths, kills, options=options)
        if sizes[1] and sizes[1] != sizes[0]:
            paths = write_pair(inside, sizes[1], vocab)
        if sizes[1]:
            results["mapped"] = measure_mapped(paths)
    results["machine"]["load_after"] = machine.load()
    return results


# ------------------------------------------------------------------------------------------------------------ output


def text(results):
    facts, rate = results["machine"], results["rate"]
    lines = [[name, f"{gb:.2f} GB/s", ""] for name, gb in rate["gb_per_s"].items()]
    lines += [
        ["job / min(disk, kernel)", f"{rate['share_of_slower']:.2f}", "0.8 or more"],
        ["its own memory, at most", f"{rate['own_memory_mib']:.0f} MiB", "under 400"],
        ["with what is mapped of files", f"{rate['resident_memory_mib']:.0f} MiB", ""],
    ]
    if "kills" in results:
        kills = results["kills"]
        lines.append([f"same bytes after {kills['kills']} kills", f"{kills['same']} of {kills['jobs']}", "all"])
    if "mapped" in results:
        mapped = results["mapped"]
        name = f"mapped, {mapped['bytes'] / GIB:.2f} GiB: its own memory"
        lines.append([name, f"{mapped['own_memory_mib']:.0f} MiB", "under 300"])
    head = (
        f"{facts['processor']}, {facts['cores']} cores, {facts['engine']} engine, {facts['date']}, "
        f"load average {facts['load_before']} before, {facts['load_after']} after\n"
        f"{rate['bytes'] / 1e9:.2f} GB of float16 pairs, {results['vocab']} outcomes, "
        f"median of {len(rate['seconds']['job'])}"
    )
    return f"{head}\n\n" + report.plain_table(["", "measured", "wanted"], lines)


def save(results):
    """benchmarks/results/jobs/<date>.json: a folder of its own, for the other results make a page."""
    path = report.RESULTS / "jobs" / f"{results['machine']['date'][:10]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return path


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.job", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gib", type=float, default=0.25, help="size of the pair that is compared (0.25)")
    parser.add_argument("--kills", type=int, default=2, help="jobs that are killed and resumed (2)")
    parser.add_argument("--mapped-gib", type=float, help="size of the mapped pair (as --gib, at most 8: 2 files of 4)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of disk, kernel and job (3)")
    parser.add_argument("--vocab", type=int, default=VOCAB, help=f"outcomes ({VOCAB})")
    parser.add_argument("--folder", help="where the files are written (the system's folder for temporary files)")
    parser.add_argument("--save", action="store_true", help="keep the results in benchmarks/results/jobs/")
    options = parser.parse_args(arguments)
    mapped = min(options.gib, 8.0) if options.mapped_gib is None else options.mapped_gib
    sizes = int(options.gib * GIB), int(mapped * GIB)
    results = run(options.folder, sizes, options.kills, options.rounds, options.vocab)
    print(text(results))
    if options.save:
        print(f"saved {save(results)}", file=sys.stderr)
    return 0 if "kills" not in results or results["kills"]["same"] == results["kills"]["jobs"] else 1


if __name__ == "__main__":
    sys.exit(main())
