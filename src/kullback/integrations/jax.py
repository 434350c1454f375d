"""Losses for JAX on the CPU, with gradients, under jit: host callbacks into the kernels. No mathematics lives here."""

from functools import partial
from typing import Any

import numpy as np

try:
    import jax
    import jax.numpy as jnp
except ImportError as error:
    raise ImportError("kullback.integrations.jax needs jax: pip install jax") from error

from kullback._engine import calls, keywords, views
from kullback.distillation import STUDENT, TEACHER, Kernel, LossName, loss_kernel

__all__ = ["distillation_loss", "token_losses"]


def _losses_on_host(kernel: Kernel, k: float, student: Any, teacher: Any) -> Any:
    """The losses of the rows in the logits' own precision, at least float32."""
    student, teacher = np.asarray(student), np.asarray(teacher)
    pair = calls.batch(("teacher", teacher), ("student", student))
    return calls.divergence(pair, 0, k, *kernel, None).reshape(pair.lead).astype(_result_dtype(student))


def _gradient_on_host(kernel: Kernel, k: float, side: int, student: Any, teacher: Any, weights: Any) -> Any:
    """weights times the gradient along the logits of one side, in their dtype."""
    rows = (np.asarray(teacher), np.asarray(student))
    pair = calls.batch(("teacher", rows[TEACHER]), ("student", rows[STUDENT]))
    out = np.empty(rows[side].shape, rows[side].dtype)
    target = calls.Target.of(out, "gradient", out.shape)
    factors = np.ascontiguousarray(weights, np.float64).reshape(-1)
    calls.divergence_gradient(pair, k, *kernel, side, factors, target, None)
    return out


def _result_dtype(x: Any) -> Any:
    return np.float64 if x.dtype == np.float64 else np.float32


def _like(shape: Any, dtype: Any) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _token_losses(kernel: Kernel, k: float, student: Any, teacher: Any) -> Any:
    shape = _like(student.shape[:-1], _result_dtype(student))
    return jax.pure_callback(partial(_losses_on_host, kernel, k), shape, student, teacher, vmap_method="broadcast_all")


def _keep(kernel: Kernel, k: float, student: Any, teacher: Any) -> tuple[Any, Any]:
    return _token_losses(kernel, k, student, teacher), (student, teacher)


def _backward(kernel: Kernel, k: float, kept: Any, upstream: Any) -> tuple[Any, Any]:
    student, teacher = kept

    def along(side: int, x: Any) -> Any:
        return jax.pure_callback(
            partial(_gradient_on_host, kernel, k, side),
            _like(x.shape, x.dtype),
            student,
            teacher,
            upstream,
            vmap_method="broadcast_all",
        )

    return along(STUDENT, student), along(TEACHER, teacher)


_token_losses.defvjp(_keep, _backward)


def token_losses(
    student_logits: Any,
    teacher_logits: Any,
    loss: LossName = "forward_kl",
    beta: float | None = None,
    *,
    alpha: float | None = None,
    lambda_: float | None = None,
    weight: float | None = None,
    temperature: float = 1.0,
) -> Any:
    """One loss a row, differentiable in both logits and usable under `jax.jit`, `jax.grad` and `jax.vmap`.

    Parameters
    ----------
    student_logits, teacher_logits : Array, shape (..., V)
        float64 (where JAX has it enabled), float32, float16 or bfloat16 on the CPU; the same shape.
    loss, beta, alpha, lambda_, weight, temperature
        As in `kullback.distillation.distillation_loss`, without "soft_cross_entropy".

    Returns
    -------
    Array of the leading shape
        float64 for float64 logits, else float32.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from kullback.integrations.jax import token_losses
    >>> slope = jax.grad(lambda s: token_losses(s, jnp.array([[1.0, 0.0]])).sum())(jnp.zeros((1, 2)))
    >>> print(slope.round(4))
    [[-0.2311  0.2311]]
    """
    if loss == "soft_cross_entropy":
        raise ValueError("`loss` is 'soft_cross_entropy': use 'forward_kl', which has the same gradient")
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(f"`teacher_logits` has shape {teacher_logits.shape}, expected {student_logits.shape}")
    for name, x in (("student_logits", student_logits), ("teacher_logits", teacher_logits)):
        written = [kind for kind in views.FLOATS if kind.gradients]
        if x.dtype.name not in [kind.name for kind in written]:
            raise TypeError(f"`{name}` has dtype {x.dtype}, expected {views.listed(written)}")
    k = keywords.inverse_temperature(temperature, "logits")
    return _token_losses(
        loss_kernel(loss, beta=beta, alpha=alpha, lambda_=lambda_, weight=weight), k, student_logits, teacher_logits
    )


def distillation_loss(
    student_logits: Any,
    teacher_logits: Any,
    loss: LossName = "forward_kl",
    beta: float | None = None,
    *,
    alpha: float | None = None,
    lambda_: float | None = None,
    weight: float | None = None,
    temperature: float = 1.0,
    mask: Any = None,
) -> Any:
    """The mean of `token_losses` over the rows whose `mask` is true (all by default); 0 where there is none.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from kullback.integrations.jax import distillation_loss
    >>> print(f"{distillation_loss(jnp.zeros((1, 2)), jnp.array([[1.0, 0.0]])):.4f}")
    0.1109
    """
    losses = token_losses(
        student_logits, teacher_logits, loss, beta, alpha=alpha, lambda_=lambda_, weight=weight, temperature=temperature
    )
    if mask is None:
        return losses.mean()
    if jnp.shape(mask) != losses.shape:
        raise ValueError(f"`mask` has shape {jnp.shape(mask)}, expected {losses.shape}, one value a row")
    kept = jnp.asarray(mask, bool)
    if not isinstance(mask, jax.core.Tracer) and not bool((kept == jnp.asarray(mask)).all()):
        raise ValueError("`mask` holds values other than 0 and 1, expected 1 for a row to count")
    return jnp.where(kept, losses, 0.0).sum() / jnp.maximum(kept.sum(), 1)
