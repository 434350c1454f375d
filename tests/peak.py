"""The most memory that a process has held."""

import re
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak():
    """Bytes. On Linux not from getrusage, where a child begins with its parent's: exec keeps ru_maxrss."""
    if STATUS.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())[1]) << 10
    import resource  # macOS counts in bytes

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
