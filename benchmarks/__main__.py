"""`python -m benchmarks`: the full run, a smoke run, the page of the docs, or a check against another commit."""

import argparse
import sys
import tempfile
import time

from . import cases, harness, machine, paired, report, startup
from .worker import Worker


def run(chosen, seconds):
    """Results of all cases: checked, timed, with what the machine was like meanwhile."""
    facts, rows = machine.facts(), []
    began = time.perf_counter()
    for case in chosen:
        rows.append(told(harness.measure(case, seconds), facts["engine"], began))
    return finished({"machine": facts, "rows": rows, "start": {}}, began)


def run_all(seconds):
    """The full run: all cases, the other engine on a few, and fresh processes."""
    began = time.perf_counter()
    results = run(cases.full(), seconds)
    with tempfile.TemporaryDirectory() as cache:
        results["start"] = startup.measure(cache)
        if results["machine"]["engine"] == "compiled":
            with Worker(KULLBACK_ENGINE="jit", NUMBA_CACHE_DIR=cache) as worker:
                for case in cases.second_engine():
                    results["rows"].append(told(worker.measure(case, seconds), "jit", began))
    return finished(results, began)


def told(row, engine, began):
    """The row, once a line about it is on the screen."""
    ratios = ", ".join(f"{name} {peer['ratio']:.2f} ×" for name, peer in row["peers"].items())
    print(
        f"{time.perf_counter() - began:6.1f} s  {row['name']}: {report.duration(row['seconds']['median'])}, "
        f"{row['gb_per_s']:.2f} GB/s, error {report.error(row['error'])}  {ratios}",
        file=sys.stderr,
    )
    return row | {"engine": engine}


def finished(results, began):
    """The results with what is known at the end: the fastest reads seen, the load, how long it took."""
    facts, rows = results["machine"], results["rows"]
    facts["read_gb_per_s"] = {
        str(n): max(row["read_gb_per_s"] for row in rows if row["threads"] == n and "read_gb_per_s" in row)
        for n in sorted({row["threads"] for row in rows if "read_gb_per_s" in row})
    }
    for row in rows:
        if "read_gb_per_s" in row:  # beside a single row the loop that reads may have had a bad moment
            seconds = row["seconds"]
            fastest = row["gb_per_s"] * seconds["median"] / seconds["least"]
            row["share_of_read"] = fastest / facts["read_gb_per_s"][str(row["threads"])]
    facts["load_after"] = machine.load()
    facts["seconds"] = round(time.perf_counter() - began, 1)
    return results


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="every operation once, tiny; nothing is saved")
    parser.add_argument("--docs", action="store_true", help="write docs/benchmarks.md from the newest results")
    parser.add_argument("--check", action="store_true", help="say which case got slower against a commit")
    parser.add_argument("--against", metavar="REV", help="the commit of --check; else the last that differs")
    parser.add_argument("--only", metavar="TEXT", help="only the cases whose name holds TEXT; nothing is saved")
    parser.add_argument("--no-peers", action="store_true", help="our own times only; nothing is saved")
    parser.add_argument("--seconds", type=float, default=0.3, help="for each contestant of a case (0.3)")
    options = parser.parse_args()
    if options.docs:
        print(report.write_page())
        return 0
    chosen = cases.full()
    if options.only:
        chosen = [case for case in chosen if options.only in case.name]
    if options.no_peers:
        chosen = [case.alone() for case in chosen]
    if options.check:
        return paired.check(chosen if options.only else cases.representative(), options.against)
    if options.smoke:
        results = run(cases.small(chosen), 0.002)
    elif options.only or options.no_peers:
        results = run(chosen, options.seconds)
    else:
        results = run_all(options.seconds)
        print(f"saved {report.save(results)}", file=sys.stderr)
    print(report.text(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
