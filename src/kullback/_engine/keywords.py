"""The gate of keywords: numbers, flags and choices, checked, and every error about them."""

import contextlib
import functools
import math
import operator
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeVar, cast

import numpy as np

Given = Literal["probs", "log_probs", "logits"]
NanPolicy = Literal["propagate", "omit"]
T = TypeVar("T")
_Function = TypeVar("_Function", bound=Callable[..., Any])

LOGS, MASSES = 0, 1  # what elements mean
_SPACES = {"probs": MASSES, "log_probs": LOGS, "logits": LOGS}


def space(given: str) -> int:
    """What the elements mean, as the kernels count it."""
    try:
        return _SPACES[given]
    except (KeyError, TypeError):
        raise ValueError(f"`given` is {shown(given)}, expected 'probs', 'log_probs' or 'logits'") from None


def shown(x: Any) -> str:
    """`x` for a message: what it says of itself, if it can; of a matrix, or a long array, its type and shape."""
    try:
        shape = getattr(x, "shape", None)
        if isinstance(shape, tuple) and (len(shape) > 1 or (shape and shape[0] > 8)):
            return f"of type {type(x).__name__} and shape {tuple(shape)}"
        text = repr(x)
    except Exception:
        return f"of type {type(x).__name__}"
    return text if len(text) <= 200 else f"{text[:200]}..."


@contextlib.contextmanager
def renamed(names: dict[str, str]) -> Iterator[None]:
    """Errors of a function that is called by another, with the names that arguments have there."""
    try:
        yield
    except (ValueError, TypeError) as error:
        if type(error) not in (ValueError, TypeError):
            raise
        words = str(error)
        for inner, outer in names.items():
            words = words.replace(f"`{inner}`", f"`{outer}`")
        raise type(error)(words) from None


def _is_scalar(x: Any) -> bool:
    """Whether `x` is no array of any axes, and of NumPy no truth value, complex number, text, date or span of time."""
    if isinstance(x, np.ndarray | np.generic):
        return x.ndim == 0 and x.dtype.kind not in "bcSUmM"
    return getattr(x, "ndim", 0) == 0


def real(x: Any, name: str) -> float:
    """`x` as a float: a number, not text that reads as one, nor a truth value or a span of time."""
    if type(x) is float:
        return x
    if isinstance(x, (str, bytes, bytearray, bool, np.ma.MaskedArray)) or not _is_scalar(x):
        raise TypeError(f"`{name}` is {shown(x)}, expected a number")
    try:
        return float(x)
    except (TypeError, ValueError):
        raise TypeError(f"`{name}` is {shown(x)}, expected a number") from None
    except OverflowError:
        raise ValueError(f"`{name}` is beyond the range of float64") from None


def number(x: Any, name: str, least: float, greatest: float) -> float:
    """`x` as a float within [least, greatest]."""
    value = real(x, name)
    if not least <= value <= greatest:
        raise ValueError(f"`{name}` is {value}, expected from {least:g} to {greatest:g}")
    return value


def share(x: Any, name: str) -> float:
    """`x` as a float between 0 and 1."""
    value = real(x, name)
    if not 0.0 < value < 1.0:
        raise ValueError(f"`{name}` is {value}, expected a number between 0 and 1")
    return value


def finite(x: Any, name: str) -> float:
    """`x` as a float that is neither infinite nor NaN."""
    value = real(x, name)
    if not math.isfinite(value):
        raise ValueError(f"`{name}` is {value}, expected a finite number")
    return value


def integer(x: Any, name: str, expected: str = "a whole number") -> int:
    """`x` as an int, which an array is not, nor what is masked, nor a truth value."""
    if type(x) is int:
        return x
    try:
        if isinstance(x, (bool, np.ma.MaskedArray)) or not _is_scalar(x):
            raise TypeError
        return operator.index(x)
    except TypeError:
        raise TypeError(f"`{name}` is {shown(x)}, expected {expected}") from None


def whole(x: Any, name: str, least: int) -> int:
    """`x` as an int of at least `least` that an index can hold."""
    value = integer(x, name)
    if value < least:
        raise ValueError(f"`{name}` is {value}, expected at least {least}")
    if value > sys.maxsize:
        raise ValueError(f"`{name}` is beyond 64 bits, expected at most {sys.maxsize}")
    return value


def flag(x: Any, name: str) -> bool:
    """`x` as a bool, which text is not: "no" would count as true."""
    if isinstance(x, (bool, np.bool_)):
        return bool(x)
    raise TypeError(f"`{name}` is {shown(x)}, expected True or False")


def choice(x: Any, name: str, options: Iterable[str | None]) -> Any:
    """`x`, one of the options, which are text or None."""
    options = tuple(options)
    if (x is None or isinstance(x, str)) and x in options:
        return x
    raise ValueError(f"`{name}` is {shown(x)}, expected one of {', '.join(map(str, options))}")


def callback(x: Any, name: str) -> None:
    """Refuse what cannot be called, before the work that it is to be told of."""
    if not (x is None or callable(x)):
        raise TypeError(f"`{name}` is {shown(x)}, expected a function or None")


def several(x: Any, name: str, expected: str) -> tuple[Any, ...]:
    """`x` as a tuple: a list of things, not one of them, nor what has no order."""
    try:
        if not isinstance(x, (str, bytes, bytearray, set, frozenset, dict, np.ma.MaskedArray)):
            return tuple(x)
    except TypeError:
        pass
    raise TypeError(f"`{name}` is {shown(x)}, expected {expected}")


def interval(x: Any, name: str) -> tuple[float, float]:
    """`x` as two numbers."""
    ends = several(x, name, "two numbers")
    if len(ends) != 2:
        raise ValueError(f"`{name}` is {shown(x)}, expected two numbers")
    return real(ends[0], name), real(ends[1], name)


def inverse_temperature(temperature: float, given: str) -> float:
    """1/temperature, checked; probabilities have none."""
    temperature = real(temperature, "temperature")
    if not 0.0 < temperature < math.inf:
        raise ValueError(f"`temperature` is {temperature}, expected a finite number above 0")
    if temperature != 1.0 and given == "probs":
        raise ValueError(f"`temperature` is {temperature}, expected 1 where `given` is 'probs'")
    if math.isinf(1.0 / temperature):
        raise ValueError(
            f"`temperature` is {temperature}, expected at least 5.57e-309: 1/temperature is beyond the range of float64"
        )
    return 1.0 / temperature


def slope_and_limit(temperature: float, scale: float, softcap: float | None) -> tuple[float, float]:
    """Logits x go in as z = slope·x, or limit·tanh(slope·x/limit) where limit is not 0, temperature included."""
    inverse = inverse_temperature(temperature, "logits")
    slope, limit = inverse * _within(scale, "scale"), 0.0 if softcap is None else inverse * _within(softcap, "softcap")
    if not (math.isfinite(slope) and math.isfinite(limit)):
        raise ValueError(f"`temperature` is {temperature}, too small for that scale and soft-cap")
    return slope, limit


def _within(x: Any, name: str) -> float:
    value = real(x, name)
    if not 1e-6 <= value <= 1e6:
        raise ValueError(f"`{name}` is {value}, expected from 1e-06 to 1e+06")
    return value


def unit(base: float | None) -> float:
    """Nats in one unit of the result: ln(base)."""
    if base is None:
        return 1.0
    base = real(base, "base")
    if not 0.0 < base < math.inf or base == 1.0:
        raise ValueError(f"`base` is {base}, expected a finite number above 0 other than 1")
    return math.log(base)


def refusing(**names: str) -> Callable[[_Function], _Function]:
    """A decorator: keywords that a function of another name takes, each with the sentence that says what it takes."""

    def decorated(function: _Function) -> _Function:
        @functools.wraps(function)
        def called(*arguments: Any, **options: Any) -> Any:
            for name, sentence in names.items():
                if name in options:
                    raise TypeError(f"{function.__name__}() takes no `{name}`: {sentence}")
            return function(*arguments, **options)

        return cast(_Function, called)

    return decorated
