"""CandidateTable: candidates of one base in one table, from files or from a comparison."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kullback._engine import keywords
from kullback.comparison import CandidateComparison
from kullback.evaluation.table import words
from kullback.evaluation.table.figures import Figures, candidate_trees, figures_of
from kullback.evaluation.table.llama_log import is_log, log_figures
from kullback.evaluation.table.picture import write_picture
from kullback.evaluation.table.rows import LEVEL, RankedCandidates
from kullback.evaluation.table.same_base import check_comparable
from kullback.evaluation.table.sizes import by_candidate, measured
from kullback.evaluation.text import labels

__all__ = ["CandidateTable", "read_table", "table_of"]

_LARGEST = 256 << 20  # of a result, in bytes


class CandidateTable(RankedCandidates):
    """Candidates of one base, ranked: `rows`, the least first and what is not known last, and what they say.

    `statistic` is the figure that ranks, and a row has `name`, `value`, `size`, `frontier`, `alike` and `figures`.
    """

    @property
    def notes(self) -> list[str]:
        return words.notes(self)

    def to_text(self) -> str:
        """As `kullback table` prints it, in 80 columns."""
        return words.printed(self)

    def to_markdown(self) -> str:
        """A table of Markdown, and the notes below it."""
        return words.markdown(self)

    def to_csv(self) -> str:
        """A line a candidate, numbers in full; empty where not known."""
        return words.comma_separated(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return words.tree(self)

    def to_picture(self, path: str | os.PathLike[str]) -> list[str]:
        """Draw KL against size as `path`, .svg or .png; returns what is not drawn, in words."""
        return write_picture(self, os.fspath(path))

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        return f"CandidateTable({len(self.rows)} candidates by {self.statistic})"


def table_of(
    comparison: CandidateComparison,
    *,
    statistic: str = "kl.mean",
    sizes: Mapping[str, Any] | None = None,
    parameters: int | None = None,
    margin: float | None = None,
) -> CandidateTable:
    """The candidates of `compare_candidates` as a table; the parameters are those of `read_table`, and `margin`: name
    the candidates that are shown not to be worse than the best by so much."""
    tree = comparison.to_dict()
    names = list(comparison)
    trees = zip(candidate_trees(tree, ""), names, strict=True)
    found = [figures_of(one, name, "the comparison") for one, name in trees]
    not_worse = None
    if margin is not None and len(names) > 1:
        not_worse = margin, [name for name, p in comparison.not_worse(margin).items() if p < LEVEL]
    return CandidateTable(
        found, statistic=statistic, sizes=measured(sizes, parameters), differences=tree.get("differences", ()),
        not_worse=not_worse,
    )  # fmt: skip


def read_table(
    paths: Iterable[str | os.PathLike[str]],
    *,
    statistic: str = "kl.mean",
    sizes: Mapping[str, Any] | None = None,
    parameters: int | None = None,
    force: bool = False,
) -> CandidateTable:
    """Results of `kullback compare --json`, and printed logs of llama-perplexity, as one table.

    Parameters
    ----------
    paths : sequence of path
        Results of one candidate or several, and logs of `llama-perplexity --kl-divergence`; known by what they hold.
    statistic : str
        What ranks: one of "kl.mean", "kl.median", "kl.p90", "kl.p95", "kl.p99", "kl.p99.9", "kl.max".
    sizes : mapping of str to path or int
        By candidate, the model: its GGUF or safetensors file or folder, or its bytes; else what results say themselves.
    parameters : int, optional
        Of models whose files do not tell.
    force : bool
        Whether results of other bases or rows are put into one table all the same.

    Returns
    -------
    CandidateTable

    Raises
    ------
    ValueError
        If a file is no result, is given twice, or is not of the same rows of the same base as the others.

    Examples
    --------
    >>> import os, tempfile
    >>> log = '''computing over 2 chunks, n_ctx=128
    ... Mean PPL(base)                :  72.234622 ±  21.496465
    ... Mean    KLD:   0.000067 ±   0.000013
    ... 99.9%   KLD:   0.001410'''
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "q8_0.txt")
    ...     with open(path, "w", encoding="utf-8") as file:
    ...         _ = file.write(log)
    ...     table = read_table([path], sizes={"q8_0.txt": 4_100_000}, parameters=4_000_000)
    >>> row = table.rows[0]
    >>> row.name, row.value, row.figures.kl["p99.9"], row.size.bits_per_weight
    ('q8_0.txt', 6.7e-05, 0.00141, 8.2)
    """
    if isinstance(paths, (str, bytes, os.PathLike)):
        raise TypeError(f"`paths` is one path, {keywords.shown(paths)}; expected a sequence of them")
    found, differences, not_worse = _read([os.fspath(path) for path in paths])
    warnings = check_comparable(found, force)
    known = {one.name: one.size for one in found if one.size is not None}
    given = by_candidate(measured(sizes, parameters), [one.name for one in found])
    return CandidateTable(
        found, statistic=statistic, sizes=known | given, differences=differences, warnings=warnings,
        not_worse=not_worse,
    )  # fmt: skip


def _read(paths: list[str]) -> tuple[list[Figures], list[dict[str, Any]], tuple[float, list[str]] | None]:
    """All candidates, under names that tell them apart; where one result has them all, their differences and which are
    not worse than the best by a margin."""
    if not paths:
        raise ValueError("`paths` is empty, expected one result at least")
    seen: dict[str, str] = {}
    entries: list[tuple[str, str, Any]] = []  # result, the candidate's path, its tree or the text of a log
    differences: list[dict[str, Any]] = []
    verdict: Any = None
    for path in paths:
        real = os.path.realpath(path)
        if real in seen:
            raise ValueError(f"{path}: given twice" + (f", once as {seen[real]}" if seen[real] != path else ""))
        seen[real] = path
        content = _content(path)
        if isinstance(content, str):
            entries.append((path, path, content))
            continue
        trees = candidate_trees(content, path)
        for i, tree in enumerate(trees):
            entries.append((path, _own_name(tree) or f"candidate {i + 1}", tree))
        verdict = content.get("verdict") if len(paths) == 1 else None
        listed = content.get("differences")
        differences = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    names = _names([(path, name) for path, name, _ in entries])
    shown = {own: name for (_, own, _), name in zip(entries, names, strict=True)}
    differences = [
        one | {side: shown.get(str(one.get(side)), "") for side in "ab"} for one in differences if len(paths) == 1
    ]
    return [
        log_figures(content, name, path) if isinstance(content, str) else figures_of(content, name, path)
        for (path, _, content), name in zip(entries, names, strict=True)
    ], differences, _not_worse(verdict, shown)  # fmt: skip


def _not_worse(verdict: Any, shown: Mapping[str, str]) -> tuple[float, list[str]] | None:
    """What a result says of a margin, where it does."""
    if not isinstance(verdict, dict) or not isinstance(verdict.get("not_worse"), list):
        return None
    margin = verdict.get("margin")
    if isinstance(margin, bool) or not isinstance(margin, int | float):
        return None
    return float(margin), [shown[str(name)] for name in verdict["not_worse"] if str(name) in shown]


def _own_name(tree: Mapping[str, Any]) -> str:
    """What the result calls a candidate, or the path of its file."""
    side = tree.get("q")
    for name in (tree.get("name"), side.get("path") if isinstance(side, dict) else None):
        if isinstance(name, str) and name:
            return name
    return ""


def _names(entries: Sequence[tuple[str, str]]) -> list[str]:
    """Short names; where candidates of several results have one name, the result's stands before it."""
    short = labels([name for _, name in entries])
    results = labels([path for path, _ in entries])
    names = [
        f"{result}: {name}" if short.count(name) > 1 and result != name else name
        for name, result in zip(short, results, strict=True)
    ]
    return [f"{name} ({names[: i + 1].count(name)})" if names.count(name) > 1 else name for i, name in enumerate(names)]


def _content(path: str) -> Any:
    """A tree of JSON, or the text of a log."""
    if os.path.isdir(path):
        raise ValueError(f"{path}: a folder, expected a result of `kullback compare --json`")
    with open(path, "rb") as file:
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise ValueError(f"{path}: more than {_LARGEST >> 20} MiB, which no result has")
    if data.lstrip()[:1] in (b"{", b"["):
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: begins as JSON and is none ({str(error)[:80]})") from None
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")  # as PowerShell's > writes
    text = data.decode("utf-16" if wide else "utf-8", "replace")
    if not is_log(text):
        raise ValueError(
            f"{path}: neither a result of `kullback compare --json` nor a log of `llama-perplexity --kl-divergence` "
            "with its statistics"
        )
    return text
