"""Is this tree slower than a commit? Both are installed apart and timed in turns: A B B A, case by case.

The ratio of each pair of neighbouring samples is free of most of what the machine does meanwhile. A case counts as
slower when the whole confidence interval of the median ratio lies above 1 + MARGIN, twice.
"""

import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from . import report
from .worker import ROOT, Worker

MARGIN = 0.03
PAIRS = 21
SAMPLE_SECONDS = 0.05
SOURCES = ("src", "kernels", "pyproject.toml", "setup.py")


def git(*arguments):
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def last_different():
    """HEAD where the working tree differs from it in what gets installed, else the commit before the last change."""
    if git("status", "--porcelain", "--", *SOURCES):
        return "HEAD"
    return git("log", "-1", "--format=%H", "--", *SOURCES) + "^"


def checked_out(revision, directory):
    """The sources of a commit; None: those of the working tree."""
    directory.mkdir()
    if revision is None:
        names = git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
        for name in filter(None, names):
            source, target = ROOT / name, directory / name
            if source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
    else:
        archive = subprocess.run(["git", "archive", revision], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", str(directory)], input=archive, check=True)
    return directory


def built(source, target):
    """The package of those sources, built and installed into a directory of its own."""
    print(f"building {source.name}", file=sys.stderr)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(source)],
        check=True, env=os.environ | {"PYTHONPATH": ""},
    )  # fmt: skip
    return target


# ----------------------------------------------------------------------------------------------------------- verdict


def interval(ratios, confidence=0.99):
    """A confidence interval of the median from order statistics: no assumption about the noise."""
    ordered, n = sorted(ratios), len(ratios)
    below, k = 0.5**n, 0
    while k + 1 < n // 2 and below + math.comb(n, k + 1) * 0.5**n <= (1 - confidence) / 2:
        k += 1
        below += math.comb(n, k) * 0.5**n
    return ordered[k], ordered[n - 1 - k]


def ratios_of(before, now, pairs):
    """Seconds now over seconds before, of samples taken next to each other, in alternating order."""
    found = []
    for turn in range(pairs):
        first, second = (before, now) if turn % 2 == 0 else (now, before)
        one, other = first.ask(time=SAMPLE_SECONDS)["seconds"], second.ask(time=SAMPLE_SECONDS)["seconds"]
        found.append(other / one if turn % 2 == 0 else one / other)
    return found


def compare_case(before, now, case, pairs=PAIRS):
    """(verdict, median ratio, interval) of one case, both results checked; None where one version lacks it."""
    loaded = [worker.ask(load=asdict(case)) for worker in (before, now)]
    if any("absent" in answer for answer in loaded):
        return None
    found = []
    for _ in range(2):
        found += ratios_of(before, now, pairs)
        low, high = interval(found)
        if low <= 1 + MARGIN:
            break
    verdict = "SLOWER" if low > 1 + MARGIN else "faster" if high < 1 - MARGIN else "same"
    return verdict, statistics.median(found), (low, high)


def check(chosen, against=None):
    """Print a line for each case; 1 if one got slower."""
    revision = against or last_different()
    label = git("log", "-1", "--format=%h %s", revision)
    with tempfile.TemporaryDirectory(prefix="kullback-bench-") as work:
        work = Path(work)
        then = built(checked_out(revision, work / "before"), work / "package-before")
        today = built(checked_out(None, work / "now"), work / "package-now")
        print(f"now: the working tree; before: {label}")
        lines = []
        with Worker(then) as before, Worker(today) as now:
            for case in chosen:
                found = compare_case(before, now, case)
                if found:
                    verdict, ratio, (low, high) = found
                    lines.append([case.name, f"{ratio:.3f}", f"{low:.3f} to {high:.3f}", verdict])
                    print("  ".join(lines[-1]), file=sys.stderr)
    print(report.plain_table(["case", "time now / before", "99 % interval", "verdict"], lines))
    return int(any(line[3] == "SLOWER" for line in lines))
