"""Kinds of divergence of pairs of rows: a file each, of the name and number that kullback.h gives them.

Plain data here, so that neither Numba nor a compiler is needed to know the kinds; registry.py has their kernels.
"""

from ..contract import kinds

KINDS = kinds()  # {name: number in kullback.h}
