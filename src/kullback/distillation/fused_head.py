"""Distillation straight from hidden states and output layers: the (T, V) logits never exist, a few rows of them do.

    z = softcap(scale·(h·Wᵀ + b)),  dL/dh = G·W,  dL/dW = Gᵀ·h,  dL/db = Σ G

with G the gradient along h·Wᵀ + b of a block of rows. The products are NumPy's, that is BLAS.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kullback._engine import arrays, calls, keywords, labelling, views
from kullback.distillation.losses import STUDENT, LossName, RowLoss, array_like, loss_kernel, scale_of
from kullback.distillation.reduction import Counted, Reduction, reduce_tokens
from kullback.distillation.softcap import cap, decoded, encode, through_cap

__all__ = ["LinearResult", "linear_distillation_loss"]

BLOCK_BYTES = 32 << 20  # of the logits of one block; two of them and a gradient exist at a time


@dataclass(frozen=True)
class LinearResult:
    """A loss and its gradients along a student's hidden states and output layer.

    Attributes
    ----------
    loss : float, or ndarray of the leading shape for reduction "none"
    hidden_gradient : ndarray, or tensor for tensors, or None
        Of the shape and dtype of the student's hidden states.
    weight_gradient, bias_gradient : ndarray or None
        (V, H) and (V,), float64 for float64 layers, else float32.
    per_token : ndarray of float64, leading shape
    tokens : int
        Rows counted.
    divisor : float
        What the sum was divided by.
    """

    loss: float | NDArray[np.float64]
    hidden_gradient: Any
    weight_gradient: NDArray[Any] | None
    bias_gradient: NDArray[Any] | None
    per_token: NDArray[np.float64]
    tokens: int
    divisor: float


class _Layer:
    """Hidden states and an output layer whose product is made for some rows at a time."""

    def __init__(self, name: str, hidden: Any, weight: Any, bias: Any) -> None:
        self.hidden = arrays.rows(hidden, f"{name}_hidden")
        self.weight = arrays.rows(weight, f"{name}_weight")
        if len(self.weight.lead) != 1 or self.weight.vocab != self.hidden.vocab:
            shape = (*self.weight.lead, self.weight.vocab)
            raise ValueError(f"`{name}_weight` has shape {shape}, expected (V, {self.hidden.vocab})")
        self.vocab = self.weight.lead[0]
        self.bias = None if bias is None else views.plain(bias, f"{name}_bias")
        if self.bias is not None and self.bias.shape != (self.vocab,):
            raise ValueError(f"`{name}_bias` has shape {self.bias.shape}, expected ({self.vocab},)")
        wide = views.FLOAT64 in (self.hidden.storage, self.weight.storage)
        self.dtype = np.float64 if wide else np.float32
        self.states = self.hidden.owner.reshape(-1, self.hidden.vocab)
        plain = views.FLOAT64 if wide else views.FLOAT32
        self.in_place = self.weight.storage == plain and not self.weight.converted
        # columns of a layer that must be converted first
        self.step = self.vocab if self.in_place else max(1, BLOCK_BYTES // (8 * self.hidden.vocab))

    def columns(self) -> Any:
        """Blocks of the layer: (which outcomes, their weights)."""
        for start in range(0, self.vocab, self.step):
            part = self.weight.owner[start : start + self.step]
            here = part if self.in_place else decoded(part, self.weight.storage).astype(self.dtype, copy=False)
            yield slice(start, start + part.shape[0]), here

    def rows(self, which: slice) -> NDArray[Any]:
        """Some hidden states, decoded."""
        return decoded(self.states[which], self.hidden.storage).astype(self.dtype, copy=False)

    def logits(self, hidden: NDArray[Any], scale: float, out: NDArray[Any]) -> NDArray[Any]:
        """scale·(hidden·Wᵀ + bias) of some rows."""
        with np.errstate(over="ignore", invalid="ignore"):  # rows of infinite logits give NaN, as those given do
            for outcomes, weight in self.columns():
                out[:, outcomes] = hidden @ weight.T
            if self.bias is not None:
                out += self.bias
            if scale != 1.0:
                out *= scale
        return out


def linear_distillation_loss(
    student_hidden: Any,
    student_weight: Any,
    teacher_hidden: Any,
    teacher_weight: Any,
    loss: LossName = "forward_kl",
    beta: float | None = None,
    *,
    alpha: float | None = None,
    lambda_: float | None = None,
    weight: float | None = None,
    gradient: bool = False,
    student_bias: Any = None,
    teacher_bias: Any = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    temperature_squared: bool = False,
    labels: Any = None,
    ignore_index: int = -100,
    mask: Any = None,
    weights: Any = None,
    reduction: Reduction = "token-mean",
    divisor: float | None = None,
    rows: int | None = None,
    num_threads: int | None = None,
) -> LinearResult:
    """A distillation loss of two models from their last hidden states and output layers.

    Parameters
    ----------
    student_hidden, teacher_hidden : array_like, shapes (..., H) and (..., H')
        float64, float32, float16, bfloat16, float8_e4m3fn or float8_e5m2; the same leading shape.
    student_weight, teacher_weight : array_like, shapes (V, H) and (V, H')
        Output layers (`lm_head.weight`), as they lie in memory.
    loss, beta, alpha, lambda_, weight
        As in `distillation_loss`.
    gradient : bool
        Whether to return the gradients along the student's hidden states, layer and bias.
    student_bias, teacher_bias : array_like, shape (V,), optional
    logit_scale : float
        Factor of the logits of both models, before the soft-cap, which comes before the temperature.
    softcap, temperature, temperature_squared, labels, ignore_index, mask, weights, reduction, divisor, num_threads
        As in `distillation_loss`.
    rows : int, optional
        Rows in a block; by default as many as make 32 MiB of logits.

    Returns
    -------
    LinearResult

    Examples
    --------
    >>> import numpy as np
    >>> from kullback.distillation import linear_distillation_loss
    >>> hidden, layer = np.eye(2), np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    >>> result = linear_distillation_loss(hidden, layer, 2 * hidden, layer, gradient=True)
    >>> result.hidden_gradient.shape, result.weight_gradient.shape
    ((2, 2), (3, 2))
    """
    student, teacher = (
        _Layer("student", student_hidden, student_weight, student_bias),
        _Layer("teacher", teacher_hidden, teacher_weight, teacher_bias),
    )
    if teacher.vocab != student.vocab:
        shape = (teacher.vocab, teacher.hidden.vocab)
        raise ValueError(f"`teacher_weight` has shape {shape}, expected {(student.vocab, teacher.hidden.vocab)}")
    lead, vocab, total = student.hidden.lead, student.vocab, student.states.shape[0]
    if teacher.hidden.lead != lead:
        found = (*teacher.hidden.lead, teacher.hidden.vocab)
        raise ValueError(f"`teacher_hidden` has shape {found}, expected leading axes {lead} as `student_hidden`")
    k = keywords.inverse_temperature(temperature, "logits")
    rowwise = ("labels", labels), ("mask", mask), ("weights", weights)
    labelling.same_axis(0, ("student_hidden", student_hidden), ("teacher_hidden", teacher_hidden), *rowwise)
    counted = Counted.of(lead, labels, ignore_index, mask, weights)
    reducer = reduce_tokens(reduction, counted, lead, vocab, divisor)
    scale = scale_of(temperature, temperature_squared)
    row_weights = reducer.row_weights(counted, scale)
    cap_at = None if softcap is None else keywords.number(softcap, "softcap", 1e-6, 1e6)
    loss_rows = RowLoss(
        loss_kernel(loss, beta=beta, alpha=alpha, lambda_=lambda_, weight=weight),
        k,
        loss == "soft_cross_entropy",
        num_threads,
    )
    dtype = np.result_type(student.dtype, teacher.dtype)
    gradient, logit_scale = keywords.flag(gradient, "gradient"), keywords.finite(logit_scale, "logit_scale")
    rows = None if rows is None else keywords.whole(rows, "rows", 1)
    step = min(total, rows or max(1, BLOCK_BYTES // (vocab * dtype.itemsize))) or 1
    result = _Gradients(student, total, student_hidden) if gradient else None
    heads = _Heads(student, teacher, logit_scale, cap_at, dtype)
    values = heads.losses(loss_rows, row_weights, counted.mask, step, result)
    per_token = values.reshape(lead)
    return LinearResult(
        reducer.finish(counted.weigh(per_token, scale)),
        None if result is None else result.hidden,
        None if result is None else result.weight,
        None if result is None or student.bias is None else result.bias,
        per_token,
        counted.tokens,
        reducer.divisor,
    )


class _Heads(NamedTuple):
    """Two models' output layers, evaluated a block of rows at a time."""

    student: _Layer
    teacher: _Layer
    logit_scale: float
    cap_at: float | None
    dtype: np.dtype[Any]

    def losses(
        self,
        work: RowLoss,
        row_weights: NDArray[np.float64],
        mask: NDArray[np.bool_] | None,
        step: int,
        result: "_Gradients | None",
    ) -> NDArray[np.float64]:
        """The losses of all rows, `step` at a time, and what flows back into `result`; blocks without a row skipped."""
        total, vocab = self.student.states.shape[0], self.student.vocab
        scratch = np.empty((2, step, vocab), self.dtype)
        slope = None if result is None else np.empty((step, vocab), self.dtype)
        values = np.zeros(total)
        for start in range(0, total, step):
            which = slice(start, min(start + step, total))
            if mask is not None and not mask[which].any():
                continue
            n = which.stop - start
            hidden = self.student.rows(which)
            blocks = (
                self.teacher.logits(self.teacher.rows(which), self.logit_scale, scratch[0, :n]),
                self.student.logits(hidden, self.logit_scale, scratch[1, :n]),
            )
            if self.cap_at is not None:
                for block in blocks:
                    cap(block, self.cap_at)
            pair = calls.batch(("teacher", blocks[0]), ("student", blocks[1]))
            here = None if slope is None else slope[:n]
            sides = () if here is None else (STUDENT,)
            part = None if mask is None else mask[which]
            values[which] = work.evaluate(pair, row_weights[which], sides, [None, here], part)
            if here is not None and result is not None:
                if self.cap_at is not None:
                    through_cap(here, blocks[STUDENT], self.cap_at)
                if self.logit_scale != 1.0:
                    np.multiply(here, self.logit_scale, out=here)
                result.add(here, hidden, which)
        return values


class _Gradients:
    """Sums over blocks of rows of what flows into one layer."""

    def __init__(self, layer: _Layer, total: int, like: Any) -> None:
        self.layer = layer
        self.hidden = array_like(like, layer.hidden)
        view = arrays.rows(self.hidden, "hidden")
        self.rows, self.storage = view.owner.reshape(total, layer.hidden.vocab), view.storage
        self.rows[...] = 0  # of rows that are masked nothing is added
        self.weight = np.zeros((layer.vocab, layer.hidden.vocab), layer.dtype)
        self.bias: NDArray[Any] = np.zeros(layer.vocab, layer.dtype)

    def add(self, slope: NDArray[Any], hidden: NDArray[Any], which: slice) -> None:
        """The gradient along the logits of some rows, and the hidden states they came from."""
        slope = slope.astype(self.layer.dtype, copy=False)
        into_hidden = np.zeros_like(hidden)
        with np.errstate(over="ignore", invalid="ignore"):
            for outcomes, weight in self.layer.columns():
                into_hidden += slope[:, outcomes] @ weight
                self.weight[outcomes] += slope[:, outcomes].T @ hidden
        encode(into_hidden, self.rows[which], self.storage)
        self.bias += slope.sum(0)
