"""What kernels know of a row or of a pair of rows, by name.

Named tuples are values: what travels together, as one argument; they cost nothing. The others are records: `record`
finds room for one on the stack, filled with nothing, and a record is handed on by its address, so that who is given one
may fill it. The structures of kullback.h are records too (contract.py). All fields of records are float64.
"""

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import from_dtype, types
from numba.core import cgutils
from numba.extending import intrinsic


class Row(NamedTuple):
    """Where a row lies and how."""

    address: int  # of its first element
    stride: int  # bytes between elements
    storage: int  # a tag of storage.py


class Pair(NamedTuple):
    """Two rows to be compared, KL(p‖q) being the one way and KL(q‖p) the other."""

    p: Row
    q: Row
    vocab: int  # elements of each
    space: int  # LOGS or MASSES (status.py)
    k: float  # 1/temperature, of logs


class Divergence(NamedTuple):
    """Which divergence of a pair: a number of `KINDS` and what the file of that kind says of its parameters."""

    kind: int
    weight: float
    first: float
    second: float


class Facts(NamedTuple):
    """Where what is known of a pair is kept."""

    statistics: Any  # PairStatistics
    state: Any  # PairState
    scales: Any  # Scales


class Rooms(NamedTuple):
    """Where a block of each row of a pair is decoded to, for lanes like `like`."""

    p: Any
    q: Any
    like: float


class Outcomes(NamedTuple):
    """A block of a normalised pair: p, q and d = ln q - ln p of n outcomes, for lanes like `like`."""

    probs: Any
    partners: Any
    diffs: Any
    n: int
    like: float


class Terms(NamedTuple):
    """What a kind makes its terms of: the parameters of the divergence, its power series (pair_loops.py)."""

    weight: float
    first: float
    second: float
    value: Any
    slope: Any


class Target(NamedTuple):
    """Where a row of a gradient is written."""

    address: int
    storage: int  # what it is written as, a tag of storage.py
    add: int  # whether it is added to what is there


class Softmax(NamedTuple):
    """What is known of a row of logs: the caller has asked for it before."""

    lse: float
    entropy: float
    top1: int


def _record(*fields):
    return from_dtype(np.dtype([(field, np.float64) for field in fields], align=True))


# Of one row. `lse` is k·greatest + beside, which forgets `beside` where k·greatest is large; the index `argmax` is -1
# where the row is undefined.
RowStatistics = _record("lse", "entropy", "argmax", "beside", "greatest")

# Of a pair. `lse_gap` is lse_q - lse_p, without the rounding of either. Of logs also: `beside`, lse less k times the
# row's greatest element, and `beside_gap`, beside_q - beside_p without their rounding.
PairStatistics = _record(
    "kl", "reverse_kl", "entropy_p", "entropy_q", "lse_p", "lse_q", "argmax_p", "argmax_q", "lse_gap", "beside_p",
    "beside_q", "beside_gap",
)  # fmt: skip

# Sums of a block of a pair of logs (cumulants.py has the formulas); `top_p` and `top_q` are the greatest a and b, `far`
# is the greatest |y|.
CumulantSums = _record("s", "b", "a", "g", "u", "q", "top_p", "top_q", "far")

# What these sums are relative to, and the greatest |y| that they must serve.
Frame = _record("k", "shift", "log_p", "log_q", "centre", "reach")

# B, A and G of the blocks so far. Of those that do not hold the greatest element, and of the one that does: S and U of
# p, Z = S + A + B, Q and the size of what Z is made of of q. The greatest elements, the starts of their blocks.
HeldSums = _record(
    "b", "a", "g", "far",
    "s_rest", "u_rest", "z_rest", "w_rest", "size_rest", "s_top", "u_top", "z_top", "w_top", "size_top",
    "top_p", "top_q", "block_p", "block_q",
)  # fmt: skip

# Sums of a block of a pair of masses (mass_sums.py); `least` is the greatest of -x and -y, `far` what tells whether the
# sums served.
MassSums = _record("p", "delta", "a", "r", "top_p", "top_q", "far", "least")

# Of one row (single.py): what its sums are relative to; Σw, the first moment of its logs and the greatest element of a
# block; both sums of the blocks that do not hold the row's greatest element, and of the one that does; that element,
# and where its block starts.
RowSums = _record(
    "k", "shift", "top_log", "mass", "moment", "highest",
    "mass_rest", "moment_rest", "mass_top", "moment_top", "top", "block",
)  # fmt: skip

# Sums of a block, or of all, of the terms of a divergence, of those of its moment, the greatest |d| met, and Σq - Σp
# where a kind asks for it.
DivergenceSums = _record("value", "moment", "far", "net")

# What is kept of a pair between the passes, as kullback_divergence writes it. Of logs `log_mass` is what lies beside
# the greatest element: ln p = k·(a - greatest_p) - log_mass_p. `gap` is lse_q - lse_p, of DISTANT pairs log_mass_q -
# log_mass_p, without the rounding of either. `forward` and `reverse` are the KLs, `moment` is for gradients.py.
PairState = _record(
    "path", "log_mass_p", "log_mass_q", "gap", "greatest_p", "greatest_q", "forward", "reverse", "moment"
)  # fmt: skip
STATE_BYTES = PairState.size

# What turns the stored elements of a pair of rows into p, q and d. Of logs: 2^(k·log2(e)·a - shift)·factor; of DISTANT
# ones by their greatest elements. Of masses: p·raise_p·raise_p_again and q·raise_q·raise_q_again·(1 + excess +
# excess_low) weigh the same, 1/inverse; the raises are powers of two; log_excess is ln(P/Q) of the rows as they are.
Scales = _record(
    "shift", "factor", "minus_gap", "shift_q", "factor_q",
    "top_p", "log_rest_p", "top_q", "log_rest_q", "rest_gap",
    "raise_p", "raise_p_again", "raise_q", "raise_q_again", "excess", "excess_low", "inverse", "log_excess",
)  # fmt: skip


@intrinsic
def record(typingctx, kind):
    """Room on the function's stack for a record of `kind`."""
    result = kind.instance_type

    def codegen(context, builder, signature, args):
        room = cgutils.alloca_once(builder, context.get_data_type(result))
        room.align = 64
        return room

    return result(kind), codegen


@intrinsic
def record_at(typingctx, address, kind):
    """The record of `kind` that lies at an address."""
    result = kind.instance_type

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(result))

    return result(types.int64, kind), codegen


@intrinsic
def copy_record(typingctx, target, source):
    """Fill a record with what another of its kind holds."""

    def codegen(context, builder, signature, args):
        one = ir.Constant(ir.IntType(64), 1)
        cgutils.raw_memcpy(builder, args[0], args[1], one, context.get_abi_sizeof(context.get_data_type(target)))
        return context.get_dummy_value()

    return types.void(target, source), codegen


@intrinsic
def clear_record(typingctx, target):
    """Set every field of a record to 0."""

    def codegen(context, builder, signature, args):
        size = context.get_abi_sizeof(context.get_data_type(target))
        cgutils.memset(builder, args[0], ir.Constant(ir.IntType(64), size), 0)
        return context.get_dummy_value()

    return types.void(target), codegen
