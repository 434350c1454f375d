"""What an entry point answers with, and the check of a row array that they share. The numbers stand in kullback.h."""

from numba import types

from .decode import is_storage
from .lanes import kernel
from .memory import pointer
from .storage import AFFINE16

OK, NEGATIVE_P, NEGATIVE_Q, TOKEN, ARGUMENT = 0, 1, 2, 3, 4
LOGS, MASSES = 0, 1


@kernel
def readable(array, vocab, space):
    """True for an array of rows that the kernels can read."""
    known = is_storage(array.storage) and LOGS <= space <= MASSES
    return known and array.data != 0 and vocab >= 1 and not (array.storage == AFFINE16 and space == MASSES)


@kernel
def write_number(address, t, value):
    """Element t of an array of float64, where there is one."""
    if address != 0:
        pointer(address, types.float64)[t] = value


@kernel
def report(bad_row, t, status):
    if bad_row != 0:
        pointer(bad_row, types.int64)[0] = t
    return status
