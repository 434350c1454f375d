"""Libraries that may be missing: ONE table of what brings each, and one way to say so."""

import importlib
from typing import Any

__all__ = ["EXTRAS", "library"]

# the extra of this package that installs a module's library
EXTRAS = {
    "aiohttp": "files",
    "dask": "dask",
    "distributed": "dask",
    "fsspec": "files",
    "gguf": "table",
    "h5py": "files",
    "jinja2": "report",
    "matplotlib": "table",
    "ml_dtypes": "files",
    "narwhals": "drift",
    "pyarrow": "files",
    "rich": "eval",
    "scipy": "stats",
    "tokenizers": "report",
    "torch": "hf",
    "transformers": "hf",
    "yaml": "files",
    "zarr": "files",
}


def library(name: str, what: str) -> Any:
    """Import the module `name`, which `what` needs, or say what brings it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        wanted = f"kullback[{EXTRAS[package]}]" if package in EXTRAS else package
        raise ImportError(f"{what} needs {package}: pip install {wanted}") from error
