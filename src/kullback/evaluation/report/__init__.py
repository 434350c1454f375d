"""One page, without anything from elsewhere, that shows a comparison: tables and drawings in one HTML file.

`write_report` fills page.html.jinja; drawings.py makes the SVG from summaries. The page may run no script and load
nothing, and says so to the browser (Content-Security-Policy): its style sheet alone is let through, by its digest.
"""

from __future__ import annotations

import math
import os
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from importlib import resources
from importlib.metadata import version
from typing import Any

from kullback._engine import library
from kullback.comparison import ComparisonSummary, Mean, Spread, share_text
from kullback.evaluation.outputs import atomic_file, check_outputs, named_paths
from kullback.evaluation.parts import Agreement, Breakdown, Clipping, Convention, WorstTokens
from kullback.evaluation.report import drawings
from kullback.evaluation.terminal import percent, ratio_text, remarks, short, side_labels
from kullback.evaluation.text import visible

__all__ = ["check_library", "fill_page", "render_report", "write_report"]

_SPREADS = (
    ("kl", "KL(p‖q)", "nats by which q's predictions miss p's; the headline"),
    ("reverse_kl", "KL(q‖p)", "the same with the roles exchanged"),
    ("jensen_shannon", "Jensen-Shannon", "symmetric, at most ln 2"),
    ("entropy_p", "entropy of p", "how uncertain p itself is"),
    ("entropy_q", "entropy of q", ""),
    ("acceptance", "acceptance", "Σ min(p, q): of q's draws, the share that speculative decoding keeps"),
    ("log_ratio", "ln p/q of the token", "how much likelier p found the true token"),
)


def check_library() -> Any:
    """jinja2, or an ImportError that names the extra."""
    return library("jinja2", "the report")


def write_report(
    summaries: Sequence[ComparisonSummary], path: str | os.PathLike[str], *, title: str | None = None
) -> None:
    """Write the report of one comparison, or of several candidates with one base, as a single HTML file.

    Parameters
    ----------
    summaries : sequence of ComparisonSummary
        From `compare_files` or `compare_candidates`.
    path : path-like
        The file, which appears when it is complete.
    title : str, optional

    Raises
    ------
    ImportError
        If jinja2 is missing.
    ValueError
        If `path` is one of the files compared.
    OSError
        If the file cannot be written.
    """
    check_outputs({"`path`": path}, named_paths([s.facts for s in summaries]), force=True)
    with atomic_file(os.fspath(path)) as file:
        file.write(render_report(summaries, title=title).encode())


def render_report(summaries: Sequence[ComparisonSummary], *, title: str | None = None) -> str:
    """The page as a string; see `write_report`."""
    base, names = side_labels(summaries)
    return fill_page(
        __name__,
        title=title or f"{', '.join(names)} against {base}",
        base=base,
        candidates=[_candidate(s, name, i) for i, (s, name) in enumerate(zip(summaries, names, strict=True))],
        kl_drawing=drawings.kl_distribution(summaries, names),
        delta_drawing=drawings.delta_distribution(summaries, names),
        position_drawing=drawings.kl_by_position(summaries, names),
        confidence_drawing=drawings.agreement_by_confidence(summaries, names),
    )


def fill_page(package: str, **values: Any) -> str:
    """The page.html.jinja of a package, filled: it has the style sheet of this one, and lets nothing else through."""
    jinja2 = check_library()
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package, "."), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=jinja2.StrictUndefined, finalize=_printable,
    )  # fmt: skip
    environment.filters |= {"short": short, "percent": percent, "ratio": ratio_text, "share": share_text}
    style = resources.files(__name__).joinpath("page.css").read_text(encoding="utf-8")
    digest = b64encode(sha256(style.encode()).digest()).decode()
    page = environment.get_template("page.html.jinja")
    return str(page.render(version=version("kullback"), style=style, style_digest=f"sha256-{digest}", **values))


def _printable(value: Any) -> Any:
    """Text of files without what would turn, hide or break the text around it; markup of our own as it is."""
    return visible(value, "\n\t") if isinstance(value, str) and not hasattr(value, "__html__") else value


def _candidate(s: ComparisonSummary, name: str, index: int) -> dict[str, Any]:
    """What the page shows of one candidate, as plain values."""
    error, label = s.kl.error
    low, high = s.kl.group_interval()
    tail = s.kl.quantile_interval(0.99)
    null, clipping = s.parts.get("null_control"), s.parts.get("clipping")
    worst, convention = s.parts.get("worst_tokens"), s.parts.get("llama_cpp")
    confidence, agreement = s.parts.get("by_confidence"), s.parts.get("top_k_agreement")
    agreement_ends = s.same_top1.share_interval()
    log_error, log_label = s.log_ratio.error
    return {
        "name": name,
        "index": index,
        "summary": s,
        "remarks": remarks(s),
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
        "clipping": clipping if isinstance(clipping, Clipping) else None,
        "agreement": agreement if isinstance(agreement, Agreement) else None,
        "confidence": [(confidence.label(k), confidence.bins[k]) for k in sorted(confidence.bins)]
        if isinstance(confidence, Breakdown)
        else [],
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
