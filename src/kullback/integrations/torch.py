"""Losses for torch tensors on the CPU, with gradients, under the names torch, TRL and torchtune users know.

Every loss is one custom operator, `kullback::divergence_loss`, so that `torch.compile` keeps it as it is instead of
breaking the graph. Between forward and backward nothing is kept but the logits and nine numbers a row. There is no
mathematics here: see `kullback.distillation` and `kullback._engine.calls`.
"""

import math
from typing import Any, Literal

import numpy as np

try:
    import torch
except ImportError as error:
    raise ImportError("kullback.integrations.torch needs torch: see https://pytorch.org/get-started") from error

from kullback._engine import calls, keywords
from kullback.distillation import STUDENT, TEACHER, Kernel, LossName, loss_kernel
from kullback.integrations.tensors import checked, without_forward_mode
from kullback.integrations.torch_ratios import importance_ratios, importance_weights, rejection_mask

__all__ = [
    "ForwardKLLoss",
    "JSDLoss",
    "ReverseKLLoss",
    "SymmetricKLLoss",
    "distillation_loss",
    "generalized_jsd_loss",
    "importance_ratios",
    "importance_weights",
    "kl_div",
    "rejection_mask",
]


def _batch(student: torch.Tensor, teacher: torch.Tensor) -> calls.Batch:
    """The two sides, of one shape: a row of the one that stood for several of the other would get their gradient."""
    if student.shape != teacher.shape:
        raise ValueError(f"`teacher` has shape {tuple(teacher.shape)}, expected {tuple(student.shape)} as `student`")
    return calls.batch(("teacher", teacher.detach()), ("student", student.detach()))


def _flat(x: torch.Tensor, dtype: Any, shape: tuple[int, ...], name: str) -> Any:
    """A tensor of exactly that shape as a contiguous array of its own elements, flat."""
    if tuple(x.shape) != shape:
        raise ValueError(f"`{name}` has shape {tuple(x.shape)}, expected {shape}")
    return np.ascontiguousarray(x.detach().numpy(), dtype).reshape(-1)


@torch.library.custom_op("kullback::divergence_loss", mutates_args=())
def _divergence_loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    mask: torch.Tensor | None,
    inverse_temperature: float,
    kind: str,
    weight: float,
    first: float,
    second: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(losses of the rows, state for the gradient), float64; masked rows are not read and give 0."""
    pair = _batch(student, teacher)
    state = np.zeros((pair.rows, calls.STATE))
    flat = None if mask is None else _flat(mask, np.bool_, pair.lead, "mask")
    values = calls.divergence(pair, 0, inverse_temperature, kind, (weight, first, second), None, flat, state)
    return torch.from_numpy(values.reshape(pair.lead)), torch.from_numpy(state)


@_divergence_loss.register_fake
def _(student, teacher, mask, inverse_temperature, kind, weight, first, second):  # type: ignore[no-untyped-def]
    lead = student.shape[:-1]
    return student.new_empty(lead, dtype=torch.float64), student.new_empty(
        (math.prod(lead), calls.STATE), dtype=torch.float64
    )


@torch.library.custom_op("kullback::divergence_gradient", mutates_args=())
def _divergence_gradient(
    student: torch.Tensor,
    teacher: torch.Tensor,
    weights: torch.Tensor,
    values: torch.Tensor,
    state: torch.Tensor,
    inverse_temperature: float,
    kind: str,
    weight: float,
    first: float,
    second: float,
    side: int,
) -> torch.Tensor:
    """weights times the gradient along the logits of one side, in their dtype."""
    pair = _batch(student, teacher)
    out = torch.empty((student, teacher)[side == TEACHER].shape, dtype=(student, teacher)[side == TEACHER].dtype)
    target = calls.Target.of(out, "gradient", tuple(out.shape))
    factors = _flat(weights, np.float64, pair.lead, "weights")
    # the kernel may renew the state of a row while it works on the other side
    known = (
        _flat(values, np.float64, pair.lead, "values").copy(),
        _flat(state, np.float64, (pair.rows, calls.STATE), "state").copy(),
    )
    calls.divergence_gradient(
        pair, inverse_temperature, kind, (weight, first, second), side, factors, target, None, known
    )
    return out


@_divergence_gradient.register_fake
def _(student, teacher, weights, values, state, inverse_temperature, kind, weight, first, second, side):  # type: ignore[no-untyped-def]
    return torch.empty_like((student, teacher)[side == TEACHER], memory_format=torch.contiguous_format)


def _no_second(ctx: Any, upstream: torch.Tensor) -> tuple[Any, ...]:
    raise NotImplementedError("the losses of kullback.integrations.torch have no second derivatives (double backward)")


_divergence_gradient.register_autograd(_no_second)
without_forward_mode(_divergence_gradient)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    student, teacher, mask, *ctx.options = inputs
    ctx.save_for_backward(student, teacher, mask, *output)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, upstream: torch.Tensor, _: Any) -> tuple[Any, ...]:
    student, teacher, mask, values, state = ctx.saved_tensors
    weights = upstream.double()
    if mask is not None:
        weights = torch.where(mask, weights, 0.0)
    gradients = [
        _divergence_gradient(student, teacher, weights, values, state, *ctx.options, side) if wanted else None
        for side, wanted in ((STUDENT, ctx.needs_input_grad[0]), (TEACHER, ctx.needs_input_grad[1]))
    ]
    return *gradients, None, None, None, None, None, None


_divergence_loss.register_autograd(_backward, setup_context=_keep)
without_forward_mode(_divergence_loss)


def _token_losses(
    student: torch.Tensor,
    teacher: torch.Tensor,
    kernel: Kernel,
    temperature: float = 1.0,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """One loss a row, float64."""
    checked(student, teacher)
    k = keywords.inverse_temperature(temperature, "logits")
    losses: torch.Tensor
    losses, _ = _divergence_loss(student, teacher, mask, k, kernel.kind, *kernel.parameters)
    return losses


def _of_rows(x: Any, name: str, logits: torch.Tensor) -> torch.Tensor:
    """A tensor of one value a row, checked: nothing broadcasts, a value counts for the row it was meant for."""
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"`{name}` is {type(x).__name__}, expected a tensor")
    if x.device.type != "cpu":
        raise TypeError(f"`{name}` is on {x.device}, expected a tensor on the CPU")
    if x.shape != logits.shape[:-1]:
        raise ValueError(f"`{name}` has shape {tuple(x.shape)}, expected {tuple(logits.shape[:-1])}, one value a row")
    return x


def _kept(
    logits: torch.Tensor, labels: torch.Tensor | None, ignore_index: int, mask: torch.Tensor | None = None
) -> torch.Tensor | None:
    """Which rows count: those whose label is not `ignore_index` and whose mask is 1; None for all."""
    kept = None
    ignore_index = keywords.integer(ignore_index, "ignore_index")
    if labels is not None:
        labels = _of_rows(labels, "labels", logits)
        if labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool:
            raise TypeError(f"`labels` has dtype {labels.dtype}, expected integers")
        # in int64, where -100 is not 156; what lies beyond it is no label
        inside = -(2**63) <= ignore_index < 2**63
        kept = labels.long() != ignore_index if inside else torch.ones_like(labels, dtype=torch.bool)
    if mask is not None:
        mask = _of_rows(mask, "mask", logits)
        # a look at the values would break the graph of torch.compile
        if mask.dtype != torch.bool and not torch.compiler.is_compiling() and not ((mask == 0) | (mask == 1)).all():
            raise ValueError("`mask` holds values other than 0 and 1, expected 1 for a row to count")
        kept = mask.bool() if kept is None else kept & mask.bool()
    return kept


def distillation_loss(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    loss: LossName = "forward_kl",
    beta: float | None = None,
    *,
    alpha: float | None = None,
    lambda_: float | None = None,
    weight: float | None = None,
    temperature: float = 1.0,
    temperature_squared: bool = False,
    labels: torch.Tensor | None = None,
    ignore_index: int = -100,
    mask: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    reduction: Literal["token-mean", "batchmean", "mean", "sum", "none"] = "token-mean",
) -> torch.Tensor:
    """`kullback.distillation.distillation_loss` for autograd: the same names, differentiable in both logits.

    Parameters
    ----------
    student_logits, teacher_logits : Tensor, shape (..., V)
        CPU tensors: float64, float32, float16 or bfloat16, not necessarily of the same dtype; of a teacher without a
        gradient also float8_e4m3fn or float8_e5m2.
    loss, beta, alpha, lambda_, weight, temperature, temperature_squared, labels, ignore_index, mask, weights, reduction
        As in `kullback.distillation.distillation_loss`.

    Returns
    -------
    Tensor
        float64 for float64 logits, else float32: a scalar, or the leading shape for reduction "none".

    Examples
    --------
    >>> import torch
    >>> from kullback.integrations.torch import distillation_loss
    >>> student = torch.zeros(1, 2, requires_grad=True)
    >>> distillation_loss(student, torch.tensor([[1.0, 0.0]])).backward()
    >>> student.grad
    tensor([[-0.2311,  0.2311]])
    """
    if loss == "soft_cross_entropy":
        raise ValueError(
            "`loss` is 'soft_cross_entropy', which is 'forward_kl' plus the entropy of the teacher: use 'forward_kl', "
            "of the same gradient for the student, or kullback.distillation.distillation_loss"
        )
    kept = _kept(student_logits, labels, ignore_index, mask)
    kernel = loss_kernel(loss, beta=beta, alpha=alpha, lambda_=lambda_, weight=weight)
    losses = _token_losses(student_logits, teacher_logits, kernel, temperature, kept)
    if temperature_squared:
        losses = losses * temperature**2
    if weights is not None:
        weights = _of_rows(weights, "weights", student_logits)
        if not torch.compiler.is_compiling() and not weights.isfinite().all():
            raise ValueError("`weights` holds values that are not finite")
        losses = losses * weights
    count = max(losses.numel(), 1) if kept is None else kept.sum().clamp(min=1)
    if reduction == "token-mean":
        losses = losses.sum() / count
    elif reduction == "batchmean":
        losses = losses.sum() / (max(losses.shape[0], 1) if losses.ndim else 1)
    elif reduction == "mean":
        losses = losses.sum() / (count * student_logits.shape[-1])
    elif reduction == "sum":
        losses = losses.sum()
    elif reduction != "none":
        raise ValueError(f"`reduction` is {reduction!r}, expected 'token-mean', 'batchmean', 'mean', 'sum' or 'none'")
    return losses.to(_result_dtype(student_logits))


def _result_dtype(logits: torch.Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


class _PlainKL(torch.autograd.Function):
    """Σ p·(ln p - input) a row, p = exp(log_target), of rows as they are; slopes as torch has them."""

    @staticmethod
    def forward(ctx: Any, input: torch.Tensor, log_target: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(input, log_target)
        normalised, state = _divergence_loss(input, log_target, None, 1.0, "linear", 0.5, 1.0, 0.0)
        # the kernel normalises both rows; what their masses add is plain arithmetic
        # state: what lies beside p's greatest element, and that; the log of q's mass less that of p's
        beside, gap, greatest = (state[:, i].reshape(normalised.shape) for i in (1, 3, 4))
        plain: torch.Tensor = (greatest + beside).exp() * (normalised - gap)
        if torch.compiler.is_compiling() or plain.isnan().any():  # no mass to normalise, and none of the loss
            empty = (log_target.amax(-1) == -math.inf) & (input.amax(-1) < math.inf)
            plain = torch.where(empty, 0.0, plain)
        return plain

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[Any, ...]:
        input, log_target = ctx.saved_tensors
        weighted = log_target.exp() * upstream.to(log_target.dtype).unsqueeze(-1)
        along_target = None
        if ctx.needs_input_grad[1]:
            along_target = weighted * (log_target - input + 1.0)
        return (-weighted).to(input.dtype), along_target


def kl_div(
    input: torch.Tensor,
    target: torch.Tensor,
    reduction: Literal["none", "batchmean", "sum", "mean"] = "mean",
    log_target: bool = False,
) -> torch.Tensor:
    """`torch.nn.functional.kl_div`: KL(target‖input) of rows of log-probabilities, target first in the formula.

    Parameters
    ----------
    input : Tensor, shape (..., V)
        Log-probabilities of the model, as they are: nothing is normalised. Its gradient is -target, as in torch.
    target : Tensor, shape (..., V)
        Probabilities, or log-probabilities with `log_target`.
    reduction : {"mean", "batchmean", "sum", "none"}
        As in torch: "mean" divides by the number of elements, "batchmean" by the size of the first axis; "none", which
        asks for every element, is left to torch itself.
    log_target : bool
        What `target` is.

    Returns
    -------
    Tensor

    Examples
    --------
    >>> import torch
    >>> from kullback.integrations.torch import kl_div
    >>> p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.9, 0.1]])
    >>> print(f"{kl_div(q.log(), p.log(), 'batchmean', log_target=True):.4f}")
    0.5108
    """
    if reduction == "none":
        return torch.nn.functional.kl_div(input, target, reduction="none", log_target=log_target)
    if reduction not in ("mean", "batchmean", "sum"):
        raise ValueError(f"`reduction` is {reduction!r}, expected 'mean', 'batchmean', 'sum' or 'none'")
    checked(input, target, ())
    losses: torch.Tensor = _PlainKL.apply(  # type: ignore[no-untyped-call]
        input, target if log_target else target.log()
    )
    divisor = {"mean": input.numel(), "batchmean": input.shape[0], "sum": 1}[reduction]
    return (losses.sum() / divisor).to(_result_dtype(input))


def generalized_jsd_loss(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    labels: torch.Tensor | None = None,
    beta: float = 0.5,
    temperature: float = 1.0,
    reduction: Literal["batchmean", "sum", "mean", "none"] = "batchmean",
    num_items_in_batch: float | None = None,
) -> torch.Tensor:
    """GKD's loss with the arguments of TRL's `GKDTrainer.generalized_jsd_loss`.

    Parameters
    ----------
    student_logits, teacher_logits : Tensor, shape (B, T, V)
    labels : Tensor of int, shape (B, T), optional
        Tokens labelled -100 are not counted.
    beta : float
        0: KL(teacher‖student); 1: KL(student‖teacher); between: the generalised Jensen-Shannon divergence.
    temperature : float
        Divides both logits.
    reduction : {"batchmean", "sum", "mean", "none"}
        As in TRL: "batchmean" divides by the number of counted tokens where there are labels, else by B; "mean" by the
        number of counted elements (tokens times V). "none" gives one loss a token, (B, T): TRL's has V of them.
    num_items_in_batch : float, optional
        Divide the sum by this instead.

    Returns
    -------
    Tensor

    Examples
    --------
    >>> import torch
    >>> from kullback.integrations.torch import generalized_jsd_loss
    >>> s, t = torch.tensor([[[0.0, 1.0, 2.0]]]), torch.tensor([[[2.0, 1.0, 0.0]]])
    >>> print(f"{generalized_jsd_loss(s, t):.4f}")
    0.2476
    """
    kept = _kept(student_logits, labels, -100)
    losses = _token_losses(student_logits, teacher_logits, loss_kernel("jsd", beta=beta), temperature, kept)
    count = max(losses.numel(), 1) if kept is None else kept.sum().clamp(min=1)
    if num_items_in_batch is not None:
        known = not isinstance(num_items_in_batch, torch.Tensor) or not torch.compiler.is_compiling()
        if known and not 0 < keywords.real(num_items_in_batch, "num_items_in_batch") < math.inf:
            raise ValueError(f"`num_items_in_batch` is {num_items_in_batch}, expected a finite number above 0")
        losses = losses.sum() / num_items_in_batch
    elif reduction == "batchmean":
        losses = losses.sum() / (count if labels is not None else max(student_logits.shape[0], 1))
    elif reduction == "mean":
        losses = losses.sum() / (count * student_logits.shape[-1])
    elif reduction == "sum":
        losses = losses.sum()
    elif reduction != "none":
        raise ValueError(f"`reduction` is {reduction!r}, expected 'batchmean', 'sum', 'mean' or 'none'")
    return losses.to(_result_dtype(student_logits))


class _TokenMean(torch.nn.Module):
    """The mean of a loss over the tokens that are not ignored, with torchtune's call."""

    loss = "forward_kl"

    def __init__(self, ignore_index: int = -100, **coefficient: float) -> None:
        super().__init__()
        self.ignore_index, self.coefficient = ignore_index, coefficient

    def forward(
        self,
        student_logits: torch.Tensor,
        teacher_logits: torch.Tensor,
        labels: torch.Tensor,
        normalize: bool = True,
    ) -> torch.Tensor:
        """(N, V), (N, V), (N,) -> scalar; the sum instead of the mean where `normalize` is False."""
        kept = _kept(student_logits, labels, self.ignore_index)
        losses = _token_losses(student_logits, teacher_logits, loss_kernel(self.loss, **self.coefficient), 1.0, kept)
        total = losses.sum()
        if normalize and kept is not None:
            total = total / kept.sum().clamp(min=1)
        return total.to(_result_dtype(student_logits))


class ForwardKLLoss(_TokenMean):
    """torchtune's ForwardKLLoss(ignore_index)(student_logits, teacher_logits, labels, normalize).

    torchtune leaves out the teacher's entropy, so its value is a cross-entropy and does not reach 0; this is
    KL(teacher‖student). The gradients are the same.

    Examples
    --------
    >>> import torch
    >>> from kullback.integrations.torch import ForwardKLLoss
    >>> x = torch.tensor([[0.0, 1.0]])
    >>> print(f"{ForwardKLLoss()(x, x, torch.tensor([1])):.1f}")
    0.0
    """


class ReverseKLLoss(_TokenMean):
    """torchtune's ReverseKLLoss: KL(student‖teacher). Call and reduction as in ForwardKLLoss."""

    loss = "reverse_kl"


class SymmetricKLLoss(_TokenMean):
    """torchtune's SymmetricKLLoss(sym_kd_ratio, ignore_index): ratio·forward + (1 - ratio)·reverse KL."""

    loss = "symmetric_kl"

    def __init__(self, sym_kd_ratio: float = 0.5, ignore_index: int = -100) -> None:
        super().__init__(ignore_index, weight=sym_kd_ratio)


class JSDLoss(_TokenMean):
    """GKD's divergence as a module: JSDLoss(beta, ignore_index). Call and reduction as in ForwardKLLoss."""

    loss = "jsd"

    def __init__(self, beta: float = 0.5, ignore_index: int = -100) -> None:
        super().__init__(ignore_index, beta=beta)
