"""What the losses of kullback.integrations.torch ask of logits."""

from typing import Any

import torch
from torch._library.autograd import make_autograd_impl

from kullback._engine import views

_FLOATS = {getattr(torch, kind.name): kind for kind in views.FLOATS}


def checked(student: torch.Tensor, teacher: torch.Tensor, read_alone: tuple[str, ...] = ("teacher",)) -> None:
    """Refuse what the kernels cannot read, and what would come out without the derivative asked for.

    What is `read_alone` and has no gradient may be stored as what no gradient is written as.
    """
    for name, x in (("student", student), ("teacher", teacher)):
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"`{name}` is {type(x).__name__}, expected a tensor")
        if x.device.type != "cpu":
            raise TypeError(f"`{name}` is on {x.device}, expected a tensor on the CPU")
        kind = _FLOATS.get(x.dtype)
        if kind is None or not (kind.gradients or (name in read_alone and not x.requires_grad)):
            written = views.listed(kind for kind in views.FLOATS if kind.gradients)
            alone = f", or {views.listed(views.FLOATS)} without a gradient" if name in read_alone else ""
            raise TypeError(f"`{name}` has dtype {x.dtype}, expected {written}{alone}")
        without_tangent(x, name)
    if student.shape != teacher.shape:
        raise ValueError(f"`teacher` has shape {tuple(teacher.shape)}, expected {tuple(student.shape)} as `student`")


def without_tangent(x: torch.Tensor, name: str) -> None:
    """Refuse a tensor of forward mode, which would take a derivative that is not there for one of 0."""
    if not torch.compiler.is_compiling() and torch.autograd.forward_ad.unpack_dual(x).tangent is not None:  # type: ignore[no-untyped-call]
        raise NotImplementedError(
            f"`{name}` carries a tangent, and the losses of kullback.integrations.torch have no forward-mode "
            f"derivatives (jvp, jacfwd): use backward, torch.autograd.grad or {name}.detach()"
        )


def without_forward_mode(operator: Any) -> None:
    """Let an operator of (student, teacher, ...) refuse inputs of forward mode, to which torch would give a derivative
    of 0 where none of them wants a gradient."""
    differentiable = make_autograd_impl(operator._opoverload, operator)

    def guarded(keyset: Any, student: torch.Tensor, teacher: torch.Tensor, *others: Any) -> Any:
        without_tangent(student, "student")
        without_tangent(teacher, "teacher")
        return differentiable(keyset, student, teacher, *others)

    _LIBRARY.impl(operator._opoverload._schema.name, guarded, "AutogradCPU", with_keyset=True)


_LIBRARY = torch.library.Library("kullback", "FRAGMENT")
