"""The drawings of the report as SVG: plain strings, colours from the page's style sheet (classes c0, c1, ...)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from kullback.comparison import ComparisonSummary, Spread
from kullback.evaluation.parts import Breakdown
from kullback.evaluation.report.frame import Frame, few, log_ticks, nice, number

__all__ = [
    "acceptance_by_confidence",
    "acceptance_by_position",
    "acceptance_distribution",
    "agreement_by_confidence",
    "delta_distribution",
    "kl_by_position",
    "kl_distribution",
    "means",
]

_STEPS = 8  # bars in each power of ten


def means(summaries: Sequence[ComparisonSummary], names: Sequence[str]) -> str:
    """The mean KL of each candidate with its interval, on a logarithmic scale, in the order given."""
    kept = []
    for i, (s, name) in enumerate(zip(summaries, names, strict=True)):
        mean, (low, high) = s.kl.mean, s.kl.group_interval()
        if s.kl.count and 0 < mean < math.inf:
            kept.append((i, name, mean, low if low > 0 else mean, high if 0 < high < math.inf else mean))
    if not kept:
        return ""
    ticks = log_ticks(min(low for *_, low, _ in kept), max(high for *_, high in kept))
    count = len(summaries)
    ends = math.log10(ticks[0][0]), math.log10(ticks[-1][0])
    frame = Frame(ends, (count + 0.5, 0.5), height=90 + 34 * count)
    frame.axes(
        "mean KL(p‖q), nats (logarithmic)", "place", [(math.log10(value), text) for value, text in ticks],
        [(i + 1.0, f"{i + 1}") for i in range(count)],
    )  # fmt: skip
    for i, name, mean, low, high in kept:
        frame.span(
            (math.log10(low), math.log10(high)), math.log10(mean), i + 1.0, i, f"{i + 1}. {name}: {number(mean)}"
        )
    return frame.svg("Mean KL of each candidate with its 95 % interval")


def kl_distribution(summaries: Sequence[ComparisonSummary], names: Sequence[str]) -> str:
    """Share of tokens by KL on a logarithmic scale; what lies outside the scale is counted at its ends."""
    tops = [s.kl.max for s in summaries if s.kl.count and s.kl.max > 0]
    finite = [t for t in tops if math.isfinite(t)] or [1.0]
    lows = [s.kl.quantile(0.005) for s in summaries if s.kl.count]
    low = min([v for v in lows if 0 < v < math.inf] or [1e-6])
    first, last = max(math.floor(math.log10(max(low, 1e-12))), -12), math.ceil(math.log10(max(finite)) + 1e-9)
    last = max(last, first + 1)
    places = np.linspace(first, last, (last - first) * _STEPS + 1)
    edges = np.r_[-np.inf, 10.0 ** places[1:-1], np.inf]
    shares = [_shares(s.kl, edges) for s in summaries]
    ticks = nice(100 * max(float(x.max(initial=0.0)) for x in shares))
    frame = Frame((first, last), (0.0, ticks[-1]))
    every = max(1, -(-(last - first) // 7))
    frame.axes(
        "KL(p‖q) of a token, nats (logarithmic)", "% of tokens",
        [(e, f"10^{e}") for e in range(first, last + 1, every)], [(t, f"{t:g}") for t in ticks],
    )  # fmt: skip
    for i, (s, name, share) in enumerate(zip(summaries, names, shares, strict=True)):
        frame.steps(places.tolist(), (100 * share).tolist(), i, name)
        if s.kl.mean > 0 and first <= math.log10(s.kl.mean) <= last:
            frame.mark(math.log10(s.kl.mean), f"{name}: mean {number(s.kl.mean)}", i)
    return frame.svg("Distribution of KL over tokens")


def _shares(spread: Spread, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    found = spread.histogram(edges)
    if spread.count and math.isinf(spread.max):  # the last interval includes its end
        found[-1] = max(0.0, 1.0 - float(found[:-1].sum()))
    return found


def delta_distribution(summaries: Sequence[ComparisonSummary], names: Sequence[str]) -> str:
    """Share of tokens by Δp = q(token) - p(token), within the middle 99.8 %, on a logarithmic vertical axis."""
    kept = [(i, s, name) for i, (s, name) in enumerate(zip(summaries, names, strict=True)) if s.delta_prob.count]
    if not kept:
        return ""
    reach = max(abs(s.delta_prob.quantile(level)) for _, s, _ in kept for level in (0.001, 0.999))
    reach = nice(100 * reach, 2)[-1] or 1.0
    places = np.linspace(-reach, reach, 42)
    edges = np.r_[-np.inf, places[1:-1] / 100, np.inf]
    shares = [np.maximum(100 * _shares(s.delta_prob, edges), 0) for _, s, _ in kept]
    least = 100 / max(s.delta_prob.count for _, s, _ in kept)
    low = 10.0 ** math.floor(math.log10(least))
    frame = Frame((-reach, reach), (low, 100.0), log_y=True)
    powers = few(range(round(math.log10(low)), 3))
    frame.axes(
        "Δp = q - p of the true token, percentage points", "% of tokens (logarithmic)",
        [(x, f"{x:+g}" if x else "0") for x in (-reach, -reach / 2, 0.0, reach / 2, reach)],
        [(10.0**e, f"{10.0**e:g}") for e in powers],
    )  # fmt: skip
    for (i, _, name), share in zip(kept, shares, strict=True):
        frame.steps(places.tolist(), share.tolist(), i, name)
    return frame.svg("Distribution of the change in probability of the true token")


def acceptance_distribution(summaries: Sequence[ComparisonSummary], names: Sequence[str]) -> str:
    """Share of tokens by the share of draws that is not accepted there, on a logarithmic scale."""
    kept = [s.acceptance for s in summaries if s.acceptance.count]
    if len(kept) < len(summaries):
        return ""
    # 1 - acceptance of acceptances that are cut is known to 2^-15 at best
    least = -4 if any(spread.sketched for spread in kept) else -6
    far = [1 - spread.quantile(0.995) for spread in kept]
    first = max(least, math.floor(math.log10(max(1e-9, min([x for x in far if x > 0], default=1e-9)))))
    first = min(first, -1)
    places = np.linspace(first, 0, -first * _STEPS + 1)
    edges = np.r_[-np.inf, 1 - 10.0 ** places[-2:0:-1], np.inf]
    shares = [_shares(spread, edges)[::-1] for spread in kept]
    ticks = nice(100 * max(float(x.max()) for x in shares))
    frame = Frame((first, 0), (0.0, ticks[-1]))
    frame.axes(
        "not accepted, % of draws (logarithmic)", "% of tokens",
        [(e, f"{10.0 ** (e + 2):g}") for e in range(first, 1)], [(t, f"{t:g}") for t in ticks],
    )  # fmt: skip
    for i, (spread, name, share) in enumerate(zip(kept, names, shares, strict=True)):
        frame.steps(places.tolist(), (100 * share).tolist(), i, name)
        if spread.mean < 1 and math.log10(1 - spread.mean) >= first:
            frame.mark(math.log10(1 - spread.mean), f"{name}: mean {number(100 * (1 - spread.mean))} % not accepted", i)
    return frame.svg("Distribution over tokens of the share of draws that is not accepted")


def kl_by_position(summaries: Sequence[ComparisonSummary], names: Sequence[str]) -> str:
    """Mean KL by position in the chunk or document."""
    return _lines(summaries, names, "by_position", "kl", "mean KL(p‖q), nats")


def agreement_by_confidence(summaries: Sequence[ComparisonSummary], names: Sequence[str]) -> str:
    """Share of tokens with the same top token, by p's greatest probability."""
    return _lines(summaries, names, "by_confidence", "same_top1", "% with the same top token")


def acceptance_by_position(summaries: Sequence[ComparisonSummary], names: Sequence[str]) -> str:
    """Share of draws that are not accepted, by position."""
    return _lines(summaries, names, "by_position", "acceptance", "not accepted, % of draws")


def acceptance_by_confidence(summaries: Sequence[ComparisonSummary], names: Sequence[str]) -> str:
    """Share of draws that are not accepted, by p's greatest probability."""
    return _lines(summaries, names, "by_confidence", "acceptance", "not accepted, % of draws")


_X_LABELS = {"by_position": "position in the chunk or document", "by_confidence": "p's greatest probability"}
# what is drawn of a mean
_SHOWN: dict[str, Callable[[float], float]] = {
    "kl": lambda mean: mean, "same_top1": lambda mean: 100 * mean, "acceptance": lambda mean: 100 * (1 - mean),
}  # fmt: skip


def _place(part: Breakdown, key: int) -> float:
    return key * part.width + part.width / 2 - 0.5 if part.width else float(key)


def _lines(
    summaries: Sequence[ComparisonSummary], names: Sequence[str], part_name: str, statistic: str, y_label: str
) -> str:
    parts = [p if isinstance(p := s.parts.get(part_name), Breakdown) else Breakdown({}) for s in summaries]
    keys = sorted({key for part in parts for key in part.bins})
    if len(keys) < 2:
        return ""
    show, scale = _SHOWN[statistic], 1.0 if statistic == "kl" else 100.0
    lines = []
    for part in parts:
        points, titles = [], []
        for key in sorted(part.bins):
            mean = part.bins[key].get(statistic)
            if mean is not None and mean.count and math.isfinite(mean.mean):
                value, error = show(mean.mean), mean.standard_error * scale
                points.append((_place(part, key), value, 0.0 if math.isnan(error) else error))
                titles.append(f"{part.label(key)}: {number(value)} ({mean.count} tokens)")
        lines.append((points, titles))
    every = [point for points, _ in lines for point in points]
    if not every:
        return ""
    positive = [y for _, y, _ in every if y > 0]
    # of candidates that differ much the smaller ones would lie on the axis
    log_y = (
        statistic != "same_top1" and len(summaries) > 1 and max(positive, default=1.0) > 30 * min(positive, default=1.0)
    )
    if log_y:
        exponents = range(math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive))) + 1)
        limits = 10.0 ** exponents[0], 10.0 ** exponents[-1]
        exponents = few(exponents)
        y_ticks = [10.0**e for e in exponents]
    elif statistic == "same_top1":
        low = max(0.0, math.floor(min(y - e for _, y, e in every) / 10) * 10)
        low = min(low, 90.0)
        y_ticks = [low + (100.0 - low) * i / 5 for i in range(6)]
    else:
        y_ticks = nice(max(y + e for _, y, e in every))
    first = parts[0] if parts[0].bins else next(part for part in parts if part.bins)
    xs = [_place(first, key) for key in keys]
    margin = 0.5 if first.labels else 0.0
    frame = Frame((min(xs) - margin, max(xs) + margin), limits if log_y else (y_ticks[0], y_ticks[-1]), log_y)
    shown = keys if first.labels else keys[:: max(1, len(keys) // 8)]
    x_ticks = [(_place(first, key), first.label(key) if first.labels else f"{key * first.width}") for key in shown]
    y_texts = [f"10^{e}" for e in exponents] if log_y else [f"{t:.4g}" for t in y_ticks]
    frame.axes(_X_LABELS[part_name], y_label, x_ticks, list(zip(y_ticks, y_texts, strict=True)))
    for i, ((points, titles), name) in enumerate(zip(lines, names, strict=True)):
        shift = 5.0 * (i - (len(lines) - 1) / 2) if first.labels else 0.0
        frame.line(points, i, [f"{name}, {title}" for title in titles], shift)
    return frame.svg(y_label)
