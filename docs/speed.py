"""The table of README.md that has speed and error side by side, from the newest file in benchmarks/results/."""

import json
from pathlib import Path

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
PEERS = ("torch.compile", "torch eager", "NumPy", "SciPy", "SimSIMD")
# (what it is called here, operation, kind of rows, rows)
SHOWN = (
    ("`compare`, all statistics", "compare", "near", 256),
    ("`kl_divergence`, logits", "kl_divergence", "near", 256),
    ("`kl_divergence`, probabilities", "kl_divergence of probs", "probs", 256),
    ("`jensen_shannon_divergence`, logits", "jensen_shannon_divergence", "near", 256),
    ("`jensen_shannon_divergence`, probabilities", "jensen_shannon_divergence of probs", "probs", 256),
    ("`token_log_ratios`", "token_log_ratios", "near", 256),
    ("`entropy`, logits", "entropy", "near", 256),
    ("distillation loss and gradient", "forward_kl loss + gradient", "near", 1024),
)


def speed_table():
    """Our rate and error; of each peer how many times as long it takes, and its error."""
    found = json.loads(max(RESULTS.glob("*.json")).read_text(encoding="utf-8"))
    machine = found["machine"]
    lines = [
        f"| float32, V = 131,072 | kullback | {' | '.join(PEERS)} |",
        f"|---|---:|{'---:|' * len(PEERS)}",
    ]
    for title, operation, kind, rows in SHOWN:
        cases = [
            row for row in found["rows"]
            if (row["operation"], row["kind"], row["rows"], row["dtype"]) == (operation, kind, rows, "float32")
            and row.get("engine") == "compiled"
        ]  # fmt: skip
        best = max(cases, key=lambda row: row["threads"])
        peers = {}
        for row in sorted(cases, key=lambda row: row["threads"]):
            for name, peer in row["peers"].items():
                if row["threads"] == peer["threads"]:  # as many threads as we had in that row
                    peers[name] = peer
        shown = [f"{best['elements_per_s'] / 1e9:.1f} G/s, {_error(best['error'])}"]
        shown += [f"{peers[n]['ratio']:.2g} ×, {_error(peers[n]['error'])}" if n in peers else "" for n in PEERS]
        lines.append(f"| {title} | {' | '.join(shown)} |")
    where = f"{machine['processor']}, {machine['cores']} cores, {machine['date'][:10]}"
    lines += [
        "",
        f"Pairs of elements a second on {where}; of the others the time as a multiple of ours on as many threads; and",
    ]
    lines += ["the worst relative error of any row, against long double."]
    return "\n".join(lines)


def _error(value):
    return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e+")
