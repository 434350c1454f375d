"""What the losses of kullback.integrations.torch ask of logits."""

import torch

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def checked(student: torch.Tensor, teacher: torch.Tensor) -> None:
    """Refuse what the kernels cannot read, and what would come out without the derivative asked for."""
    for name, x in (("student", student), ("teacher", teacher)):
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"`{name}` is {type(x).__name__}, expected a tensor")
        if x.device.type != "cpu":
            raise TypeError(f"`{name}` is on {x.device}, expected a tensor on the CPU")
        if x.dtype not in _FLOATS:
            raise TypeError(f"`{name}` has dtype {x.dtype}, expected float64, float32, float16 or bfloat16")
        if not torch.compiler.is_compiling() and torch.autograd.forward_ad.unpack_dual(x).tangent is not None:  # type: ignore[no-untyped-call]
            raise NotImplementedError(
                f"`{name}` carries a tangent, and the losses of kullback.integrations.torch have no forward-mode "
                f"derivatives (jvp, jacfwd): use backward, torch.autograd.grad or {name}.detach()"
            )
    if student.shape != teacher.shape:
        raise ValueError(f"`teacher` has shape {tuple(teacher.shape)}, expected {tuple(student.shape)} as `student`")
