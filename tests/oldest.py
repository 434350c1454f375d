"""The least versions that pyproject.toml allows, as pip constraints: `python tests/oldest.py > constraints.txt`."""

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parent.parent / "pyproject.toml"
NOT_TESTED = {"lint", "docs", "bench", "dask"}  # tools, and what `make test` does not install


def constraints():
    """{name: least version} of the dependencies and of the extras that `make test` installs."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(line for name in extras if name not in NOT_TESTED for line in extras[name])]
    found = {}
    for line in wanted:
        match = re.fullmatch(r"([A-Za-z0-9_.-]+)(?:\[.*\])?>=([0-9.]+)", line)
        if match:
            found[match[1].lower()] = match[2]
        elif not line.startswith("kullback["):
            raise ValueError(f"{line!r} in pyproject.toml has no least version")
    return found


if __name__ == "__main__":
    for name, version in sorted(constraints().items()):
        print(f"{name}=={version}")
