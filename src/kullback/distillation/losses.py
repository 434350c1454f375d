"""Losses of distillation with their gradients, from logits, for NumPy arrays and whatever is viewed as one.

A loss compares a student with a teacher row by row; rows that are masked, ignored or weighted 0 are not read. One
pass over the logits gives loss and gradient; nothing of the size of the logits is made besides the gradient itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kullback._engine import arrays, calls, keywords, labelling, views
from kullback.distillation.reduction import Counted, Reduction, reduce_tokens
from kullback.distillation.softcap import capped_rows

__all__ = ["DISTILLATION_LOSSES", "DistillationResult", "distillation_loss"]

TEACHER, STUDENT = 0, 1  # p and q of the kernels


class Kernel(NamedTuple):
    """What the kernels are asked for: a kind and its weight, first and second, with p the teacher."""

    kind: str
    parameters: tuple[float, float, float]


@dataclass(frozen=True)
class Loss:
    """One loss: its coefficient, where it has one, and how the kernels compute it."""

    formula: str
    kernel: Callable[[float], Kernel]
    coefficient: str | None = None
    default: float = 0.0
    least: float = 0.0
    greatest: float = 1.0


def _jsd(beta: float) -> Kernel:
    if 0.0 < beta < 1.0:
        return Kernel("mixture", (beta, beta, 1.0 - beta))
    return Kernel("linear", (0.5, 1.0 - beta, beta))


def _skew(weight: float) -> Kernel:
    if 0.0 < weight < 1.0:
        return Kernel("mixture", (weight, 1.0, 0.0))
    return Kernel("linear", (0.5, 1.0 - weight, 0.0))


def _skew_reverse(weight: float) -> Kernel:
    rest = 1.0 - weight
    if 0.0 < rest < 1.0:
        return Kernel("mixture", (rest, 0.0, 1.0))
    return Kernel("linear", (0.5, 0.0, rest))


def _renyi(alpha: float) -> Kernel:
    if alpha == 1.0:
        return Kernel("linear", (0.5, 1.0, 0.0))
    return Kernel("renyi", (alpha, 0.0, 0.0))


LossName = Literal[
    "forward_kl", "reverse_kl", "jsd", "symmetric_kl", "skew_kl", "skew_reverse_kl", "tv", "renyi",
    "cressie_read", "soft_cross_entropy",
]  # fmt: skip

DISTILLATION_LOSSES: dict[str, Loss] = {
    "forward_kl": Loss("KL(T‖S)", lambda _: Kernel("linear", (0.5, 1.0, 0.0))),
    "reverse_kl": Loss("KL(S‖T)", lambda _: Kernel("linear", (0.5, 0.0, 1.0))),
    "jsd": Loss("β·KL(T‖M) + (1-β)·KL(S‖M), M = β·T + (1-β)·S", _jsd, "beta", 0.5),
    "symmetric_kl": Loss("w·KL(T‖S) + (1-w)·KL(S‖T)", lambda w: Kernel("linear", (0.5, w, 1.0 - w)), "weight", 0.5),
    "skew_kl": Loss("KL(T‖w·T + (1-w)·S)", _skew, "weight", 0.1),
    "skew_reverse_kl": Loss("KL(S‖w·S + (1-w)·T)", _skew_reverse, "weight", 0.1),
    "tv": Loss("½ Σ|T - S|", lambda _: Kernel("variation", (0.0, 0.0, 0.0))),
    "renyi": Loss("D_α(T‖S)", _renyi, "alpha", 0.5, 1e-3, 100.0),
    "cressie_read": Loss(
        "2/(λ(λ+1))·(Σ T·(T/S)^λ - 1)",
        lambda power: Kernel("cressie_read", (power, 0.0, 0.0)),
        "lambda_",
        2 / 3,
        -10.0,
        10.0,
    ),
    "soft_cross_entropy": Loss("-Σ T·ln S", lambda _: Kernel("linear", (0.5, 1.0, 0.0))),
}


class RowLoss(NamedTuple):
    """A loss ready to be evaluated on batches of rows (teacher, student)."""

    kernel: Kernel
    inverse_temperature: float
    with_entropy: bool  # of the teacher: cross-entropy is KL + entropy
    num_threads: int | None

    def evaluate(
        self,
        pair: calls.Batch,
        row_weights: NDArray[np.float64],
        sides: tuple[int, ...],
        outs: list[Any],
        mask: NDArray[np.bool_] | None,
    ) -> NDArray[np.float64]:
        """The losses of the rows, (T,), 0 where masked; row_weights times their gradients into `outs`."""
        k, threads = self.inverse_temperature, self.num_threads
        known = None
        targets = {side: target_of(outs[side], pair) for side in sides}
        for side, target in targets.items():
            if not (self.with_entropy and side == TEACHER):
                known = calls.divergence_gradient(pair, k, *self.kernel, side, row_weights, target, threads, known)
        values = known[0] if known else calls.divergence(pair, keywords.LOGS, k, *self.kernel, threads, mask)
        if self.with_entropy:
            teacher = pair.side(0)
            described = calls.describe(teacher, keywords.LOGS, k, ("lse", "entropy", "top1"), threads)
            values = values + (described["entropy"] if mask is None else np.where(mask, described["entropy"], 0.0))
            if TEACHER in targets:
                kernel = Kernel("cross_entropy", self.kernel.parameters)
                found = (np.ascontiguousarray(values), np.empty((pair.rows, calls.STATE)))
                calls.divergence_gradient(pair, k, *kernel, TEACHER, row_weights, targets[TEACHER], threads, found)
        return values


def target_of(out: Any, pair: calls.Batch) -> calls.Target:
    """The first columns of a gradient as the kernels write them; what lies beyond the vocabulary becomes 0."""
    width = out.shape[-1]
    if width > pair.vocab:
        out[..., pair.vocab :] = 0
        out = out[..., : pair.vocab]
    return calls.Target.of(out, "gradient", (*pair.lead, pair.vocab))


def gradient_array(logits: Any, out: Any, batch: calls.Batch, side: int = 0, out_name: str = "out") -> Any:
    """A new array like the logits, one side of a batch, or `out`, checked: written in place, apart from the inputs."""
    view, name = batch.views[side], batch.names[side]
    shape = (*view.lead, view.vocab)
    if view.lead != batch.lead:
        raise ValueError(f"`{name}` has shape {shape}, expected leading axes {batch.lead}: gradients do not broadcast")
    if out is not None:
        calls.keep_apart(calls.Target.of(out, out_name, shape).owner, out_name, batch.memory)
        return out
    return array_like(logits, view)


def no_idle_out(out: Any, name: str, wanted: bool) -> None:
    """Refuse an `out` for a gradient that nobody asked for: it would keep what it holds."""
    if out is not None and not wanted:
        raise ValueError(f"`{name}` is given, but `gradient` does not ask for what goes there: ask, or leave it out")


def scale_of(temperature: float, squared: bool) -> float:
    """temperature², where it is wanted, else 1."""
    value = keywords.real(temperature, "temperature")
    scale = value * value if keywords.flag(squared, "temperature_squared") else 1.0
    if not 0.0 < scale < np.inf:
        raise ValueError(f"`temperature` is {value}, whose square is beyond the range of float64")
    return scale


def array_like(x: Any, view: arrays.Rows) -> Any:
    """A new array or tensor of the shape of `x`, of its dtype where kernels write that, else of float32."""
    shape = (*view.lead, view.vocab)
    kind = views.STORAGES[view.storage]
    if views.is_tensor(x) and x.is_floating_point():
        return x.detach().new_empty(shape) if kind.gradients else x.detach()[..., :0].float().new_empty(shape)
    if not kind.gradients:
        return np.empty(shape, np.float32)
    return np.empty(shape, kind.name if kind.numpy else view.owner.dtype)


@dataclass(frozen=True)
class DistillationResult:
    """A reduced loss and what it is made of.

    Attributes
    ----------
    loss : float, or ndarray of the leading shape for reduction "none"
    student_gradient, teacher_gradient : ndarray or None
        d loss / d logits, of the logits' shape and dtype (float32 for float8); of the sum of all losses for
        reduction "none".
    per_token : ndarray of float64, leading shape
        The loss of each row before weights and reduction, 0 where it is not counted.
    tokens : int
        Rows counted.
    divisor : float
        What the sum was divided by: sums and divisors of several batches add up to one mean.
    """

    loss: float | NDArray[np.float64]
    student_gradient: Any
    teacher_gradient: Any
    per_token: NDArray[np.float64]
    tokens: int
    divisor: float


def loss_kernel(loss: str, **coefficients: float | None) -> Kernel:
    """The kernel of a loss by name, its coefficient checked: of those given (not None) it may have one."""
    keywords.choice(loss, "loss", DISTILLATION_LOSSES)
    entry = DISTILLATION_LOSSES[loss]
    value = entry.default
    for name, given in coefficients.items():
        if given is None:
            continue
        if name != entry.coefficient:
            own = "none" if entry.coefficient is None else f"`{entry.coefficient}`"
            raise ValueError(f"`{name}` is {keywords.shown(given)}, but {loss!r} has {own}")
        value = keywords.number(given, f"{name}` of `{loss}", entry.least, entry.greatest)
    return entry.kernel(value)


def distillation_loss(
    student_logits: Any,
    teacher_logits: Any,
    loss: LossName = "forward_kl",
    beta: float | None = None,
    *,
    alpha: float | None = None,
    lambda_: float | None = None,
    weight: float | None = None,
    gradient: Literal["student", "teacher", "both"] | None = None,
    temperature: float = 1.0,
    temperature_squared: bool = False,
    softcap: float | None = None,
    labels: Any = None,
    ignore_index: int = -100,
    mask: Any = None,
    weights: Any = None,
    reduction: Reduction = "token-mean",
    divisor: float | None = None,
    vocab_size: int | None = None,
    student_out: Any = None,
    teacher_out: Any = None,
    num_threads: int | None = None,
) -> DistillationResult:
    """A loss between a student's and a teacher's next-token distributions, with its gradient if wanted.

    Parameters
    ----------
    student_logits, teacher_logits : array_like, shape (..., V)
        float64, float32, float16, bfloat16, float8_e4m3fn or float8_e5m2 logits, of the same leading shape; never
        copied, never written to.
    loss : str
        With S the student, T the teacher: "forward_kl" KL(T‖S), "reverse_kl" KL(S‖T), "jsd" (GKD's, endpoints too),
        "symmetric_kl" w·KL(T‖S) + (1-w)·KL(S‖T), "skew_kl" KL(T‖wT + (1-w)S), "skew_reverse_kl" KL(S‖wS + (1-w)T),
        "tv" (total variation), "renyi" D_α(T‖S), "cressie_read" 2/(λ(λ+1))·(Σ T·(T/S)^λ - 1),
        "soft_cross_entropy" -Σ T·ln S.
    beta : float, optional
        Of "jsd" (0.5): M = β·T + (1-β)·S.
    alpha : float, optional
        The order α of "renyi" (0.5).
    lambda_ : float, optional
        The power λ of "cressie_read" (2/3), from -10 to 10; 0 and -1 are its limits 2·KL(T‖S) and 2·KL(S‖T).
    weight : float, optional
        w of "symmetric_kl" (0.5) and of the skew losses (0.1).
    gradient : {"student", "teacher", "both"}, optional
        Whose logits to differentiate by; by default there is no gradient.
    temperature : float
        Both logits are divided by it.
    temperature_squared : bool
        Multiply loss and gradient by temperature², so that gradients keep their size (Hinton et al. 2015).
    softcap : float, optional
        Logits z become softcap·tanh(z/softcap) before the temperature.
    labels : array_like of int, leading shape, optional
        Rows whose label is `ignore_index` are not counted; the labels are not used otherwise.
    mask : array_like of bool or 0 and 1, leading shape, optional
        Rows to count.
    weights : array_like, leading shape, optional
        Factors of the rows' losses.
    reduction : {"token-mean", "batchmean", "mean", "sum", "none"}
        "token-mean": sum / number of rows counted. "batchmean": sum / size of the first axis. "mean": sum / (number of
        rows counted · V), as torch's kl_div. "sum"; "none". No row counted: 0.
    divisor : float, optional
        Divide the sum by this instead, e.g. by the tokens of all accumulated batches.
    vocab_size : int, optional
        Use the first `vocab_size` columns; the gradient is 0 in the others.
    student_out, teacher_out : array, optional
        Where to put a gradient: an ndarray or tensor of the logits' shape, float64, float32, float16 or bfloat16
        (float32 for bfloat16 logits, say), apart in memory from the logits and from each other.
    num_threads : int, optional
        Threads at most. The result does not depend on it.

    Returns
    -------
    DistillationResult
        Accuracy: 2e-6 relative, 1e-10 for float64 input (the page of that name says of what).

    Raises
    ------
    ValueError, TypeError
        Shapes that do not match, unknown names, parameters out of range.

    Notes
    -----
    A logit of -inf has no probability: its gradient is 0 where the loss is finite. Where the loss of a row is infinite
    (a reverse KL that meets T = 0 < S), its gradient is NaN, except for "forward_kl", whose gradient S - T stays
    finite. Gradients: Agarwal et al., "On-policy distillation of language models", ICLR 2024, and the chain rule.

    Examples
    --------
    >>> import numpy as np
    >>> from kullback.distillation import distillation_loss
    >>> student, teacher = np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]])
    >>> result = distillation_loss(student, teacher, "forward_kl", gradient="student")
    >>> print(f"{result.loss:.4f}", result.student_gradient.round(4))
    0.4621 [[-0.4621  0.4621]]
    """
    kernel = loss_kernel(loss, beta=beta, alpha=alpha, lambda_=lambda_, weight=weight)
    k = keywords.inverse_temperature(temperature, "logits")
    pair = calls.batch(("teacher_logits", teacher_logits), ("student_logits", student_logits), vocab_size=vocab_size)
    rowwise = ("labels", labels), ("mask", mask), ("weights", weights)
    labelling.same_axis(0, ("student_logits", student_logits), *rowwise)
    counted = Counted.of(pair.lead, labels, ignore_index, mask, weights)
    reducer = reduce_tokens(reduction, counted, pair.lead, pair.vocab, divisor)
    scale = scale_of(temperature, temperature_squared)
    row_weights = reducer.row_weights(counted, scale)
    sides = {"student": (STUDENT,), "teacher": (TEACHER,), "both": (STUDENT, TEACHER), None: ()}
    keywords.choice(gradient, "gradient", sides)
    logits = (teacher_logits, student_logits)
    outs = [teacher_out, student_out]
    for side, name in enumerate(("teacher_out", "student_out")):
        no_idle_out(outs[side], name, side in sides[gradient])
    for side in sides[gradient]:
        outs[side] = gradient_array(logits[side], outs[side], pair, side, ("teacher_out", "student_out")[side])
    if gradient == "both":
        student, teacher = arrays.rows(outs[STUDENT], "student_out"), arrays.rows(outs[TEACHER], "teacher_out")
        calls.keep_apart(student.owner, "student_out", {"teacher_out": teacher.owner})
    work = RowLoss(kernel, k, loss == "soft_cross_entropy", num_threads)
    if softcap is None:
        values = work.evaluate(pair, row_weights, sides[gradient], outs, counted.mask)
    else:
        cap = keywords.number(softcap, "softcap", 1e-6, 1e6)
        values = capped_rows(work.evaluate, logits, cap, row_weights, sides[gradient], outs, counted.mask, pair)
    per_token = values.reshape(pair.lead)
    return DistillationResult(
        reducer.finish(counted.weigh(per_token, scale)),
        outs[STUDENT] if STUDENT in sides[gradient] else None,
        outs[TEACHER] if TEACHER in sides[gradient] else None,
        per_token,
        counted.tokens,
        reducer.divisor,
    )
