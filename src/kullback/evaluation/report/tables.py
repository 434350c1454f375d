"""The figures of the report as plain values for its template: what stands in its tables, and under its drawings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kullback.comparison import CandidateComparison, ComparisonSummary, Mean, Spread
from kullback.evaluation.differences import p_text
from kullback.evaluation.parts import Agreement, Breakdown, Convention, WorstTokens
from kullback.evaluation.ranking import Ranking
from kullback.evaluation.table.sizes import ModelSize, size_text
from kullback.evaluation.terminal import remarks
from kullback.evaluation.text import short
from kullback.evaluation.verdict import left_out

__all__ = ["breakdown_table", "candidate", "difference_rows"]

_SPREADS = (
    ("kl", "KL(p‖q)", "nats by which q's predictions miss p's; the headline"),
    ("reverse_kl", "KL(q‖p)", "the same with the roles exchanged"),
    ("acceptance", "acceptance", "Σ min(p, q): of q's draws, the share that speculative decoding keeps"),
    ("jensen_shannon", "Jensen-Shannon", "symmetric, at most ln 2"),
    ("entropy_p", "entropy of p", "how uncertain p itself is"),
    ("entropy_q", "entropy of q", ""),
    ("log_ratio", "ln p/q of the token", "how much likelier p found the true token"),
    ("delta_prob", "Δp of the token", "q's probability of the true token minus p's"),
)


def candidate(s: ComparisonSummary, name: str, place: int, size: ModelSize | None) -> dict[str, Any]:
    """What the page shows of one candidate; `place` in the ranking gives it its colour."""
    error, label = s.kl.error
    low, high = s.kl.group_interval()
    null, worst, convention = (s.parts.get(part) for part in ("null_control", "worst_tokens", "llama_cpp"))
    agreement, tail = s.parts.get("top_k_agreement"), s.kl.quantile_interval(0.99)
    agreement_ends = s.same_top1.share_interval()
    log_error, log_label = s.log_ratio.error
    return {
        "name": name,
        "index": place,
        "summary": s,
        "size": "-" if size is None else size_text(size.bytes),
        "bytes": size and size.bytes,
        "bits": math.nan if size is None else size.bits_per_weight,
        "remarks": remarks(s),
        "left_out": left_out(s),
        "kl_error": f"{label} {short(error, 2)}",
        "tail_interval": None if math.isnan(tail[0]) or math.isinf(tail[1]) else tail,
        "interval": None if math.isnan(low) else (low, high),
        "ratio_error": f"{log_label} {short(s.perplexity_ratio * log_error, 2)}",
        "agreement_interval": None if math.isnan(agreement_ends[0]) else agreement_ends,
        "spreads": [
            (label, note, spread)
            for key, label, note in _SPREADS
            if isinstance(spread := s.parts.get(key) or getattr(s, key, None), Spread) and spread.count
        ],
        "null": null.mean if isinstance(null, Mean) and null.count else None,
        "agreement": agreement if isinstance(agreement, Agreement) else None,
        "worst": worst.tokens if isinstance(worst, WorstTokens) else [],
        "groups": _groups(s),
        "convention": convention if isinstance(convention, Convention) else None,
        "facts": {side: s.facts[side] for side in "pq" if side in s.facts},
    }


def _groups(s: ComparisonSummary, most: int = 10) -> list[tuple[int, int, float]]:
    """The chunks or documents with the greatest mean KL."""
    groups, counts, means = s.kl.group_means()
    order = sorted(range(len(groups)), key=lambda i: -means[i])[:most]
    return [(int(groups[i]), int(counts[i]), float(means[i])) for i in order] if len(groups) > 1 else []


def difference_rows(ranking: Ranking, candidates: Mapping[str, ComparisonSummary]) -> list[dict[str, Any]]:
    """Who differs from whom, the pairs of a ranking."""
    if not isinstance(candidates, CandidateComparison):
        return []
    rows = []
    for test in ranking.pairs:
        difference, interval = candidates.difference(test.high, test.low), test.difference.interval()
        same = difference.same_top1 if "same_top1" in difference.quantities else None
        rows.append({
            "high": test.high, "low": test.low, "mean": test.difference.mean, "p": p_text(test.adjusted),
            "interval": None if math.isnan(interval[0]) else interval, "tail": difference.kl_quantile(0.999).mean,
            "same": None if same is None else same.mean, "known": test.shown or not math.isnan(test.adjusted),
            "shown": test.shown,
        })  # fmt: skip
    return rows


def breakdown_table(summaries: Sequence[ComparisonSummary], part_name: str) -> list[tuple[str, int, list[Any]]]:
    """(bin, tokens in it, the means of each candidate or None) of what a drawing shows; empty with one bin."""
    parts = [p if isinstance(p := s.parts.get(part_name), Breakdown) else Breakdown({}) for s in summaries]
    keys = sorted({key for part in parts for key in part.bins})
    if len(keys) < 2:
        return []
    namer = next(part for part in parts if part.bins)
    return [
        (
            namer.label(key),
            max(part.bins[key]["kl"].count for part in parts if key in part.bins),
            [part.bins.get(key) for part in parts],
        )
        for key in keys
    ]
