"""Importance ratios, weights and rejection masks of torch tensors: weights are constants, ratios have gradients.

There is no mathematics here: see `kullback.rlhf`. Its names for tensors are those of `kullback.integrations.torch`.
"""

from typing import Any

import numpy as np
import torch

from kullback import rlhf
from kullback.integrations.tensors import without_tangent
from kullback.tokens import sequence_sums

__all__ = ["importance_ratios", "importance_weights", "rejection_mask"]


def _values(x: Any, name: str) -> torch.Tensor:
    """The tensor itself, cut off from its gradient."""
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"`{name}` is {type(x).__name__}, expected a tensor")
    if x.device.type != "cpu":
        raise TypeError(f"`{name}` is on {x.device}, expected a tensor on the CPU")
    return x.detach()


def _like(found: Any, x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.asarray(found)).to(torch.float64 if x.dtype == torch.float64 else torch.float32)


class _Ratios(torch.autograd.Function):
    """exp of d, Σ d or Σ d/n with d = train - rollout: slopes ratio, ratio, ratio/n."""

    @staticmethod
    def forward(ctx: Any, rollout: torch.Tensor, train: torch.Tensor, mask: Any, offsets: Any, level: Any) -> Any:
        found = rlhf.importance_ratios(rollout.detach(), train.detach(), mask, offsets, level=level)
        ratios = _like(found, train)
        kept = torch.ones(train.shape) if mask is None else torch.as_tensor(mask).float()
        lengths = counts = None
        if rlhf.RATIO_LEVELS[level] != "token":
            lengths = torch.as_tensor(offsets).diff() if offsets is not None else None
        if rlhf.RATIO_LEVELS[level] == "geometric":
            counts = torch.from_numpy(sequence_sums(kept, offsets=offsets)).clamp(min=1.0)
        ctx.save_for_backward(ratios, kept, lengths, counts)
        ctx.whole = rlhf.RATIO_LEVELS[level] != "token"
        ctx.types = rollout.dtype, train.dtype
        return ratios

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[Any, ...]:
        # in operators of torch on the ratios themselves, so that it can be differentiated once more
        ratios, kept, lengths, counts = ctx.saved_tensors
        gradient = upstream.double() * ratios.double()
        if counts is not None:
            gradient = gradient / counts
        if lengths is not None:
            gradient = gradient.repeat_interleave(lengths)
        elif ctx.whole:
            gradient = gradient.unsqueeze(-1)
        gradient = torch.where(kept != 0, gradient, 0.0)
        behind, ahead = ctx.types
        along_rollout = -gradient.to(behind) if ctx.needs_input_grad[0] else None
        return along_rollout, gradient.to(ahead) if ctx.needs_input_grad[1] else None, None, None, None


def importance_ratios(
    rollout: torch.Tensor,
    train: torch.Tensor,
    mask: torch.Tensor | None = None,
    offsets: torch.Tensor | None = None,
    *,
    level: rlhf.RatioLevel = "token",
) -> torch.Tensor:
    """`kullback.rlhf.importance_ratios` for autograd: PPO's ratio of tokens, GSPO's of sequences.

    Parameters
    ----------
    rollout, train, mask, offsets, level
        As in `kullback.rlhf.importance_ratios`, CPU tensors; for a loss the old policy's log-probs and the current
        one's.

    Returns
    -------
    Tensor
        float64 for float64 `train`, else float32. Differentiable in both log-probs, nothing detached, as TRL's
        importance_sampling_level. verl's GSPO gives every token the ratio of its sequence but the gradient of its own
        log-prob, which is ``ratios.detach()[:, None] * (train - train.detach()).exp()``.

    Examples
    --------
    >>> import torch
    >>> from kullback.integrations.torch import importance_ratios
    >>> old, new = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-0.9, -2.3]], requires_grad=True)
    >>> ratios = importance_ratios(old, new, level="gspo")
    >>> ratios.sum().backward()
    >>> ratios.detach(), new.grad
    (tensor([0.9048]), tensor([[0.4524, 0.4524]]))
    """
    for name, x in (("rollout", rollout), ("train", train)):
        _values(x, name)
        without_tangent(x, name)
    if rollout.shape != train.shape:
        raise ValueError(f"`train` has shape {tuple(train.shape)}, expected {tuple(rollout.shape)} to match `rollout`")
    found: torch.Tensor = _Ratios.apply(rollout, train, mask, offsets, level)  # type: ignore[no-untyped-call]
    return found


def importance_weights(
    rollout: torch.Tensor,
    train: torch.Tensor,
    mask: torch.Tensor | None = None,
    offsets: torch.Tensor | None = None,
    **options: Any,
) -> torch.Tensor:
    """`kullback.rlhf.importance_weights` of tensors: constants of a loss, through which no gradient goes.

    Parameters
    ----------
    rollout, train, mask, offsets : Tensor
        As in `kullback.rlhf.importance_weights`, on the CPU; with or without a gradient, which is not followed.
    **options
        kind, level, bounds, normalize, preset.

    Returns
    -------
    Tensor
        float64 for float64 `train`, else float32; without a gradient, as verl's, which detaches it, and TRL's.

    Examples
    --------
    >>> import torch
    >>> from kullback.integrations.torch import importance_weights
    >>> rollout, train = torch.tensor([[-1.0, -3.0]]), torch.tensor([[-0.9, -1.0]], requires_grad=True)
    >>> importance_weights(rollout, train, kind="tis", bounds=2.0)
    tensor([[1.1052, 2.0000]])
    """
    behind, ahead = _values(rollout, "rollout"), _values(train, "train")
    return _like(rlhf.importance_weights(behind, ahead, mask, offsets, **options), ahead)


def rejection_mask(
    rollout: torch.Tensor,
    train: torch.Tensor,
    mask: torch.Tensor | None = None,
    offsets: torch.Tensor | None = None,
    *,
    advantages: torch.Tensor | None = None,
    **options: Any,
) -> torch.Tensor:
    """`kullback.rlhf.rejection_mask` of tensors.

    Parameters
    ----------
    rollout, train, mask, offsets, advantages : Tensor
        As in `kullback.rlhf.rejection_mask`, on the CPU; with or without a gradient, which is not followed.
    **options
        kind, threshold, preset.

    Returns
    -------
    Tensor of bool

    Examples
    --------
    >>> import torch
    >>> from kullback.integrations.torch import rejection_mask
    >>> rollout, train = torch.tensor([[-1.0, -3.0]]), torch.tensor([[-0.9, -1.0]])
    >>> rejection_mask(rollout, train, kind="token_k3", threshold=0.1)
    tensor([[ True, False]])
    """
    behind, ahead = _values(rollout, "rollout"), _values(train, "train")
    gains = None if advantages is None else _values(advantages, "advantages")
    return torch.from_numpy(rlhf.rejection_mask(behind, ahead, mask, offsets, advantages=gains, **options))
