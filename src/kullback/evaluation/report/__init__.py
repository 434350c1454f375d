"""One page, without anything from elsewhere, that shows a comparison: tables and drawings in one HTML file.

`write_report` fills page.html.jinja with tables.py's figures and verdict.py's words; drawings.py makes the SVG from
summaries. The page may load nothing, and run and wear nothing but page.js and page.css, and says so to the browser
(Content-Security-Policy), which lets these two through by their digests. So a page of figures from somebody else's
files can be mailed and opened without trust. The script sorts and filters tables; without it the page says the same:
what is folded (`<details>`) or said on hovering (`<title>`) needs none. Libraries of charts that fit into one file
bring megabytes of it (Vega, Plotly) or draw for one paper (Matplotlib: in fixed colours, light or dark); frame.py's
lines and bars take theirs from the style sheet.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib import resources
from importlib.metadata import version
from typing import Any

from kullback._engine import keywords, library
from kullback.comparison import CandidateComparison, ComparisonSummary, share_text
from kullback.evaluation.figures import percent, ratio_text
from kullback.evaluation.outputs import atomic_file, check_outputs, named_paths
from kullback.evaluation.ranking import rank
from kullback.evaluation.report import drawings, tables
from kullback.evaluation.report.by_label import label_sections
from kullback.evaluation.report.frontier import size_picture
from kullback.evaluation.table import STATISTICS
from kullback.evaluation.table.sizes import by_candidate, measured
from kullback.evaluation.terminal import side_labels
from kullback.evaluation.text import short, unlike, visible
from kullback.evaluation.verdict import rule_of, verdict_of_many, verdict_of_one

__all__ = ["check_library", "fill_page", "render_report", "write_report"]

_MOST_DRAWN = 6  # colours


def check_library() -> Any:
    """jinja2, or an ImportError that names the extra."""
    return library("jinja2", "the report")


def write_report(
    summaries: CandidateComparison | Sequence[ComparisonSummary],
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    sizes: Mapping[str, Any] | None = None,
    frontier: str = "kl.mean",
    margin: float | None = None,
) -> None:
    """Write the report of one comparison, or of several candidates with one base, as a single HTML file.

    Parameters
    ----------
    summaries : CandidateComparison, or sequence of ComparisonSummary
        From `compare_candidates` or `compare_files`; summaries alone have no differences between candidates.
    path : path-like
        The file, which appears when it is complete.
    title : str, optional
    sizes : mapping of str to path or number, optional
        By the names of the comparison, or of their files: the candidate's model (a GGUF or safetensors file or folder)
        or its bytes. The rule of what to ship takes the smallest of those that cannot be told from the nearest one.
    frontier : str
        What is drawn against size: "kl.mean", "kl.median", "kl.p90", "kl.p95", "kl.p99", "kl.p99.9" or "kl.max".
    margin : float, optional
        Ship the smallest candidate that is shown not to be worse than the best by so much in mean KL.

    Raises
    ------
    ImportError
        If jinja2 is missing.
    ValueError
        If `path` is one of the files compared, or `sizes` names no candidate.
    OSError
        If the file cannot be written.
    """
    inputs = [s.facts for s in _by_name(summaries).values()]
    check_outputs({"`path`": path}, named_paths(inputs), force=True)
    with atomic_file(os.fspath(path)) as file:
        file.write(render_report(summaries, title=title, sizes=sizes, frontier=frontier, margin=margin).encode())


def render_report(
    summaries: CandidateComparison | Sequence[ComparisonSummary],
    *,
    title: str | None = None,
    sizes: Mapping[str, Any] | None = None,
    frontier: str = "kl.mean",
    margin: float | None = None,
) -> str:
    """The page as a string; see `write_report`."""
    found = _by_name(summaries)
    keywords.choice(frontier, "frontier", STATISTICS)
    known = by_candidate(measured(sizes), list(found))
    bytes_of = {name: size.bytes for name, size in known.items()}
    base, names = side_labels(list(found.values()))[0], list(found)
    ranking = rank(found, margin)
    ordered = [tables.candidate(found[name], name, k, known.get(name)) for k, name in enumerate(ranking.order)]
    drawn = ranking.order[:_MOST_DRAWN]
    shown = [found[name] for name in drawn]
    return fill_page(
        __name__,
        title=title or f"{', '.join(names[:3])}{' and more' if len(names) > 3 else ''} against {base}",
        base=base,
        candidates=ordered,
        drawn=ordered[:_MOST_DRAWN],
        rule=rule_of(ranking, found[ranking.order[0]].unit),
        verdict=verdict_of_many(found, ranking, bytes_of) if len(names) > 1 else [],
        verdict_of_one=verdict_of_one(found[names[0]]),
        differences=tables.difference_rows(ranking, found),
        left_out=found.difference(*names[:2]).left_out if isinstance(found, CandidateComparison) and names[1:] else 0,
        sizes=size_picture(found, ranking.order, known, frontier),
        means_drawing=drawings.means(shown, drawn) if len(names) > 1 else "",
        kl_drawing=drawings.kl_distribution(shown, drawn),
        delta_drawing=drawings.delta_distribution(shown, drawn),
        position_drawing=drawings.kl_by_position(shown, drawn),
        confidence_drawing=drawings.agreement_by_confidence(shown, drawn),
        by_label=label_sections(found, ranking.order, _MOST_DRAWN),
        acceptance_drawing=drawings.acceptance_distribution(shown, drawn),
        acceptance_by_confidence=drawings.acceptance_by_confidence(shown, drawn),
        acceptance_by_position=drawings.acceptance_by_position(shown, drawn),
        by_position=tables.breakdown_table(shown, "by_position"),
        by_confidence=tables.breakdown_table(shown, "by_confidence"),
    )


def _by_name(summaries: CandidateComparison | Sequence[ComparisonSummary]) -> Mapping[str, ComparisonSummary]:
    if isinstance(summaries, CandidateComparison):
        return summaries
    return dict(zip(unlike(side_labels(summaries)[1]), summaries, strict=True))


def fill_page(package: str, **values: Any) -> str:
    """The page.html.jinja of a package, filled: what it lets through is the style sheet and the script of this one."""
    jinja2 = check_library()
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package, "."), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=jinja2.StrictUndefined, finalize=_printable,
    )  # fmt: skip
    environment.filters |= {
        "exact": _exact,
        "short": short,
        "percent": percent,
        "ratio": ratio_text,
        "share": share_text,
    }
    own = {
        name: resources.files(__name__).joinpath(file).read_text(encoding="utf-8")
        for name, file in (("style", "page.css"), ("script", "page.js"))
    }
    digests = {f"{name}_digest": _digest(text) for name, text in own.items()}
    page = environment.get_template("page.html.jinja")
    return str(page.render(version=version("kullback"), **own, **digests, **values))


def _digest(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


def _exact(x: float) -> str:
    """A number as the script reads it."""
    return repr(float(x)).replace("inf", "Infinity")


def _printable(value: Any) -> Any:
    """Text of files without what would turn, hide or break the text around it; markup of our own as it is."""
    return visible(value, "\n\t") if isinstance(value, str) and not hasattr(value, "__html__") else value
