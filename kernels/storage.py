"""How elements may be stored: ONE table. A storage type is one entry of it.

Plain data, so that neither Numba nor a compiler is needed to read it: the kernels (how words become lanes, which loops
read them in registers, what a gradient may be written as), the gate of the package, the readers of files, the torch and
JAX faces, tests and benchmarks all take from here what they know of storage. kullback.h repeats the tags for C, and a
test holds it to the table.
"""

from typing import NamedTuple


class Storage(NamedTuple):
    """One way to store an element. A float is a sign, then exponent bits, then mantissa bits, subnormals included."""

    name: str  # NumPy's, or that of ml_dtypes and torch
    bytes: int
    words: str = ""  # the Numba scalar its words travel as in the kernels, another for each; "": no plain float
    exponent: int = 0  # bits; the bias is 2^(exponent - 1) - 1
    mantissa: int = 0
    infinities: bool = True  # as IEEE 754 has it; else the greatest exponent is as any other, and NaN all ones alone
    in_registers: bool = False  # the loops over logs have a version of their own that decodes it in registers
    gradients: bool = False  # gradients are written as it
    numpy: bool = False  # NumPy itself has it; else ml_dtypes
    safetensors: str = ""  # its name there

    @property
    def tag(self) -> int:
        """Its number in kullback.h."""
        return STORAGES.index(self)

    @property
    def bias(self) -> int:
        """What is subtracted from the exponent bits."""
        return (1 << (self.exponent - 1)) - 1

    @property
    def least(self) -> float:
        """Its least positive value."""
        return float(2.0 ** (1 - self.bias - self.mantissa))


# float8 has no version of the loops: its blocks are decoded on the way in. Measured on 16 rows of 131072 logits, one
# thread: `compare` takes 1.55 ms (e4m3fn) and 1.21 ms (e5m2) either way, float32 1.20; and the loops of compare and
# describe compile in 69 seconds instead of 105.
STORAGES = (
    Storage("float64", 8, "float64", 11, 52, gradients=True, numpy=True, safetensors="F64"),
    Storage("float32", 4, "float32", 8, 23, gradients=True, numpy=True, safetensors="F32"),
    Storage("float16", 2, "int16", 5, 10, in_registers=True, gradients=True, numpy=True, safetensors="F16"),
    Storage("bfloat16", 2, "uint16", 8, 7, in_registers=True, gradients=True, safetensors="BF16"),
    # uint16 codes, of which each row has a scale and a least value of its own
    Storage("affine16", 2),
    Storage("float8_e4m3fn", 1, "uint8", 4, 3, infinities=False, safetensors="F8_E4M3"),
    Storage("float8_e5m2", 1, "int8", 5, 2, safetensors="F8_E5M2"),
)
FLOAT64, FLOAT32, FLOAT16, BFLOAT16, AFFINE16, FLOAT8_E4M3FN, FLOAT8_E5M2 = range(len(STORAGES))
FLOATS = tuple(kind for kind in STORAGES if kind.words)
