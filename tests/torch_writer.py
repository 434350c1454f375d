"""A file as torch.save writes it, made without torch: a pickle of opcodes beside the bytes of tensors."""

import struct
import zipfile

import numpy as np

CLASSES = {"float32": "FloatStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage", "int64": "LongStorage",
           "float64": "DoubleStorage"}  # fmt: skip
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def text(word):
    data = word.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def numbers(values):
    return b"(" + b"".join(b"J" + struct.pack("<i", n) for n in values) + b"t"


def tensor(key, x, offset=0, strides=None):
    """The opcodes that make one tensor."""
    storage = b"(" + text("storage") + f"ctorch\n{CLASSES[x.dtype.name]}\n".encode() + text(key) + text("cpu")
    storage += b"J" + struct.pack("<i", x.size) + b"tQ"
    steps = strides or [n // x.itemsize for n in np.ascontiguousarray(x).strides]
    place = b"J" + struct.pack("<i", offset) + numbers(x.shape) + numbers(steps)
    return REBUILD + b"(" + storage + place + b"\x89ccollections\nOrderedDict\n)RtR"


def save(path, tensors, *, compressed=False, more=b"", **place):
    """Arrays by name, or one alone, written to `path`; `more`: opcodes of a further entry."""
    arrays = tensors if isinstance(tensors, dict) else {"": tensors}
    made = {name: tensor(str(i), x, **place) for i, (name, x) in enumerate(arrays.items())}
    if isinstance(tensors, dict):
        code = b"}(" + b"".join(text(name) + ops for name, ops in made.items()) + more + b"u"
    else:
        code = made[""]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + code + b".")
        archive.writestr("archive/byteorder", "little")
        for i, x in enumerate(arrays.values()):
            archive.writestr(f"archive/data/{i}", np.ascontiguousarray(x).tobytes())
