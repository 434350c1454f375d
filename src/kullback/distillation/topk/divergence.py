"""Teachers of which only the K likeliest tokens are known, against dense or sparse students.

What the unknown rest of the teacher is taken to be has a name:

    "bucket"       one more outcome that holds all of the rest, on both sides: a lower bound of the full divergence
    "renormalize"  nothing: both sides are normalised over the listed tokens
    "truncate"     left out of the sums, nothing normalised: may be negative
    "floor"        probability exp(floor) each, nothing normalised: what reverse KL needs to punish leaving the list

and `topk_kl_interval` says between which two numbers the KL of the full vocabulary lies, whatever the
rest is.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kullback._engine import arrays, calls, keywords
from kullback.distillation.losses import gradient_array, no_idle_out, target_of
from kullback.distillation.reduction import row_factors
from kullback.distillation.softcap import decoded, row_blocks
from kullback.distillation.topk.lists import Common, Floats, Listed, against_dense, common_lists, listed
from kullback.distillation.topk.terms import (
    Slopes,
    log_ratio,
    normalised_slopes,
    plain_slopes,
    renormalised,
    with_bucket,
)

__all__ = ["TopkDivergence", "topk_divergence"]

TAILS = ("bucket", "renormalize", "truncate", "floor")
DIVERGENCES = ("forward_kl", "reverse_kl", "jsd")


@dataclass(frozen=True)
class TopkDivergence:
    """A divergence of a sparse teacher and a student, with what it rests on.

    Attributes
    ----------
    values : ndarray of float64, leading shape
        The divergence of each row, nats.
    gradient : ndarray or None
        Σ weights·values by the student's logits, of their shape and dtype (float32 for float8).
    teacher_mass, student_mass : ndarray of float64, leading shape
        Probability that each side gives to the tokens that were compared.
    tokens : ndarray of int64, leading shape
        How many those are: the teacher's list, or what both lists share.
    overlap : ndarray of int64 or None
        How many of the teacher's tokens are among as many likeliest of the student: `tokens` for a sparse student, and
        for a dense one where it was asked for.
    """

    values: NDArray[np.float64]
    gradient: Any  # None, or an array or tensor as the student's logits are
    teacher_mass: NDArray[np.float64]
    student_mass: NDArray[np.float64]
    tokens: NDArray[np.int64]
    overlap: NDArray[np.int64] | None


def topk_divergence(
    student: Any,
    teacher: Any,
    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = "forward_kl",
    tail: Literal["bucket", "renormalize", "truncate", "floor"] = "bucket",
    *,
    beta: float = 0.5,
    floor: float = -100.0,
    temperature: float = 1.0,
    gradient: bool = False,
    weights: Any = None,
    overlap: bool = False,
    vocab_size: int | None = None,
    out: Any = None,
    num_threads: int | None = None,
) -> TopkDivergence:
    """A divergence of a teacher's K likeliest tokens from a student.

    Parameters
    ----------
    student : array_like (..., V) of logits, or sparse rows like the teacher's
        With a sparse student, the tokens compared are those in both lists.
    teacher : (ids, log_probs), both (..., K); or sparse rows
        Log-probabilities under the teacher's full vocabulary, in any order; ids below 0 are padding. Sparse rows are
        any object with `indptr` (T + 1,), `ids` and `log_probs`, such as those read from servers' dumps.
    divergence : {"forward_kl", "reverse_kl", "jsd"}
        KL(teacher‖student), KL(student‖teacher), or β·KL(T‖M) + (1-β)·KL(S‖M) with M = β·T + (1-β)·S.
    tail : {"bucket", "renormalize", "truncate", "floor"}
        What the rest of the teacher is: one token, left out of both sides, left out of its side, or, with "floor",
        exp(floor) a token in reverse KL, where every token outside the list adds q·(ln q - floor), and in "jsd" of beta
        1, which is that; in forward KL and any other "jsd" it is 0. "floor" needs a dense student.
    beta, floor : float
        Of "jsd" and of tail "floor".
    temperature : float
        Divides the student's logits.
    gradient : bool
        Whether to differentiate by the student's logits, into `out` where that is given.
    weights : array_like of the leading shape, optional
        Factors of the rows in the gradient, which must be asked for; 1 by default. Rows of weight 0 get zeros. `values`
        are never weighted.
    overlap : bool
        Whether to count how many of the teacher's tokens are among the likeliest of a dense student.
    vocab_size : int, optional
        Use the first `vocab_size` columns of the student.
    num_threads : int, optional
        Threads at most.

    Returns
    -------
    TopkDivergence
        Accuracy: 1e-6 relative, 1e-11 for float64 input (the page of that name says of what).

    Notes
    -----
    With the whole vocabulary listed every convention but "truncate" of unnormalised lists is the divergence itself.

    Examples
    --------
    >>> import numpy as np
    >>> from kullback.distillation import topk_divergence
    >>> student = np.log([[0.5, 0.2, 0.2, 0.1]])
    >>> result = topk_divergence(student, ([[0, 1]], np.log([[0.6, 0.3]])))
    >>> print(f"{result.values[0]:.4f}", result.teacher_mass.round(2), result.student_mass.round(2))
    0.1212 [0.9] [0.7]
    """
    keywords.choice(divergence, "divergence", DIVERGENCES)
    keywords.choice(tail, "tail", TAILS)
    beta, floor = keywords.number(beta, "beta", 0.0, 1.0), keywords.number(floor, "floor", -np.inf, 0.0)
    gradient, overlap = keywords.flag(gradient, "gradient"), keywords.flag(overlap, "overlap")
    no_idle_out(out, "out", gradient)
    if weights is not None and not gradient:
        raise ValueError("`weights` are factors of the gradient, which `gradient` does not ask for")
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):  # rows without a distribution give NaN
        return _topk_divergence(
            student, teacher, divergence, tail, beta, floor, temperature, gradient, weights, overlap, vocab_size, out,
            num_threads,
        )  # fmt: skip


def _topk_divergence(
    student: Any,
    teacher: Any,
    divergence: str,
    tail: str,
    beta: float,
    floor: float,
    temperature: float,
    gradient: bool,
    weights: Any,
    overlap: bool,
    vocab_size: int | None,
    out: Any,
    num_threads: int | None,
) -> TopkDivergence:
    """`topk_divergence` of names and numbers that were checked."""
    sparse = hasattr(student, "indptr") or (isinstance(student, tuple) and len(student) == 2)
    if sparse:
        if gradient or tail == "floor":
            raise ValueError("a sparse `student` has neither a gradient nor tail='floor': give its logits")
        known = listed(teacher, "teacher")
        common = common_lists(known, listed(student, "student"))
        entropy = None
    else:
        single = calls.batch(("student", student), vocab_size=vocab_size)
        known = listed(teacher, "teacher", single.vocab)
        k = keywords.inverse_temperature(temperature, "logits")
        if known.lead != single.lead:
            raise ValueError(f"`teacher` has rows of shape {known.lead}, expected {single.lead} as `student`")
        common, described = against_dense(known, single, k, num_threads)
        entropy = described["entropy"]
    factors = np.ones(known.lead) if weights is None else row_factors(weights, "weights", known.lead)
    slopes = _slopes(common, divergence, tail, beta, floor, entropy)
    result = None
    if gradient:
        result = gradient_array(student, out, single)
        dense = tail == "floor" and (divergence == "reverse_kl" or (divergence == "jsd" and beta == 1.0))
        _write_gradient(
            known,
            common,
            slopes,
            factors.reshape(-1),
            single,
            k,
            described,
            floor if dense else None,
            result,
            num_threads,
        )
    shape = known.lead
    tokens = ((common.log_p > -np.inf).sum(-1) if sparse else known.counts).reshape(shape)
    shared = tokens if sparse else None
    if overlap and not sparse:
        shared = _overlap(known, student, single.vocab).reshape(shape)
    student_mass = common.q.sum(-1) if sparse else 1.0 - common.rest_q
    return TopkDivergence(
        slopes.values.reshape(shape),
        result,
        common.p.sum(-1).reshape(shape),
        student_mass.reshape(shape),
        tokens,
        shared,
    )


def _overlap(known: Listed, student: Any, vocab: int) -> NDArray[np.int64]:
    """How many listed tokens have logits as great as the n-th greatest of their row, n tokens being listed."""
    seen = arrays.rows(student, "student")
    found = np.zeros(len(known.ids), np.int64)
    most = known.ids.shape[1]
    for index, flat in row_blocks(known.lead, vocab * 8):
        block = decoded(seen.owner[index][..., :vocab], seen.storage)
        ids, counts = known.ids[flat], known.counts[flat]
        greatest = np.sort(np.partition(block, vocab - min(most, vocab), -1)[:, -most:], -1)[:, ::-1]
        least = np.take_along_axis(greatest, np.maximum(counts - 1, 0)[:, None], -1)
        logits = np.take_along_axis(block, np.maximum(ids, 0), -1)
        found[flat] = ((logits >= least) & (ids >= 0)).sum(-1)
    return found


def _slopes(c: Common, divergence: str, tail: str, beta: float, floor: float, entropy: Floats | None) -> Slopes:
    """The convention `tail` applied."""
    if tail == "bucket":
        complete = normalised_slopes(with_bucket(c), divergence, beta)
        return Slopes(complete.values, complete.listed[:, :-1], complete.listed[:, -1])
    if tail == "renormalize":
        complete = normalised_slopes(renormalised(c), divergence, beta)
        return Slopes(complete.values, complete.listed, np.zeros(len(c.p)))
    if tail == "floor" and divergence == "jsd" and 0.0 < beta < 1.0:
        return plain_slopes(c, divergence, beta, -(1.0 - beta) * float(np.log1p(-beta)))
    plain = plain_slopes(c, divergence, beta, 0.0)
    if tail == "floor" and (divergence == "reverse_kl" or (divergence == "jsd" and beta == 1.0)):
        # Σ over the rest of q·(ln q - floor) from the entropy of the whole row
        inside = np.where(c.q > 0.0, c.q * c.log_q, 0.0).sum(-1)
        rest = -np.asarray(entropy) - inside - floor * c.rest_q
        return Slopes(plain.values + rest, plain.listed, plain.rest)
    return plain


def _write_gradient(
    known: Listed,
    c: Common,
    slopes: Slopes,
    weights: Floats,
    single: calls.Batch,
    k: float,
    described: dict[str, NDArray[Any]],
    floor: float | None,
    out: Any,
    num_threads: int | None,
) -> None:
    """k·(h - q·Σh): listed tokens one by one, the others as a multiple of the softmax."""
    padding = known.ids < 0
    entropy_weights = None
    with np.errstate(invalid="ignore", divide="ignore"):
        if floor is not None:
            # q·(ln q - floor - L) outside the list, in the kernel's form s·(a - b·(ln s + H))
            values = slopes.values
            mass_weights = weights * (-floor - values - described["entropy"])
            entropy_weights = -weights
            ratio = log_ratio(c.q, c.log_q, c.log_p)
            at_ids = np.where(c.q > 0.0, c.q * (ratio - values[:, None]), 0.0)
        else:
            total = slopes.listed.sum(-1) + slopes.rest
            mass_weights = weights * (np.where(c.rest_q > 0.0, slopes.rest / c.rest_q, 0.0) - total)
            at_ids = slopes.listed - c.q * total[:, None]
    mass_weights = np.where(weights == 0.0, 0.0, mass_weights)
    at_ids = np.where(weights[:, None] == 0.0, 0.0, k * weights[:, None] * at_ids)
    scatter = calls.Scatter(np.concatenate([[0], np.cumsum(known.counts)]), known.ids[~padding], at_ids[~padding], True)
    calls.softmax_gradient(
        single, k, described, mass_weights, entropy_weights, scatter, target_of(out, single), num_threads
    )
