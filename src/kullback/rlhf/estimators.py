"""Sampled estimates of KL(policy‖ref) from per-token log-ratios, and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback._engine import as_floats, as_mask, calls, keywords, labelling, outputs

__all__ = ["ESTIMATOR_PRESETS", "kl_estimate", "kl_estimate_gradient"]

EstimatorKind = Literal[
    "k1", "kl", "k2", "mse", "mse_kl", "k3", "low_var_kl", "abs",
    "k1+", "kl+", "k2+", "mse+", "mse_kl+", "k3+", "low_var_kl+", "abs+",
]  # fmt: skip
EstimatorPreset = Literal["trl", "verl", "openrlhf", "nemo", "open-instruct", "slime", "tunix"]
_ESTIMATORS = {
    "k1": "k1",
    "kl": "k1",
    "k2": "k2",
    "mse": "k2",
    "mse_kl": "k2",
    "k3": "k3",
    "low_var_kl": "k3",
    "abs": "abs",
}

Float64s = NDArray[np.float64]
_Clamps = tuple[float | None, float | None]  # of the log-ratio, of the estimate


def _kinds(names: str, log_ratio_clamp: float | None, output_clamp: float | None) -> dict[str, _Clamps]:
    return dict.fromkeys(names.split(), (log_ratio_clamp, output_clamp))


#: What each library does under each of its own names: {library: {kind: (log_ratio_clamp, output_clamp)}}.
ESTIMATOR_PRESETS: MappingProxyType[str, dict[str, _Clamps]] = MappingProxyType(
    {
        "trl": _kinds("k1 kl k3 abs mse", None, None),
        "verl": _kinds("k1 kl k2 mse abs", None, None) | _kinds("k3 low_var_kl", 20.0, 10.0),
        "openrlhf": _kinds("k1 k2 k3", None, 10.0),
        "nemo": _kinds("k1 k2 k3", 20.0, 10.0),
        "open-instruct": _kinds("k1 k2 k3", 40.0, None),
        "slime": _kinds("k1 k2 k3", None, None) | _kinds("low_var_kl", None, 10.0),
        "tunix": _kinds("kl mse_kl low_var_kl", None, None),
    }
)


@dataclass(frozen=True)
class _Recipe:
    """What to compute, once names, presets and clamps are settled."""

    estimator: str
    straight_through: bool
    log_ratio_clamp: float
    output_clamp: float


def kl_estimate(
    log_ratio: ArrayLike,
    kind: EstimatorKind = "k1",
    *,
    mask: ArrayLike | None = None,
    importance_log_ratio: ArrayLike | None = None,
    log_ratio_clamp: float | None = None,
    output_clamp: float | None = None,
    preset: EstimatorPreset | None = None,
    out: NDArray[Any] | None = None,
) -> Float64s:
    """Per-token estimate of KL(policy‖ref) from tokens sampled from the policy.

    With d = log policy(token) - log ref(token) and w = exp(`importance_log_ratio`):

    ====================  ================  =====================  =====================================
    kind (other names)    value             derivative in          mean over tokens drawn from the policy
                                            log policy(token)
    ====================  ================  =====================  =====================================
    "k1" (kl)             d                 1                      KL(policy‖ref); can be negative
    "k2" (mse, mse_kl)    d²/2              d                      biased; close when KL is small
    "k3" (low_var_kl)     exp(-d) - 1 + d   1 - exp(-d)            KL(policy‖ref); never negative
    "abs"                 abs(d)            sign(d)                not a KL
    any of them + "+"     unchanged         d (straight-through)   unchanged
    w·k1                  w·d               w·(1 + d)              KL(policy‖ref), where the tokens were
    w·k2                  w·d²/2            w·(d + d²/2)           drawn from the behaviour policy
    w·k3                  w·k3              w·d                    and w = policy/behaviour
    ====================  ================  =====================  =====================================

    Values and gradients answer different questions. Averaged over tokens drawn from the policy, the
    derivatives of k2, w·k1 and w·k3 (hence of every "+") give exactly the gradient of KL(policy‖ref); k1's
    gives 0; k3's gives the gradient of KL(ref‖policy), the other direction.

    Parameters
    ----------
    log_ratio : array_like
        d = log policy - log ref of the sampled tokens, any shape, nats.
    kind : str
        The estimator, see the table.
    mask : array_like, optional
        Same shape, 1 or True for a token to estimate. Masked tokens give exactly 0 whatever they hold.
    importance_log_ratio : array_like, optional
        log policy - log behaviour, where the behaviour policy drew the tokens; broadcasts to `log_ratio`. The
        estimate is multiplied by its exponential. Not with "+", whose gradient needs no weight.
    log_ratio_clamp, output_clamp : float, optional
        Limit d to [-c, c] before, and the (weighted) estimate to [-c, c] after. Off by default: a clamp
        makes the estimate biased and its gradient 0 beyond.
    preset : str, optional
        Take names and clamps from a library: a key of `ESTIMATOR_PRESETS`. Excludes the two clamp arguments.

        =============  ==========================  ===============  ==============
        preset         kinds                       log-ratio clamp  output clamp
        =============  ==========================  ===============  ==============
        trl            k1 kl k3 abs mse            none             none
        verl           k1 kl k2 mse abs            none             none
        verl           k3 low_var_kl               20               10
        openrlhf       k1 k2 k3                    none             10
        nemo           k1 k2 k3                    20               10
        open-instruct  k1 k2 k3                    40               none
        slime          k1 k2 k3                    none             none
        slime          low_var_kl                  none             10
        tunix          kl mse_kl low_var_kl        none             none
        =============  ==========================  ===============  ==============

        (open-instruct numbers its estimators: 0, 1, 2 are k1, k2, k3; 3 is k1 with `importance_log_ratio`.)
    out : ndarray, optional
        Where to write, same shape as `log_ratio`, float32 or float64.

    Returns
    -------
    ndarray
        float64, shape of `log_ratio` (a scalar for a scalar); or `out`.

    Raises
    ------
    ValueError
        Unknown `kind` or `preset`, shapes that do not match, a clamp that is not positive.
    TypeError
        An input that is not real numbers.

    Notes
    -----
    Computed in float64 whatever the input. k3 is φ(-d) with φ(x) = expm1(x) - x, by its series where
    abs(x) < 1.6: relative error below 1e-15, no value below 0, +inf only where the true value exceeds the
    float64 range. d = ±inf gives ±inf for k1 and +inf for the others; NaN gives NaN. A weight of 0 gives 0,
    except in w·k3 at d = -inf, which is NaN: there the limit depends on more than d and w.

    J. Schulman, "Approximating KL divergence", 2020, http://joschu.net/blog/kl-approx.html (values); w·k3:
    DeepSeek-V3.2, 2025, https://arxiv.org/abs/2512.02556.

    Examples
    --------
    >>> import numpy as np
    >>> policy, ref = np.log([0.5, 0.2]), np.log([0.25, 0.4])
    >>> kl_estimate(policy - ref, "k3").round(4)
    array([0.1931, 0.3069])
    >>> kl_estimate([3.0, -3.0], "k3", preset="verl").round(4)
    array([ 2.0498, 10.    ])
    """
    recipe = _settle(kind, preset, log_ratio_clamp, output_clamp, importance_log_ratio is not None)
    return _blockwise(lambda d, lw: _value(d, lw, recipe), log_ratio, mask, importance_log_ratio, out)


def kl_estimate_gradient(
    log_ratio: ArrayLike,
    kind: EstimatorKind = "k1",
    *,
    mask: ArrayLike | None = None,
    importance_log_ratio: ArrayLike | None = None,
    weight_gradient: bool = True,
    log_ratio_clamp: float | None = None,
    output_clamp: float | None = None,
    preset: EstimatorPreset | None = None,
    out: NDArray[Any] | None = None,
) -> Float64s:
    """Derivative of `kl_estimate` with respect to the policy's log-prob of the token.

    Parameters are those of `kl_estimate`, and one more.

    Parameters
    ----------
    log_ratio, kind, mask, importance_log_ratio, log_ratio_clamp, output_clamp, preset, out
        As in `kl_estimate`.
    weight_gradient : bool
        Whether the weight w = policy/behaviour depends on the policy (True: DeepSeek-V3.2, TRL, NeMo-RL) or
        is a constant. On policy, `importance_log_ratio=0.0` with True adds the score term that makes k1 and
        k3 descend KL(policy‖ref). True needs one weight a token (or a scalar): the weight of a whole
        sequence depends on every token.

    Returns
    -------
    ndarray
        float64, shape of `log_ratio` (a scalar for a scalar); or `out`. Exactly 0 at masked tokens and
        strictly beyond a clamp, also where the unclamped estimate overflows; at the clamp itself the inner
        derivative, as in torch. "+" gives d, unclamped, as in verl.

    Raises
    ------
    ValueError, TypeError
        As in `kl_estimate`.

    Examples
    --------
    >>> kl_estimate_gradient([1.0, -1.0], "k3").round(4)
    array([ 0.6321, -1.7183])
    >>> kl_estimate_gradient([1.0, -1.0], "k3+")
    array([ 1., -1.])
    >>> kl_estimate_gradient([1.0, -1.0], "k3", importance_log_ratio=0.0)
    array([ 1., -1.])
    """
    recipe = _settle(kind, preset, log_ratio_clamp, output_clamp, importance_log_ratio is not None)
    if keywords.flag(weight_gradient, "weight_gradient") and importance_log_ratio is not None:
        weights, ratios = np.shape(importance_log_ratio), np.shape(log_ratio)
        if weights not in ((), ratios):
            raise ValueError(
                f"`importance_log_ratio` has shape {weights}, expected {ratios} to match `log_ratio` "
                "(or give weight_gradient=False)"
            )
    return _blockwise(
        lambda d, lw: _gradient(d, lw, recipe, weight_gradient), log_ratio, mask, importance_log_ratio, out
    )


# ------------------------------------------------------------------------------------------------- settling


def _settle(
    kind: str, preset: str | None, log_ratio_clamp: float | None, output_clamp: float | None, weighted: bool
) -> _Recipe:
    """Names, preset and clamps -> one recipe, or the error that says what does not fit."""
    name = kind.removesuffix("+") if isinstance(kind, str) else kind
    if not isinstance(name, str) or name not in _ESTIMATORS:
        raise ValueError(
            f"`kind` is {keywords.shown(kind)}, expected one of {', '.join(_ESTIMATORS)}, each also with '+'"
        )
    if preset is not None:
        keywords.choice(preset, "preset", ESTIMATOR_PRESETS)
        kinds = ESTIMATOR_PRESETS[preset]
        if name not in kinds:
            raise ValueError(f"`kind` is {kind!r}, expected one of {', '.join(kinds)} with preset {preset!r}")
        if log_ratio_clamp is not None or output_clamp is not None:
            raise ValueError(f"preset {preset!r} sets the clamps; leave out `log_ratio_clamp` and `output_clamp`")
        log_ratio_clamp, output_clamp = kinds[name]
    for argument, clamp in (("log_ratio_clamp", log_ratio_clamp), ("output_clamp", output_clamp)):
        if clamp is not None and not keywords.real(clamp, argument) > 0:
            raise ValueError(f"`{argument}` is {keywords.shown(clamp)}, expected a positive number or None")
    straight_through = name != kind
    if straight_through and weighted:
        raise ValueError(f"`kind` is {kind!r}, expected no '+' with `importance_log_ratio`: the weight replaces it")
    none = float("inf")
    return _Recipe(
        _ESTIMATORS[name],
        straight_through,
        none if log_ratio_clamp is None else keywords.real(log_ratio_clamp, "log_ratio_clamp"),
        none if output_clamp is None else keywords.real(output_clamp, "output_clamp"),
    )


def _blockwise(
    compute: Callable[[Float64s, Float64s | None], Float64s],
    log_ratio: ArrayLike,
    mask: ArrayLike | None,
    importance_log_ratio: ArrayLike | None,
    out: NDArray[Any] | None,
) -> Float64s:
    """Run `compute` in float64 over blocks that stay in cache: no copy of an input in any dtype or layout."""
    labelling.same_labels(("log_ratio", log_ratio), ("mask", mask), ("importance_log_ratio", importance_log_ratio))
    ratios = as_floats("log_ratio", log_ratio)
    operands: list[NDArray[Any]] = [ratios]
    names = ["log_ratio"]
    if importance_log_ratio is not None:
        weights = as_floats("importance_log_ratio", importance_log_ratio)
        names.append("importance_log_ratio")
        try:
            operands.append(np.broadcast_to(weights, ratios.shape))
        except ValueError:
            raise ValueError(
                f"`importance_log_ratio` has shape {weights.shape}, expected one that fits {ratios.shape}"
            ) from None
    if mask is not None:
        operands.append(as_mask(mask, ratios.shape, "log_ratio"))
        names.append("mask")
    given = out
    if out is None:
        out = np.empty(ratios.shape)
    elif not isinstance(out, np.ndarray) or out.dtype not in (np.float32, np.float64):
        raise TypeError(f"`out` is {getattr(out, 'dtype', type(out).__name__)}, expected a float32 or float64 array")
    elif out.shape != ratios.shape:
        raise ValueError(f"`out` has shape {out.shape}, expected {ratios.shape} to match `log_ratio`")
    else:
        calls.keep_apart(outputs.writable(out, "out"), "out", dict(zip(names, operands, strict=True)), in_place=True)
    dtypes: list[Any] = [np.bool_ if array.dtype == np.bool_ else np.float64 for array in [*operands, out]]
    access: list[Any] = [["readonly"]] * len(operands) + [["writeonly"]]
    blocks: Any = np.nditer(
        [*operands, out],
        flags=["external_loop", "buffered", "zerosize_ok"],
        op_flags=access,
        op_dtypes=dtypes,
        casting="unsafe",  # down to the float32 of `out`; inputs only go up
        buffersize=1 << 13,
    )
    with blocks, np.errstate(all="ignore"):  # inf and NaN are answers here, defined in the docstring
        for block in blocks:
            log_weights = block[1] if importance_log_ratio is not None else None
            result = compute(block[0], log_weights)
            block[-1][...] = result if mask is None else np.where(block[-2], result, 0.0)
    found: Float64s = out[()] if given is None else out
    return found


# ---------------------------------------------------------------------------------------------- mathematics


def _phi(x: Float64s) -> Float64s:
    """φ(x) = expm1(x) - x."""
    return calls.phi(np.ascontiguousarray(x), 1)


def _times(a: Float64s, b: Float64s) -> Float64s:
    """a·b with 0·inf = 0: a token of weight 0 does not count."""
    nothing = ((a == 0.0) & ~np.isnan(b)) | ((b == 0.0) & ~np.isnan(a))
    return np.where(nothing, 0.0, a * b)


def _weighted_slope(d: Float64s, lw: Float64s) -> Float64s:
    """w·(1 - exp(-d)), by w - exp(lw - d) where exp(-d) alone might overflow."""
    w = np.exp(lw)
    return np.where(d < -30.0, w - np.exp(lw - d), _times(w, -np.expm1(-d)))


def _unclamped(d: Float64s, lw: Float64s | None, estimator: str) -> Float64s:
    """The (weighted) estimate before the output clamp."""
    if estimator == "k1":
        value = d.copy()
    elif estimator == "k2":
        value = 0.5 * d * d
    elif estimator == "abs":
        value = np.abs(d)
    else:
        value = _phi(-d)
    if lw is None:
        return value
    w = np.exp(lw)
    product = _times(w, value)
    if estimator == "k3":
        far = d < -30.0
        product[far] = np.exp(lw[far] - d[far]) + _times(w[far], d[far] - 1.0)
        product[(d == -np.inf) & (lw > -np.inf)] = np.inf
    return product


def _value(d: Float64s, lw: Float64s | None, recipe: _Recipe) -> Float64s:
    """The estimate, clamps included."""
    bounded = np.clip(d, -recipe.log_ratio_clamp, recipe.log_ratio_clamp)
    value = _unclamped(bounded, lw, recipe.estimator)
    return np.clip(value, -recipe.output_clamp, recipe.output_clamp, out=value)


def _gradient(d: Float64s, lw: Float64s | None, recipe: _Recipe, weight_gradient: bool) -> Float64s:
    """d(estimate)/d(log policy), where d and, with `weight_gradient`, lw move one for one with it."""
    if recipe.straight_through:
        return d
    estimator = recipe.estimator
    slopes: dict[str, Callable[[Float64s], Float64s]]
    slopes = {"k1": np.ones_like, "k2": np.copy, "k3": lambda x: -np.expm1(-x), "abs": np.sign}
    slope = slopes[estimator](d)
    if lw is None:
        gradient = slope
    elif estimator == "k3":
        gradient = _times(np.exp(lw), d) if weight_gradient else _weighted_slope(d, lw)
    else:
        gradient = _times(np.exp(lw), slope + _unclamped(d, None, estimator) if weight_gradient else slope)
    gradient[np.isnan(d)] = np.nan
    if recipe.output_clamp < np.inf:
        bounded = np.clip(d, -recipe.log_ratio_clamp, recipe.log_ratio_clamp)
        gradient[np.abs(_unclamped(bounded, lw, estimator)) > recipe.output_clamp] = 0.0
    gradient[np.abs(d) > recipe.log_ratio_clamp] = 0.0
    return gradient
