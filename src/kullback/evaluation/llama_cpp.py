"""What `llama-perplexity --kl-divergence` computes and prints, to the digit.

Its conventions (tools/perplexity/perplexity.cpp), kept here and nowhere else in the package: the base is the
16-bit dump, not renormalised; only entries with log p > -16 enter a token's KL(base ‖ candidate); each term
is float32, sums are float64; percentiles interpolate in float32. So a KL can come out negative, and a target
that is clipped in the dump makes the base's perplexity too low. `kullback.compare` has neither flaw.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import Given
from kullback.comparison import Estimate
from kullback.evaluation.sources.llama_cpp import decode

__all__ = ["LlamaCppStatistics", "LlamaCppTokens", "concatenate", "statistics", "token_values"]

# entries decoded at a time: three float64 and float32 temporaries of this many elements
BLOCK_ELEMENTS = 1 << 20
# below it an entry of the base is left out of KL, whatever the window of the dump
LOWEST_LOG_PROB = -16.0
KL_PERCENTILES = (0.999, 0.99, 0.95, 0.90, 0.50, 0.10, 0.05, 0.01, 0.001)
DELTA_P_PERCENTILES = (0.999, 0.99, 0.95, 0.90, 0.75, 0.50, 0.25, 0.10, 0.05, 0.01, 0.001)


@dataclass(frozen=True)
class LlamaCppTokens:
    """Per-token values under llama.cpp's convention, one element a scored token.

    Attributes
    ----------
    nll_q, nll_base : ndarray of float32 (T,)
        Negative log-likelihood of the target token, in nats, for the candidate and for the base.
    kld : ndarray of float64 (T,)
        KL(base ‖ candidate) in nats.
    delta_p : ndarray of float32 (T,)
        Candidate's minus base's probability of the target token.
    same_top : ndarray of bool (T,)
        Whether both have the same most probable token (ties take the lowest index).
    """

    nll_q: NDArray[np.float32]
    nll_base: NDArray[np.float32]
    kld: NDArray[np.float64]
    delta_p: NDArray[np.float32]
    same_top: NDArray[np.bool_]


def concatenate(parts: list[LlamaCppTokens]) -> LlamaCppTokens:
    """The tokens of several chunks, in the order given."""
    return LlamaCppTokens(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(LlamaCppTokens)))


def token_values(
    base_codes: NDArray[np.void], logits: NDArray[Any], tokens: NDArray[Any], *, given: Given = "logits"
) -> LlamaCppTokens:
    """Compare rows of a base dump with the candidate's logits as llama.cpp does.

    Parameters
    ----------
    base_codes : structured ndarray (T,)
        Rows as `LlamaCppLogits.codes` returns them.
    logits : ndarray (T, V) of float64, float32, float16, bfloat16, float8_e4m3fn or float8_e5m2
        The candidate's rows; they are rounded to float32 first.
    tokens : ndarray of integers (T,)
        Target token of each row.
    given : {"logits", "log_probs"}
        "log_probs" takes `logits` as normalised: right for the decoded rows of a second dump, whose clipped
        entries would add to the sum. They still count as 16 nats under the row's maximum.

    Returns
    -------
    LlamaCppTokens

    Raises
    ------
    ValueError
        If the shapes do not agree, or `given` is neither of the two.

    Notes
    -----
    The KL of a row is the float64 sum, over entries v with log p_v > -16, of the float32 terms exp(log p_v) *
    (log p_v - (x_v - lse(x))), where log p_v = scale * code_v + min. A candidate entry of -inf there gives
    inf; NaN logits give NaN. float32 exponentials are rounded from float64 here; those of the tool's C
    library differ from it in the last bit of very few, and move a token's KL by about 2e-9.
    """
    count, vocab_size = logits.shape
    if base_codes.shape != (count,) or not 0 <= base_codes["code"].shape[1] - vocab_size <= 1:
        raise ValueError(
            f"`logits` has shape {logits.shape}, expected {base_codes.shape[0]} rows with the vocabulary of "
            f"`base_codes` ({base_codes['code'].shape[1]} codes a row, V rounded up to even)"
        )
    if given not in ("logits", "log_probs"):
        raise ValueError(f'`given` is {given!r}, expected "logits" or "log_probs"')
    if tokens.shape != (count,):
        raise ValueError(f"`tokens` has shape {tokens.shape}, expected ({count},) to match `logits`")
    step = max(1, BLOCK_ELEMENTS // vocab_size)
    blocks = [slice(start, start + step) for start in range(0, max(count, 1), step)]
    return concatenate([_block(base_codes[b], logits[b], tokens[b], given) for b in blocks])


def _block(codes: NDArray[np.void], logits: NDArray[Any], tokens: NDArray[Any], given: Given) -> LlamaCppTokens:
    log_p = np.empty(logits.shape, np.float32)
    decode(codes, log_p)
    y = logits.astype(np.float32, copy=False)
    at = np.arange(len(y)), tokens
    with np.errstate(invalid="ignore", over="ignore"):
        normaliser = _logsumexp(y) if given == "logits" else np.zeros(len(y), np.float32)
        nll_q = normaliser - y[at]
        nll_base = -log_p[at]
        terms = _exp(log_p) * (log_p - y + normaliser[:, None])
        kld = np.where(log_p > LOWEST_LOG_PROB, terms, np.float32(0)).sum(axis=1, dtype=np.float64)
        delta_p = _exp(-nll_q) - _exp(-nll_base)
    return LlamaCppTokens(nll_q, nll_base, kld, delta_p, y.argmax(axis=1) == log_p.argmax(axis=1))


def _logsumexp(y: NDArray[np.float32]) -> NDArray[np.float32]:
    top = y.max(axis=1)
    total = _exp(y - top[:, None]).sum(axis=1, dtype=np.float64)
    normaliser: NDArray[np.float32] = top + np.log(total).astype(np.float32)
    return normaliser


def _exp(x: NDArray[np.float32]) -> NDArray[np.float32]:
    # NumPy's float32 exp is off by up to 2 units in the last place, the tool's by hardly more than the
    # rounding
    return np.exp(x, dtype=np.float64).astype(np.float32)


@dataclass(frozen=True)
class LlamaCppStatistics:
    """Everything the tool prints after its last chunk; `str` gives the same lines.

    `correlation`, `delta_p` and `same_top` are fractions here and percentages in print; percentiles are keyed
    by fraction, from the maximum (1.0) down to the minimum (0.0).
    """

    tokens: int
    ppl_q: Estimate
    ppl_base: Estimate
    correlation: float
    log_ppl_ratio: Estimate
    ppl_ratio: Estimate
    ppl_difference: Estimate
    kld: Estimate
    kld_percentiles: dict[float, float]
    delta_p: Estimate
    delta_p_percentiles: dict[float, float]
    delta_p_rms: Estimate
    same_top: Estimate

    def __str__(self) -> str:
        def line(label: str, estimate: Estimate) -> str:
            return f"{label:<30}: {estimate.mean:10.6f} ± {estimate.standard_error:10.6f}"

        def percent(estimate: Estimate) -> str:
            return f"{100 * estimate.mean:6.3f} ± {100 * estimate.standard_error:5.3f} %"

        return "\n".join(
            [
                "====== Perplexity statistics ======",
                line("Mean PPL(Q)", self.ppl_q),
                line("Mean PPL(base)", self.ppl_base),
                f"Cor(ln(PPL(Q)), ln(PPL(base))): {100 * self.correlation:6.2f}%",
                line("Mean ln(PPL(Q)/PPL(base))", self.log_ppl_ratio),
                line("Mean PPL(Q)/PPL(base)", self.ppl_ratio),
                line("Mean PPL(Q)-PPL(base)", self.ppl_difference),
                "",
                "====== KL divergence statistics ======",
                f"Mean    KLD: {self.kld.mean:10.6f} ± {self.kld.standard_error:10.6f}",
                *(f"{_label(f)} KLD: {v:10.6f}" for f, v in self.kld_percentiles.items()),
                "",
                "====== Token probability statistics ======",
                f"Mean    Δp: {percent(self.delta_p)}",
                *(f"{_label(f)} Δp: {100 * v:6.3f}%" for f, v in self.delta_p_percentiles.items()),
                f"RMS Δp    : {percent(self.delta_p_rms)}",
                f"Same top p: {percent(self.same_top)}",
            ]
        )


def _label(fraction: float) -> str:
    names = {1.0: "Maximum", 0.5: "Median ", 0.0: "Minimum"}
    return names.get(fraction) or f"{100 * fraction:4.1f}%  "


def statistics(values: LlamaCppTokens) -> LlamaCppStatistics:
    """Every statistic that llama.cpp prints, from per-token values.

    Parameters
    ----------
    values : LlamaCppTokens
        At least one token. The tool prints nothing below 100 tokens; with 10 or fewer it gives no
        uncertainties.

    Returns
    -------
    LlamaCppStatistics

    Raises
    ------
    ValueError
        If there is no token.

    Notes
    -----
    Uncertainties are standard errors of means over tokens taken as independent, and first-order propagation
    from those. They come out NaN where rounding makes a variance negative, and the tool prints that too.

    Examples
    --------
    >>> import numpy as np
    >>> nll = np.linspace(0, 4, 12, dtype=np.float32)
    >>> values = LlamaCppTokens(nll, nll, np.zeros(12), np.zeros(12, np.float32), np.ones(12, bool))
    >>> print(str(statistics(values)).splitlines()[1])
    Mean PPL(Q)                   :   7.389056 ±   2.796645
    """
    n = len(values.kld)
    if n == 0:
        raise ValueError("`values` has no tokens, expected at least one")
    with np.errstate(all="ignore"):
        return _statistics(values, n)


def _statistics(values: LlamaCppTokens, n: int) -> LlamaCppStatistics:
    q, b, d = values.nll_q, values.nll_base, values.delta_p
    # squares of float32 are rounded to float32 before they enter the float64 sums
    log_q, log_b = _mean(_sum(q), _sum(q * q), n), _mean(_sum(b), _sum(b * b), n)
    covariance = (_sum(q * b) / n - _sum(q) / n * (_sum(b) / n)) / (n - 1) if n >= 10 else 0.0
    u_q, u_b = log_q.standard_error, log_b.standard_error
    ppl_q, ppl_b = np.exp(log_q.mean), np.exp(log_b.mean)
    log_ratio = Estimate(log_q.mean - log_b.mean, _sqrt(u_q**2 + u_b**2 - 2 * covariance))
    ratio = float(np.exp(log_ratio.mean))
    difference = (ppl_q * u_q) ** 2 + (ppl_b * u_b) ** 2 - 2 * ppl_q * ppl_b * covariance
    d2 = d * d
    square = _mean(_sum(d2), float(np.square(d2, dtype=np.float64).sum()), n)
    rms = _sqrt(square.mean)
    same = int(values.same_top.sum()) / n
    return LlamaCppStatistics(
        tokens=n,
        ppl_q=Estimate(float(ppl_q), float(ppl_q * u_q)),
        ppl_base=Estimate(float(ppl_b), float(ppl_b * u_b)),
        correlation=float(np.float64(covariance) / (u_q * u_b)),
        log_ppl_ratio=log_ratio,
        ppl_ratio=Estimate(ratio, ratio * log_ratio.standard_error),
        ppl_difference=Estimate(float(ppl_q - ppl_b), _sqrt(difference)),
        kld=_mean(_sum(values.kld), _sum(values.kld * values.kld), n),
        kld_percentiles=_percentiles(values.kld, KL_PERCENTILES),
        delta_p=_mean(_sum(d), _sum(d2), n),
        delta_p_percentiles=_percentiles(d, DELTA_P_PERCENTILES),
        delta_p_rms=Estimate(rms, float(0.5 / np.float64(rms) * square.standard_error)),
        same_top=Estimate(same, _sqrt(same * (1 - same) / max(n - 1, 1))),
    )


def _sum(values: NDArray[Any]) -> float:
    return float(values.sum(dtype=np.float64))


def _sqrt(value: float) -> float:
    return math.sqrt(value) if value >= 0 else math.nan


def _mean(total: float, squares: float, n: int) -> Estimate:
    mean = total / n
    variance = squares / n - mean * mean
    return Estimate(mean, math.sqrt(variance / (n - 1)) if variance > 0 and n > 10 else 0.0)


def _percentiles(values: NDArray[Any], fractions: tuple[float, ...]) -> dict[float, float]:
    """Maximum, the given percentiles and minimum, with the float32 arithmetic of the tool."""
    ordered = np.sort(values.astype(np.float32))
    n = len(ordered)
    result = {1.0: float(ordered[-1])}
    for fraction in fractions:
        if fraction == 0.5:
            result[fraction] = float(np.float32(0.5) * (ordered[(n - 1) // 2] + ordered[n // 2]))
            continue
        position = np.float32(fraction) * np.float32(n - 1)
        i = int(position)
        part = position - np.float32(i)
        result[fraction] = float((np.float32(1) - part) * ordered[i] + part * ordered[min(i + 1, n - 1)])
    return result | {0.0: float(ordered[0])}
