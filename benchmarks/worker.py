"""A process that measures on request, so that another engine or another version can be set beside this one.

One JSON object a line in, one a line out: {"measure": case} -> a row; {"load": case} -> its error, checked;
{"time": seconds} -> the seconds of one call of what was loaded, from about that many seconds of calls.
"""

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).parents[1]


class Worker:
    """A child process; `package` is a directory to import kullback from before all others."""

    def __init__(self, package=None, **environment):
        path = os.pathsep.join(str(p) for p in (package, os.environ.get("PYTHONPATH")) if p)
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.worker"],
            cwd=ROOT, env=os.environ | {"PYTHONPATH": path} | environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the measuring process ended with status {self.process.wait()}")
        return json.loads(answer)

    def measure(self, case, seconds):
        return self.ask(measure=asdict(case), seconds=seconds)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.communicate()  # no more requests: it ends


def case_of(fields):
    from .harness import Case

    return Case(**fields | {"peers": tuple(fields["peers"])})


def answers(requests):
    """The answer to each request in turn."""
    import kullback

    from . import harness, operations

    ours = None
    for request in requests:
        if "measure" in request:
            yield harness.measure(case_of(request["measure"]), request["seconds"])
        elif "load" in request:
            case = case_of(request["load"])
            if case.operation not in operations.OPERATIONS:
                yield {"absent": True}
                continue
            _, ours, truth = harness.prepare(case)
            try:
                found = ours()
            except TypeError:  # a dtype that this version does not take yet; the smoke run would fail
                yield {"absent": True}
                continue
            yield {"error": harness.verify(case, found, truth), "package": kullback.__file__}
        else:
            calls = max(1, int(request["time"] / max(harness.clock(ours, 1), 1e-7)))
            yield {"seconds": harness.clock(ours, calls)}


def main():
    channel = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        for answer in answers(json.loads(line) for line in sys.stdin):
            channel.write(json.dumps(answer) + "\n")
            channel.flush()


if __name__ == "__main__":
    main()
