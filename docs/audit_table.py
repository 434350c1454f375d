"""Puts faults into simulated RL runs and counts what audits find: the tables of docs/audits.md.

`make audit-table` makes 200 runs and rewrites the page; `--runs 5` shows a smaller table. It ends with 1 when a clean
run has a finding that its check's stated rate of false alarms cannot explain.
"""

import argparse
import math
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from kullback.rlhf import AUDIT_CHECKS, change_test

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from chart import Chart  # noqa: E402
from rollout_runs import FAULTS, WITH_ENTROPIES, audited, bad_source, clean_run, rounding, with_fault  # noqa: E402

PAGE = ROOT / "docs" / "audits.md"
SHARES = (0.001, 0.01, 0.1, 1.0)
SEQUENCES = 1000
PICTURE = ROOT / "docs" / "pictures" / "change_power.svg"
PROMPTS, SIZES = (1, 10, 100), (0.0, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064)
REPEATS, NOISE, LEVEL = (10, 5), 0.01, 0.01


def applies(fault, share):
    """What all sequences have is no bad source; storage is that of all."""
    return not (fault is bad_source and share == 1.0) and not (fault is rounding and share < 1.0)


def one_run(seed):
    """(findings of the clean run without and with entropies, {(fault, share): (found, named first, share found)})."""
    run = clean_run(seed, SEQUENCES)
    clean = [{f.check for f in audited(run, entropies).findings} for entropies in (False, True)]
    results = {}
    for number, (fault, check) in enumerate(FAULTS.items()):
        for share in SHARES:
            if not applies(fault, share):
                continue
            faulty, which = with_fault(run, fault, share, np.random.default_rng([seed, number, int(1000 * share)]))
            found = audited(faulty, fault in WITH_ENTROPIES).findings
            own = [f for f in found if f.check == check]
            named = [f.check for f in found if f.severity != "note" or check == "rounding"]
            results[fault.__name__, share] = bool(own), named[:1] == [check], sum(f.sequences for f in own) / len(which)
    return clean, results


def measured(runs, first, jobs, minutes):
    end = time.monotonic() + 60 * minutes
    with ProcessPoolExecutor(jobs) as pool:
        for number, result in enumerate(pool.map(one_run, range(first, first + runs))):
            print(f"\r{number + 1} of {runs} runs", end="", file=sys.stderr, flush=True)
            yield result
            if time.monotonic() > end:
                pool.shutdown(cancel_futures=True)
                break
    print(file=sys.stderr)


def fault_table(results):
    lines = [
        f"Of {len(results)} runs:",
        "",
        "| fault put in | check | 0.1 % of sequences | 1 % | 10 % | 100 % | sequences named, of 10 % |",
        "|---|---|---|---|---|---|---|",
    ]
    for fault, check in FAULTS.items():
        cells = []
        for share in SHARES:
            if not applies(fault, share):
                cells.append("–")
                continue
            found, right, _ = np.mean([result[fault.__name__, share] for result in results], axis=0)
            cells.append(f"{100 * found:.3g} %" if found == right else f"{100 * found:.3g} % ({100 * right:.3g} %)")
        # what is told of a whole source or run names more than have the fault
        named = [result[fault.__name__, 0.1][2] for result in results] if applies(fault, 0.1) else [np.inf]
        share = np.mean(named)
        cells.append(f"{100 * share:.0f} %" if share <= 1 else "–")
        words = (fault.__doc__ or fault.__name__.replace("_", " ")).strip().splitlines()[0].rstrip(".")
        lines.append(f"| {words} | {check} | {' | '.join(cells)} |")
    return "\n".join(lines)


def alarm_table(clean):
    runs = 2 * len(clean)
    alarms = Counter(check for pair in clean for found in pair for check in found if check != "rounding")
    lines = [f"Of {len(clean)} clean runs, with and without entropies:", ""]
    lines += ["| check | looks for | severity | stated, at most | clean runs with it |", "|---|---|---|---|---|"]
    for name, check in AUDIT_CHECKS.items():
        seen = "where it is so" if name == "rounding" else f"{alarms[name]} of {runs}"
        lines.append(f"| {name} | {check.looks_for} | {check.severity} | {check.false_alarm_rate:g} | {seen} |")
    return "\n".join(lines), alarms


def power(prompts, size, runs):
    """Share of changed models that are called changed; log-probs of one token after each prompt move by `size`."""
    rng, changed = np.random.default_rng([prompts, int(1e6 * size)]), 0
    for _ in range(runs):
        model = -rng.exponential(1.0, prompts) - 0.2
        updated = model + size * rng.standard_normal(prompts)
        sides = [m + NOISE * rng.standard_normal((n, prompts)) for m, n in zip((model, updated), REPEATS, strict=True)]
        changed += change_test(*(np.minimum(s, 0.0) for s in sides), level=LEVEL, permutations=499, rng=rng).changed
    return changed / runs


def power_table(powers, runs):
    lines = [f"Of {runs} models each, the first column those that did not change:", ""]
    lines += [f"| prompts | {' | '.join(f'{size:g} nats' for size in SIZES)} |", "|---" * (len(SIZES) + 1) + "|"]
    for prompts, row in powers.items():
        lines.append(f"| {prompts} | {' | '.join(f'{100 * share:.3g} %' for share in row)} |")
    return "\n".join(lines)


def power_picture(powers):
    """The same as curves, one doubling of the change after the other."""
    chart = Chart("A changed model is called changed, level 0.01, noise of 0.01 nats", (-0.2, len(SIZES) - 1.5), (0, 1))
    for share in (0, 0.5, 1):
        chart.horizontal(share, f"{100 * share:g} %")
    for (prompts, row), kind in zip(powers.items(), ("c", "b", "a"), strict=True):
        chart.curve(range(len(SIZES) - 1), row[1:], f"{kind} line")
        left = np.interp(0.36, np.maximum.accumulate(row[1:]), range(len(SIZES) - 1)) - 0.05
        words = f"{prompts} prompt{'s' if prompts > 1 else ''}"
        chart.note(left, 0.38, words, kind.replace("c", ""), "end")  # grey words in c would be too pale
    chart.ticks(range(len(SIZES) - 1), "size of the change, nats", [f"{size:g}" for size in SIZES[1:]])
    return chart.svg()


def with_blocks(text, blocks):
    """The text with every block between `<!-- NAME -->` and `<!-- /NAME -->` made anew."""
    for name, block in blocks.items():
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->\n")
        assert start and end, f"{PAGE.name} has no block {name!r}"
        text = f"{before}{start}{block}\n{end}{after}"
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, metavar="SEED")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--minutes", type=float, default=math.inf, help="as many runs as are done by then")
    parser.add_argument("--write", action="store_true", help="rewrite the page")
    parser.add_argument("--only", choices=("faults", "power"), help="audits or the change test alone")
    options = parser.parse_args()
    blocks, alarms = {}, Counter()
    if options.only != "power":
        clean, results = zip(*measured(options.runs, options.first, options.jobs, options.minutes), strict=True)
        blocks["alarms"], alarms = alarm_table(clean)
        blocks["faults"] = fault_table(results)
    if options.only != "faults":
        powers = {prompts: [power(prompts, size, options.runs) for size in SIZES] for prompts in PROMPTS}
        blocks["power"] = power_table(powers, options.runs)
        if options.write:
            PICTURE.write_text(power_picture(powers), encoding="utf-8")
    if options.write:
        PAGE.write_text(with_blocks(PAGE.read_text(encoding="utf-8"), blocks), encoding="utf-8")
    else:
        print(*blocks.values(), sep="\n\n")
    # of 400 runs with a rate of 0.001 each three have one in 0.8 % of all cases
    return int(any(count > 3 for count in alarms.values()))


if __name__ == "__main__":
    sys.exit(main())
