"""Between which two numbers KL(teacher‖student) lies when only the teacher's K likeliest tokens are known."""

from typing import Any

import numpy as np

from kullback._engine import arrays, calls, keywords
from kullback.distillation.softcap import decoded, row_blocks
from kullback.distillation.topk.lists import Common, Floats, Listed, against_dense, listed
from kullback.distillation.topk.terms import kl_terms, log_ratio, with_bucket

__all__ = ["topk_kl_interval"]


def topk_kl_interval(
    student_logits: Any, teacher: Any, *, temperature: float = 1.0, vocab_size: int | None = None
) -> tuple[Floats, Floats]:
    """Bounds of KL(teacher‖student) over the full vocabulary, from the teacher's K likeliest tokens alone.

    Parameters
    ----------
    student_logits : array_like, shape (..., V)
    teacher : (ids, log_probs), both (..., K); or sparse rows
        As in `topk_divergence`. The list must hold the K likeliest tokens: none may be likelier than the least of it.
    temperature : float
        Divides the student's logits.
    vocab_size : int, optional
        Use the first `vocab_size` columns.

    Returns
    -------
    lower, upper : float64 arrays of the leading shape
        lower ≤ KL ≤ upper for every teacher that agrees with its list, up to the rounding of float64, for which both
        are widened by 1e-12 of the terms they are made of. `upper` is attained by such a teacher; it is inf where the
        student gives no probability to a token that the teacher may, or one whose logarithm is beyond float64.
        A rest below 1e-12, which may be the rounding of the list alone, does not make `lower` inf.

    Raises
    ------
    ValueError
        A list whose rest is more than the other tokens can have, as of the K least likely ones: more than 1.1 times the
        least listed probability each, and 0.02 in all, which is left to lists of 16-bit numbers.

    Notes
    -----
    Let τ = 1 - Σ p over the list be the mass of the rest R, c the least listed probability, so p_v ≤ c on R, and
    s = Σ p ln(p/q) over the list, which is known. The tail is g(p) = Σ_R p_v ln(p_v/q_v).

    Below: with σ = Σ_R q_v, the log-sum inequality gives g(p) ≥ τ ln(τ/σ), with equality for p_v ∝ q_v. So the KL is at
    least s + τ ln(τ/σ): the divergence with the tail in one bucket.

    Above: g is convex, and the admissible tails {0 ≤ p_v ≤ c, Σ_R p_v = τ} are a polytope, so g is greatest at one of
    its vertices. At a vertex at most one p_v lies strictly between 0 and c, since two such could be moved against each
    other in both directions. Hence m = ⌊τ/c⌋ of the p_v are c, one is r = τ - m·c, the others 0, and

        g = m·c·ln c + r·ln r - Σ p_v ln q_v,

    of which only the last sum depends on where the masses lie. Since c ≥ r ≥ 0, the rearrangement inequality makes
    -Σ p_v ln q_v greatest with c on the m smallest q_v of R and r on the next. That vertex is admissible, so the
    bound is attained.

    Examples
    --------
    >>> import numpy as np
    >>> from kullback.distillation import topk_kl_interval
    >>> student = np.log([[0.5, 0.2, 0.2, 0.1]])
    >>> lower, upper = topk_kl_interval(student, ([[0, 1]], np.log([[0.6, 0.3]])))
    >>> print(f"{lower[0]:.4f} {upper[0]:.4f}")
    0.1212 0.2310
    """
    single = calls.batch(("student_logits", student_logits), vocab_size=vocab_size)
    known = listed(teacher, "teacher", single.vocab)
    if known.lead != single.lead:
        raise ValueError(f"`teacher` has rows of shape {known.lead}, expected {single.lead} as `student_logits`")
    k = keywords.inverse_temperature(temperature, "logits")
    lower, upper = np.empty(single.rows), np.empty(single.rows)
    seen = arrays.rows(student_logits, "student_logits")
    for index, flat in row_blocks(single.lead, single.vocab * 16):
        with np.errstate(invalid="ignore", over="ignore"):  # rows without a distribution give NaN
            block = decoded(seen.owner[index][..., : single.vocab], seen.storage).astype(np.float64, copy=False)
            part = Listed(known.ids[flat], known.log_probs[flat], (len(known.ids[flat]),))
            rows = calls.batch(("student", block))
            common, _ = against_dense(part, rows, k, None)
            complete = with_bucket(common)
            terms = kl_terms(complete.p, complete.log_p, complete.q, complete.log_q)
            # a rest that may be the rounding of the list, where the student has nothing, need not be there
            terms[(terms[:, -1] == np.inf) & (common.rest_p < 1e-12), -1] = 0.0
            log_q = _log_softmax(block, rows, k)
            np.put_along_axis(log_q, np.where(part.ids < 0, part.ids[:, :1], part.ids), np.inf, -1)
            lower[flat], upper[flat] = _bounds(part, common, terms.sum(-1), log_q)
    return lower.reshape(known.lead)[()], upper.reshape(known.lead)[()]


def _log_softmax(block: Floats, rows: calls.Batch, k: float) -> Floats:
    """From the greatest element, whatever k and the elements are."""
    at = block.argmax(-1)[:, None]
    of_top = calls.describe(rows, keywords.LOGS, k, ("lse",), None, at)["log_probs"]
    # in halves: the difference of two float64 may be beyond float64
    below = 2.0 * (k * (0.5 * block - 0.5 * np.take_along_axis(block, at, -1)))
    return np.asarray(below + of_top)


def _bounds(part: Listed, c: Common, bucket: Floats, log_q: Floats) -> tuple[Floats, Floats]:
    """The interval of some rows; log_q (n, V) has inf at listed tokens."""
    vocab = log_q.shape[1]
    least = np.where(part.ids < 0, np.inf, c.p).min(-1)
    rest = np.where(least > 0.0, c.rest_p, 0.0)  # a list that ends in 0 leaves nothing
    spare = vocab - part.counts
    # a tenth and 2 % are left to lists of 16-bit numbers
    impossible = rest > 1.1 * spare * np.minimum(least, 1.0) + 0.02
    if impossible.any():
        row = int(np.argmax(impossible))
        raise ValueError(
            f"`teacher` leaves {rest[row]:.3g} to {spare[row]} tokens of at most {least[row]:.3g}, the least listed: "
            "expected the likeliest tokens of each row"
        )
    full = np.minimum(np.floor(rest / np.where(least > 0.0, least, 1.0)), spare).astype(np.int64)
    inside = np.where(c.p > 0.0, c.p * log_ratio(c.p, c.log_p, c.log_q), 0.0)
    high, size = np.zeros(len(bucket)), np.abs(inside).sum(-1)
    for t in np.flatnonzero(rest > 0.0):
        m, cap = int(full[t]), least[t]
        smallest = np.partition(log_q[t], m)[: m + 1] if m < vocab else log_q[t]
        remainder = rest[t] - m * cap if m < spare[t] else 0.0
        masses = np.append(np.full(m, cap), [remainder] if remainder > 0.0 else [])
        terms = masses * (np.log(masses) - smallest[: masses.size])
        high[t], size[t] = terms.sum(), size[t] + np.abs(terms).sum() + np.abs(smallest[: masses.size]).max(initial=0)
    slack = 1e-12 * (1.0 + np.where(np.isfinite(size), size, 0.0))
    upper = np.where(rest > 0.0, inside.sum(-1) + high, bucket)
    return np.maximum(bucket - slack, 0.0), np.maximum(upper, bucket) + slack
