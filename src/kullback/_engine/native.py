"""For users of the C interface: where the header and the library lie, and addresses of the functions at run time."""

from pathlib import Path

from kullback._engine import engine
from kullback._engine.keywords import choice
from kullback.kernels import contract


def get_include() -> str:
    """Directory of `kullback.h`, for a compiler's ``-I``.

    Examples
    --------
    >>> import os, kullback
    >>> os.path.exists(os.path.join(kullback.get_include(), "kullback.h"))
    True
    """
    return str(contract.HEADER.parent.resolve())


def get_library() -> str:
    """Path of the shared library `libkullback`, for a linker, `ctypes.CDLL` or another language's loader.

    It holds the functions of `kullback.h`, depends on the C library alone and needs no Python. `pkg-config kullback`
    describes both when the directory ``pkgconfig`` beside the library is in ``PKG_CONFIG_PATH``.

    Raises
    ------
    FileNotFoundError
        Where the package was installed without a C compiler.

    Examples
    --------
    >>> import ctypes, kullback
    >>> ctypes.CDLL(kullback.get_library()).kullback_supported()
    1
    """
    path = Path(__file__).parent.parent / "lib" / "libkullback.so"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: kullback was installed without a C compiler")
    return str(path.resolve())


def function_address(name: str) -> int:
    """Address of a function of `kullback.h` in this process, for Numba, Cython, ctypes or a C callback.

    It is the function that the package itself calls, whichever engine is in use (`get_engine`), valid until the
    process ends and callable from any thread, with or without the GIL. The header says what it takes.

    With the engine "jit" a call that is the first of its kind waits while Numba compiles what it needs. The thread then
    takes the GIL and wants the stack of a Python thread.

    Parameters
    ----------
    name : str
        As in the header, for example ``"kullback_describe"``.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If the header has no such function.

    Examples
    --------
    >>> import kullback
    >>> kullback.function_address("kullback_describe") != 0
    True
    """
    choice(name, "name", contract.functions())
    chosen = engine.current()
    return int(chosen.ffi.cast("intptr_t", chosen.function(name)))
