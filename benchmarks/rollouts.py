"""`python -m benchmarks.rollouts`: the audit of large logs: time, tokens a second, memory.

Logs of a simulated run are written to a folder and removed afterwards: JSON lines as NeMo-RL writes them (ids, mask,
advantages and log-probs of both sides), the same compressed, and as Parquet. `kullback rollouts` then reads each in a
process of its own, whose memory is watched. `--docs` writes the table into docs/rollouts.md.
"""

import argparse
import gzip
import json
import resource
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from . import machine, report
from .job import MIB, Process

PAGE = Path(__file__).parent.parent / "docs" / "rollouts.md"
COMMAND = [sys.executable, "-c", "import sys; from kullback.cli import main; sys.exit(main())", "rollouts"]
WITHOUT_ORJSON = [
    sys.executable, "-c", "import sys; sys.modules['orjson'] = None; from kullback.cli import main; sys.exit(main())",
    "rollouts",
]  # fmt: skip
SEED = 18
SEQUENCES = 64  # a step
PROMPT = 100


def rows_of_step(rng, step):
    """The rows of a step, in NeMo-RL's fields; a step is several policy updates old where rounding is largest."""
    for i in range(SEQUENCES):
        n = PROMPT + int(np.clip(rng.lognormal(6.5, 0.6), 50, 8000))
        hard = rng.random(n) < 0.3
        rollout = np.where(hard, -rng.exponential(1.0, n), -rng.exponential(1e-3, n)).astype(np.float32)
        noise = rng.normal(0, 0.02, n) * -np.expm1(rollout.astype(np.float64))
        train = np.minimum(rollout + noise.astype(np.float32), np.float32(0))
        rollout[:PROMPT] = train[:PROMPT] = 0
        yield {
            "agent_ref": [{"name": ("math", "code", "tools")[i % 3]}],
            "rewards": [float(rng.random() < 0.3)],
            "input_lengths": [n],
            "token_ids": [rng.integers(0, 150_000, n).tolist()],
            "token_loss_mask": [[0] * PROMPT + [1] * (n - PROMPT)],
            "sample_loss_mask": [1.0],
            "advantages": [[0.25] * n],
            "generation_logprobs": [rollout.tolist()],
            "prev_logprobs": [train.tolist()],
            "step": step,
        }


def write_log(path, size):
    """About `size` bytes of JSON lines."""
    rng = np.random.default_rng(SEED)
    step = written = 0
    with open(path, "w") as file:
        while written < size:
            step += 1
            for row in rows_of_step(rng, step):
                written += file.write(json.dumps(row) + "\n")
                if written >= size:
                    break


def as_parquet(source, target):
    """The same rows in columns."""
    import pyarrow as pa
    from pyarrow import parquet

    def columns(row):
        flat = {name: x[0] if isinstance(x, list) else x for name, x in row.items()}
        return flat | {"agent_ref": flat["agent_ref"]["name"]}

    writer, rows = None, []
    with open(source) as file:
        for line in file:
            rows.append(columns(json.loads(line)))
            if len(rows) == 512:
                writer, rows = _flush(pa, parquet, target, writer, rows), []
    if rows:
        writer = _flush(pa, parquet, target, writer, rows)
    writer.close()


def _flush(pa, parquet, target, writer, rows):
    table = pa.Table.from_pylist(rows)
    writer = writer or parquet.ParquetWriter(target, table.schema)
    writer.write_table(table)
    return writer


def cpu_seconds():
    """Of all processes that were waited for: what a machine that has other work to do takes as well."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(path, command, processes, rounds):
    """Median time of the command on a file that is in the page cache, and the most memory of its own."""
    out = path.parent / "out.json"
    took, worked, own = [], [], 0
    for _ in range(rounds):
        before = cpu_seconds()
        process = Process([*command, str(path), "--processes", str(processes), "--quiet", "--json", str(out)])
        process.finish()
        took.append(process.seconds)
        worked.append(cpu_seconds() - before)
        own = max(own, process.own)
    found = json.loads(out.read_text(encoding="utf-8"))
    seconds = statistics.median(took)
    tokens = sum(x["sound_tokens"] for x in found["by_position"])
    return {
        "bytes": path.stat().st_size, "seconds": seconds, "tokens": tokens, "tokens_per_s": tokens / seconds,
        "cpu_seconds": statistics.median(worked), "own_memory_mib": own / MIB, "processes": processes,
    }  # fmt: skip


def run(folder, size, rounds):
    """Each kind of file by one process and, what is in pieces, by all cores."""
    results = {"machine": machine.facts(), "rows": []}
    with tempfile.TemporaryDirectory(prefix="kullback-rollouts-", dir=folder) as inside:
        plain = Path(inside) / "log.jsonl"
        write_log(plain, size)
        cores = results["machine"]["cores"]
        cases = [("JSON lines", plain, COMMAND, 1), ("JSON lines", plain, COMMAND, cores),
                 ("JSON lines without orjson", plain, WITHOUT_ORJSON, 1)]  # fmt: skip
        packed, table = plain.with_suffix(".jsonl.gz"), plain.with_suffix(".parquet")
        with open(plain, "rb") as source, gzip.open(packed, "wb", compresslevel=3) as target:
            shutil.copyfileobj(source, target, 1 << 22)
        as_parquet(plain, table)
        cases += [("JSON lines, gzip", packed, COMMAND, 1), ("Parquet", table, COMMAND, 1)]
        for name, path, command, processes in cases:
            results["rows"].append({"name": name, **measure(path, command, processes, rounds)})
    results["machine"]["load_after"] = machine.load()
    return results


def table_of(results):
    heads = ["file", "size", "processes", "time", "tokens/s", "CPU time", "tokens per CPU s", "memory of its own"]
    rows = [
        [
            row["name"], f"{row['bytes'] / 1e9:.2f} GB", str(row["processes"]), f"{row['seconds']:.1f} s",
            f"{row['tokens_per_s'] / 1e6:.2f} million", f"{row['cpu_seconds']:.1f} s",
            f"{row['tokens'] / row['cpu_seconds'] / 1e6:.2f} million",
            f"{row['own_memory_mib']:.0f} MiB",
        ]
        for row in results["rows"]
    ]  # fmt: skip
    return heads, rows


def text(results):
    facts = results["machine"]
    head = (
        f"{facts['processor']}, {facts['cores']} cores, {facts['date']}, load average {facts['load_before']} before, "
        f"{facts['load_after']} after; {results['rows'][0]['tokens']:,} counted tokens"
    )
    return f"{head}\n\n" + report.plain_table(*table_of(results))


def into_page(results, page=PAGE):
    """The table between the marks of the page."""
    line = text(results).partition("\n")[0]
    report.into_block(page, "rates", f"{line}.\n\n{report.markdown_table(*table_of(results))}\n")


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rollouts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gb", type=float, default=0.1, help="size of the JSON lines (0.1)")
    parser.add_argument("--rounds", type=int, default=1, help="of which the median is taken (1)")
    parser.add_argument("--folder", help="where the files are written (the system's folder for temporary files)")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/rollouts.md")
    options = parser.parse_args(arguments)
    results = run(options.folder, int(options.gb * 1e9), options.rounds)
    print(text(results))
    if options.docs:
        into_page(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
