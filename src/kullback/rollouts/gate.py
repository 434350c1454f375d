"""The gates of `kullback rollouts`: why a run does not pass, and what one should know of a run that does."""

from __future__ import annotations

import math

from kullback.comparison import counted
from kullback.rlhf import AUDIT_CHECKS
from kullback.rollouts.report import RolloutReport
from kullback.rollouts.skipped import DAMAGED, in_figures

__all__ = ["SEVERITIES", "severe", "too_far_apart", "unseen"]

SEVERITIES = ("note", "warning", "error")  # from the least


def severe(report: RolloutReport, least: str) -> list[str]:
    """The findings of that severity or a worse one, a line each."""
    names = SEVERITIES[SEVERITIES.index(least) :]
    return [f"{f.severity}: {f.check}: {f.seen}" for f in report.audit.findings if f.severity in names]


def too_far_apart(report: RolloutReport, most: float) -> str:
    """Why it is not shown that the KL is at most so many nats; "" if it is.

    The upper end of the interval of the sound tokens counts. Of tokens that an error left out nobody knows the KL, so
    that a run with some is not shown to be good by the others.
    """
    mean, upper = report.total.kl_k3.mean, report.kl_upper()
    if math.isnan(upper):
        return f"KL(rollout‖train) is not known to be at most {most:g}"
    figures = f"{mean:.6g}, at most {upper:.6g} with 95 % confidence"
    wrong = {check: n for check, n in report.audit.unsound.items() if AUDIT_CHECKS[check].severity == "error"}
    if wrong:
        share = f"{sum(wrong.values())} of {counted(report.audit.tokens, 'token')}"
        return (
            f"KL(rollout‖train) is not known of {share} ({_listed(wrong)}): not shown to be at most {most:g}; "
            f"of the sound ones it is {figures}"
        )
    return "" if upper <= most else f"KL(rollout‖train) is {figures}: not shown to be at most {most:g}"


def unseen(report: RolloutReport) -> str:
    """What the figures of a run that passes are without, or may be of; "" if that is nothing."""
    rows = {reason: n for reason, (n, *_) in sorted(report.skipped.reasons.items()) if not in_figures(reason)}
    cut = rows.pop(DAMAGED, 0)
    files = len(report.facts["left_out_files"])
    copies = [f for f in report.audit.findings if f.check == "identical"]
    parts = [
        f"{counted(sum(rows.values()), 'row')} ({_listed(rows)})" if rows else "",
        f"the end of {counted(cut, 'damaged file')}" if cut else "",
        counted(files, "file") if files else "",
        f"{counted(report.missing, 'piece')} of the files" if report.missing else "",
        f"{counted(sum(report.audit.unsound.values()), 'token')} ({_listed(report.audit.unsound)})"
        if report.audit.unsound else "",
    ]  # fmt: skip
    without = ", ".join(part for part in parts if part)
    said = [f"its figures are without {without}"] if without else []
    said += [f"in {counted(f.sequences, 'sequence')} one side may be a copy of the other" for f in copies]
    return "; ".join(said)


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counts.items())
