"""Results as a table for the eye, as JSON to keep, and as the page docs/benchmarks.md."""

import json
import re
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "benchmarks.md"
SMALL = 1 << 20  # fewer elements than this: a small call, overhead is what counts


# ---------------------------------------------------------------------------------------------------------- numbers


def duration(seconds):
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def error(value):
    return "exact" if value == 0 else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e+")


def share(row):
    return f"{row['share_of_read']:.2f}" if "share_of_read" in row else ""


def is_small(row):
    return row["rows"] * row["vocab"] < SMALL


def shape(row):
    if row["kind"] == "ragged":
        return f"{row['rows']} sequences, {row['rows'] * row['vocab']:.0e} values".replace("e+0", "e")
    return f"({row['rows']}, {row['vocab']})"


def plain_table(head, rows):
    """Columns aligned with spaces, the first to the left."""
    cells = [head, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    return "\n".join(
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    )


def markdown_table(head, rows):
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# ------------------------------------------------------------------------------------------------------- the tables

OWN_HEAD = [
    "operation", "dtype", "rows are", "shape", "threads", "time", "± %", "best", "GB/s", "G elements/s", "of read",
    "error",
]  # fmt: skip
PEER_HEAD = [
    "operation", "dtype", "rows are", "shape", "peer", "threads", "ours", "peer's", "ratio", "of least", "our error",
    "its error",
]  # fmt: skip


def into_block(page, name, text):
    """Put the text between the marks <!-- name --> and <!-- /name --> of a page."""
    whole = page.read_text(encoding="utf-8")
    before, start, rest = whole.partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    assert start and end, f"{page} has no block {name!r}"
    page.write_text(f"{before}{start}{text}{end}{after}", encoding="utf-8")


def own_line(row):
    seconds = row["seconds"]
    return [
        row["operation"] + ("" if row["engine"] == "compiled" else f" ({row['engine']} engine)"),
        row["dtype"], row["kind"], shape(row), str(row["threads"]), duration(seconds["median"]),
        f"{100 * seconds['spread']:.0f}", duration(seconds["least"]), f"{row['gb_per_s']:.3g}",
        f"{row['elements_per_s'] / 1e9:.3g}", share(row),
        error(row["error"]),
    ]  # fmt: skip


def peer_lines(row):
    return [
        [
            row["operation"], row["dtype"], row["kind"], shape(row), name, f"{row['threads']} : {peer['threads']}",
            duration(row["seconds"]["median"]), duration(peer["seconds"]["median"]), f"{peer['ratio']:.2f} ×",
            f"{peer['ratio_of_least']:.2f} ×", error(row["error"]), error(peer["error"]),
        ]
        for name, peer in row["peers"].items()
    ]  # fmt: skip


def start_lines(start):
    return [[what, duration(t["median"]), duration(t["least"])] for what, t in start.items()]


def text(results):
    """Everything, for a terminal."""
    facts, rows = results["machine"], sorted(results["rows"], key=place)
    parts = [
        "\n".join(machine_lines(facts)),
        plain_table(OWN_HEAD, [own_line(row) for row in rows]),
        plain_table(PEER_HEAD, [line for row in rows for line in peer_lines(row)]),
    ]
    if results["start"]:
        parts.append(plain_table(["a fresh process", "median", "least"], start_lines(results["start"])))
    return "\n\n".join(parts)


def machine_lines(facts):
    packages = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    read = ", ".join(f"{speed:.1f} GB/s on {n}" for n, speed in facts["read_gb_per_s"].items())
    size = f"{facts['cores']} cores, {facts['memory_gib']} GiB"
    return [
        f"{facts['processor']}, {facts['vectors']}, {size}, {facts['system']}",
        f"Python {facts['python']}, kullback {facts['kullback']} ({facts['engine']} engine), {packages}",
        f"memory read by our own loop: {read or 'not measured on'} threads; measured {facts['date']}, "
        f"load average {facts['load_before']} before, {facts['load_after']} after",
    ]


# --------------------------------------------------------------------------------------------------------- JSON, page


def save(results):
    """benchmarks/results/<date>-<processor>.json"""
    facts = results["machine"]
    name = re.sub(r"[^a-z0-9]+", "-", facts["processor"].lower()).strip("-")
    path = RESULTS / f"{facts['date'][:10]}-{name}-{facts['cores']}-cores.json"
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return path


def newest():
    """The results measured last."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*.json")]
    if not found:
        raise FileNotFoundError(f"{RESULTS} holds no results: run `python -m benchmarks` first")
    return max(found, key=lambda results: results["machine"]["date"])


LEGEND = """\
Every result is checked against long double before it is timed; *error* is the worst relative error of any row and
output. Times are medians, ± is the distance between the quartiles, GB/s and elements/s go with the median. GB/s counts
each input once, and what is written. *of read* is the share of the greatest speed at which a loop that computes nothing
read arrays of this run on as many threads, both at their best. Logits are N(0, 3²); those of the second model differ by
noise of 0.01 (near), 0.3 (ordinary, probs), 1 (distant) or 5 (far); masked: 0.3, and a fifth of the outcomes impossible
under both."""
CONTEST = """\
The contestants of a row took turns. Threads are ours : theirs. *ratio* is their median time over ours, above 1 where
we are faster; *of least* the same of the best times. 16-bit rows are widened to float32 by the peers. An error of inf
means NaN or inf where there is a finite truth."""


BUSY = """\
**Measured while others used the machine**: more work was waiting than there are cores. Times are too long, and two
threads had little more than one core between them; ratios hold better than times, best times better than medians."""


def busy(facts):
    """What a reader must know of results that were not measured on a machine of one's own."""
    if max(facts["load_before"] or 0, facts["load_after"] or 0) <= 1.5 * facts["cores"]:
        return []
    return [BUSY]


def behind(rows):
    """A line for each contest that we lost."""
    return [
        f"- {row['operation']}, {row['dtype']}, {row['kind']}, {shape(row)}: {name} needs {peer['ratio']:.2f} of our "
        f"time; its error is {error(peer['error'])}, ours {error(row['error'])}."
        for row in rows
        for name, peer in row["peers"].items()
        if peer["ratio"] < 1
    ]


PAPER = """\
What the rows of one thread let one expect of more: rows are independent and shared out in ranges, nothing is locked and
nothing is combined but sums of some bytes, so that n cores do n times the rows until memory is full: pairs/s =
min(n · the best rate of one thread, 0.8 · bandwidth / bytes of a pair). Not counted: clocks that fall when all cores
work (take 0.8 of it), memory of the other socket (start one process for each), files that do not lie in the page cache.
From disk a job is as fast as the disk: 3 GB/s are 0.4 G pairs/s of float32, less than a single core does. On a cluster
each machine reads its own share of the files and sends one summary of some kilobytes, so m machines do m times as much
until their common storage is full. The first line is the model's own test: what it says of the machine measured here,
and what was measured."""
# name, cores, GB/s at most: two channels of DDR5-5600, twelve of DDR5-4800
MACHINES = [("a desktop computer", 16, 90.0), ("a server", 64, 461.0)]


def on_paper(results):
    """A model of the fused comparison on more cores, tested on those there are."""
    best = {}
    for row in results["rows"]:
        if row["operation"] == "compare" and row["engine"] == "compiled" and not is_small(row):
            key = row["kind"], row["dtype"], row["threads"]
            best[key] = max(best.get(key, 0.0), row["rows"] * row["vocab"] / row["seconds"]["least"])
    cores = results["machine"]["cores"]
    read = results["machine"]["read_gb_per_s"].get(str(cores))
    if read is None:
        return []
    lines = []
    for kind, dtype, size in (("near", "float32", 8), ("ordinary", "float32", 8), ("ordinary", "bfloat16", 4)):
        alone, measured = best.get((kind, dtype, 1)), best.get((kind, dtype, cores))
        if not (alone and measured):
            continue
        for name, count, bandwidth in [("this machine", cores, read / 0.8), *MACHINES]:
            rate = min(count * alone, 0.8e9 * bandwidth / size)
            lines.append(
                [f"{kind}, {dtype}", f"{name}, {count} cores", f"{0.8 * bandwidth:.0f}", f"{rate / 1e9:.3g}",
                 f"{measured / 1e9:.3g}" if count == cores else "", duration(1e6 * 131072 / rate),
                 "memory" if rate < count * alone else "cores"]
            )  # fmt: skip
    head = ["rows are", "on", "GB/s", "G pairs/s", "measured", "a million rows of 131072", "bound by"]
    return ["## More cores, on paper", PAPER, markdown_table(head, lines)]


def place(row):
    """Where a row stands on the page: operation, the rows compared, dtype, size, threads."""
    operations = list(dict.fromkeys(["compare", "kl_divergence", "kl_divergence of probs", row["operation"]]))
    kinds = ["near", "ordinary", "distant", "far"]
    return (
        operations.index(row["operation"]), row["operation"], row["engine"] == "jit",
        kinds.index(row["kind"]) if row["kind"] in kinds else len(kinds), row["dtype"] != "float32", row["dtype"],
        -row["rows"] * row["vocab"], row["threads"],
    )  # fmt: skip


def page(results):
    """docs/benchmarks.md, from one set of results."""
    rows, facts = sorted(results["rows"], key=place), results["machine"]
    large = [row for row in rows if not is_small(row)]
    small = [row for row in rows if is_small(row)]
    fused = [row for row in large if row["operation"] == "compare"]
    others = [row for row in large if row["operation"] != "compare"]
    parts = [
        "# Benchmarks",
        "Generated by `python -m benchmarks --docs` from the newest file in `benchmarks/results/`; `make bench` "
        "measures again.",
        "```text\n" + "\n".join(machine_lines(facts)) + "\n```",
        *busy(facts),
        LEGEND,
        "## The fused comparison: both KL directions, both entropies, both argmaxes",
        markdown_table(OWN_HEAD, [own_line(row) for row in fused]),
        "## Everything else",
        markdown_table(OWN_HEAD, [own_line(row) for row in others]),
        "## Beside others, on the same work",
        CONTEST,
        markdown_table(PEER_HEAD, [line for row in large for line in peer_lines(row)]),
        "## Small calls",
        markdown_table(PEER_HEAD, [line for row in small for line in peer_lines(row)]),
        "## Where others are faster",
        "\n".join(behind(rows)) or "Nowhere in this run.",
        *on_paper(results),
        "## A fresh process",
        markdown_table(["what", "median", "least"], start_lines(results["start"])),
    ]
    return "\n\n".join(parts) + "\n"


def write_page():
    PAGE.write_text(page(newest()), encoding="utf-8")
    return PAGE
