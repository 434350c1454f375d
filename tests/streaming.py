"""Lines of bash in which programs are joined by pipes."""

import os
import subprocess
import sys
from pathlib import Path

TIMEOUT = 60  # seconds: a hang is a failure


def run(line, folder):
    """What a line of bash gives, with the `python` and `kullback` of these tests and the programs of the folder."""
    path = f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}\ncode=$?; wait; exit $code"],
        cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, env=os.environ | {"PATH": path},
    )  # fmt: skip
