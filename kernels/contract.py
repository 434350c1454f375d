"""kullback.h, read: what cffi parses, and the Numba signature of every function in it.

Plain text in, so that neither numba nor a compiler is needed to know the contract.
"""

import functools
import re
from pathlib import Path

HEADER = Path(__file__).with_name("kullback.h")


def declarations():
    """The part of the header that cffi parses."""
    text = HEADER.read_text(encoding="utf-8")
    return text[text.index("/* CDEF */") : text.index("/* END CDEF */")]


def functions():
    """{name: list of C parameter types} of every function in the header, in its order."""
    text = re.sub(r"/\*.*?\*/", "", declarations(), flags=re.DOTALL)
    found = {}
    for name, parameters in re.findall(r"\bint64_t\s+(kullback_\w+)\(([^)]*)\)\s*;", text):
        types = [re.sub(r"\w+$", "", " ".join(p.split())).strip() for p in parameters.split(",")]
        found[name] = types
    return found


def kinds():
    """{name: number} of the kinds of divergence in the header, in its order."""
    text = declarations()
    listed = text[text.index("/* KINDS */") : text.index("/* END KINDS */")]
    return {name.lower(): int(number) for name, number in re.findall(r"#define KULLBACK_(\w+) (\d+)", listed)}


@functools.cache
def structure(name):
    """A structure of the header as a record of its 64-bit words: numbers, and pointers as addresses."""
    import numpy as np
    from numba import from_dtype

    text = re.sub(r"/\*.*?\*/", "", declarations(), flags=re.DOTALL)
    fields = {end: body for body, end in re.findall(r"typedef struct \{([^}]*)\}\s*(\w+);", text)}[name]
    words = re.findall(r"(\w+);", fields)
    return from_dtype(np.dtype([(word, np.int64) for word in words], align=True))


def numba_signature(name):
    """The signature of the kernel behind a function: structures as records, other pointers as addresses."""
    from numba import types

    def kind(c_type):
        if "kullback_" in c_type:
            return structure(re.search(r"kullback_\w+", c_type)[0])
        return types.float64 if c_type == "double" else types.int64

    return types.int64(*(kind(c_type) for c_type in functions()[name]))


def source_digest():
    """A digest of every file the machine code depends on: what a cache of it must be keyed by."""
    import hashlib

    digest = hashlib.sha256()
    for path in [*sorted(HEADER.parent.rglob("*.py")), HEADER]:
        digest.update(path.relative_to(HEADER.parent).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:20]
