"""LiveComparison: rows of models that run, compared with a reference or with each other as they come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, Unpack

import numpy as np
from numpy.typing import NDArray

from kullback._engine import Given, arrays as layouts, keywords
from kullback.comparison import CandidateComparison, ComparisonSummary
from kullback.evaluation.candidates import Summing
from kullback.evaluation.checkpoint import Candidates
from kullback.evaluation.columns import IGNORE_INDEX, Plan, compare_rows
from kullback.evaluation.live.base import Known, base_of, live_facts
from kullback.evaluation.live.batch import (
    Incoming,
    common_vocabulary,
    names_of_candidates,
    rows_together,
    same_lead,
    viewed,
)  # fmt: skip
from kullback.evaluation.live.labels import labels_of_rows
from kullback.evaluation.live.look import Look
from kullback.evaluation.live.order import Numbered, Order
from kullback.evaluation.parts import position_width
from kullback.evaluation.plan import check_references, note_facts, note_labels
from kullback.evaluation.sources import Dump
from kullback.evaluation.sources.base import ReaderOptions
from kullback.evaluation.statistics import joined

__all__ = ["LiveComparison"]

# rows of a job of unknown length: on each 256th of them the rounding of the number formats is measured
_UNKNOWN_ROWS = 32 * 256


class LiveComparison:
    """Compare models while they run: no logits are written anywhere, a batch is forgotten when it is compared.

    Parameters
    ----------
    reference : path-like, Source, array_like (T, V) or function, optional
        The rows of p: a file in any format of `open_logits`, an array, or a function that gives rows `start` to `stop`
        when it is called with these numbers. Without one, p comes with each update: `update_both`.
    given : {"logits", "log_probs", "probs"}
    candidates : sequence of str, optional
        Names of the candidates; by default those of the first update, and "q" for a single one.
    vocab_size : int, optional
        Compare the first columns only: where models pad their vocabularies differently.
    rows : int, optional
        How many rows there will be, where the reference does not say.
    jensen_shannon, top_k, ignore_index, num_threads
        As in `compare_files`.
    by : path-like, array_like, or mapping of str to either, optional
        Labels as in `compare_files`, where it is known how many rows there will be.
    warn : callable, optional
        Called once with a line for each thing that looks wrong in the first rows (shifted tokens, permuted
        vocabularies, probabilities taken for logits, ...); the lines are in `facts["warnings"]` of the summaries too.
    taking : callable, optional
        Called after each update with the first row, the end, and for each candidate the values of its rows by name:
        for those who want more of them than a summary.
    **options
        Of `open_logits`, for a reference that is a file.

    Attributes
    ----------
    rows : int
        Compared so far.
    remaining : int or None
        Rows of the reference that are still to come; None where it is not known.

    Notes
    -----
    Figures have the bits that `compare_files` gives for the same rows, whatever the sizes of the updates. An update
    that raises has changed nothing.

    Logits are read where they lie: NumPy, torch on the CPU (bfloat16, float16 and float8 too), anything with DLPack, a
    buffer or an array interface. `logits[:, :-1]` of a batch costs nothing.

    Examples
    --------
    >>> import numpy as np
    >>> from kullback.evaluation import LiveComparison
    >>> rng = np.random.default_rng(0)
    >>> reference = rng.normal(0, 3, (60, 100)).astype(np.float32)
    >>> with LiveComparison(reference) as live:
    ...     for start in range(0, 60, 20):
    ...         logits = reference[start : start + 20] + rng.normal(0, 0.1, (20, 100))
    ...         live.update(logits, tokens=rng.integers(0, 100, 20), groups=start // 20)
    ...     summary = live.summary()
    >>> summary.tokens, round(summary.kl.mean, 3)
    (60, 0.004)
    """

    def __init__(
        self,
        reference: Any = None,
        *,
        given: Given = "logits",
        candidates: Sequence[str] | None = None,
        vocab_size: int | None = None,
        rows: int | None = None,
        jensen_shannon: bool = False,
        top_k: Sequence[int] = (),
        ignore_index: int = IGNORE_INDEX,
        num_threads: int | None = None,
        by: Any = None,
        warn: Callable[[str], None] | None = None,
        taking: Callable[[int, int, Candidates], None] | None = None,
        **options: Unpack[ReaderOptions],
    ) -> None:
        keywords.space(given)
        keywords.callback(warn, "warn")
        keywords.callback(taking, "taking")
        ks = tuple(sorted({keywords.whole(k, "top_k", 1) for k in keywords.several(top_k, "top_k", "whole numbers")}))
        js = keywords.flag(jensen_shannon, "jensen_shannon")
        self._vocab = None if vocab_size is None else keywords.whole(vocab_size, "vocab_size", 1)
        names = () if candidates is None else keywords.several(candidates, "candidates", "the names of the candidates")
        self._names: tuple[str, ...] = tuple(names_of_candidates(dict.fromkeys(names), ())) if names else ()
        self._stack = ExitStack()
        self._base = base_of(self._stack, reference, **options)
        source = None if self._base is None else self._base.source
        if isinstance(source, Dump) and given == "probs":
            raise ValueError(f"`given` is 'probs', but {source.path} holds log-probabilities")
        if source is not None:
            check_references(source, (), self._vocab or source.shape[1], None, ks, js)
        total = None if self._base is None else self._base.total
        if total is None and rows is not None:
            total = keywords.whole(rows, "rows", 0)
        if by is not None and total is None:
            raise ValueError("`by` needs to know how many rows there will be: give `rows`")
        self._labels = labels_of_rows(source, by, total or 0)
        ignored = keywords.integer(ignore_index, "ignore_index")
        self._order = Order(source, total, ignored)
        self._plan = Plan(given, 0, _UNKNOWN_ROWS if total is None else total, js, ks, False, ignored)
        self._threads = num_threads
        self._look = Look(given, warn)
        self._taking = taking
        self._summing: Summing | None = None
        self._facts: dict[str, dict[str, Any]] = {}  # by candidate; "" those of a base that runs
        self._closed = False

    @property
    def rows(self) -> int:
        return self._order.row

    @property
    def remaining(self) -> int | None:
        return None if self._order.total is None else self._order.total - self._order.row

    def update(self, logits: Any, tokens: Any = None, groups: Any = None, mask: Any = None) -> None:
        """Compare the next rows of the reference with a candidate's, or with several candidates'.

        Parameters
        ----------
        logits : array (T, V), (B, T, V) or (V,); or a dict of str to such arrays
            The candidate's next rows, sequence after sequence; of several candidates by name, all of one shape.
        tokens : array of int, optional
            The token that each row should predict, (T,) or (B, T); -100 where none is asked for: such a row of the
            reference is passed over. A reference that has tokens must agree.
        groups : array of int, optional
            The document of each row; one number a sequence (B,), or one for all, will do. Neighbouring rows of one
            number are one document, whatever update they come in. Without it, each sequence of (B, T, V) is one, unless
            the reference knows documents.
        mask : array of bool, optional
            Which places are rows; the others are padding, which is never read and has no row in the reference.

        Raises
        ------
        ValueError, TypeError
            If the rows are not the reference's next ones: too many, another vocabulary, other tokens.
        """
        if self._base is None:
            raise ValueError("there is no reference: give p's logits too, with update_both")
        self._update(None, logits, tokens, groups, mask)

    def update_both(
        self, p_logits: Any, q_logits: Any, tokens: Any = None, groups: Any = None, mask: Any = None
    ) -> None:
        """Compare rows of two models that both run: `p_logits` of the base, the others as in `update`."""
        if self._base is not None:
            raise ValueError(f"p's rows come from {self._base.name}: give q's alone, with update")
        self._update(viewed(p_logits, "p_logits"), q_logits, tokens, groups, mask)

    def _update(self, p: NDArray[Any] | None, logits: Any, tokens: Any, groups: Any, mask: Any) -> None:
        if self._closed:
            raise ValueError("this comparison is closed: it takes no more rows")
        found = names_of_candidates(logits, self._names)
        qs = {name: viewed(x, name if isinstance(logits, dict) else "logits") for name, x in found.items()}
        lead = next(iter(qs.values())).shape[:-1] if p is None else p.shape[:-1]
        for name, q in qs.items():
            same_lead(q, lead, name)
        batch = Incoming(lead, mask, tokens, groups)
        rows = self._order.next(batch)
        kept: list[Any] = []
        parts: list[Candidates] = []
        arrays = [*qs.values()] if p is None else [p, *qs.values()]
        facts: dict[str, dict[str, Any]] = {}
        plan = self._plan
        vocab = self._base.vocab if isinstance(self._base, Known) else p.shape[-1] if p is not None else 0
        if vocab:  # what can be refused is, before rows are read that may not come again
            plan = replace(plan, vocab=self._vocabulary(vocab, qs))
            if rows.tokens is not None:
                layouts.token_ids(rows.tokens, "tokens", rows.tokens.shape, plan.vocab, plan.ignore_index)
        for first, end in batch.spans(arrays, rows_together(arrays)):
            start, stop = rows.start + first, rows.start + end
            if p is None:
                assert self._base is not None
                base = self._base.rows(start, stop)
            else:
                base = batch.rows(p, "p_logits", first, end)
                facts[""] = live_facts("p", "live", stop, base)
            others = [batch.rows(q, name, first, end) for name, q in qs.items()]
            facts |= {name: live_facts(name, "live", stop, x) for name, x in zip(qs, others, strict=True)}
            if not vocab:
                plan = replace(plan, vocab=self._vocabulary(base.shape[1], qs))
            kept += self._look.part(base, others, kept)
            cells, told = (None, True) if self._base is None else (self._base.cells, self._base.asked)
            asked = None if rows.tokens is None or not told else rows.tokens[first:end]
            windows = (0.0 if self._base is None else self._base.window, 0.0)
            parts.append([compare_rows(plan, base, x, windows, start, asked, self._threads, cells) for x in others])
        columns = [joined(some) | rows.columns(self._labels) for some in zip(*parts, strict=True)]
        if not columns:
            self._order.add(rows, batch.groups)
            return
        self._names, self._plan = tuple(qs), plan
        self._facts |= facts
        self._look.add(kept, rows.stop - rows.start)
        self._add(rows, batch.groups, columns)

    def _vocabulary(self, p: int, qs: Mapping[str, NDArray[Any]]) -> int:
        base = "p" if self._base is None else self._base.name
        found = common_vocabulary({base: p} | {name: q.shape[-1] for name, q in qs.items()}, self._vocab)
        if self._plan.vocab not in (0, found):
            raise ValueError(f"the rows have a vocabulary of {found}, those before had one of {self._plan.vocab}")
        return found

    def _add(self, rows: Numbered, given: NDArray[np.int64] | None, columns: Candidates) -> None:
        self._order.add(rows, given)
        width = position_width(self._order.longest)
        if self._summing is None:
            names = {} if self._labels is None else self._labels.names
            self._summing = Summing(self._names, width, self._order.targets, names)
        self._summing.widen(width, self._order.targets)
        self._summing.add(columns)
        if self._taking is not None:
            self._taking(rows.start, rows.stop, columns)

    def restore(self, start: int, stop: int, columns: Candidates) -> None:
        """Take the next rows from what an earlier comparison gave to `taking`, instead of comparing them again."""
        if start != self._order.row or len(columns) != len(self._names):
            raise ValueError(f"rows from {start} on of {len(columns)} candidates, expected {self._order.row} on")
        first = columns[0]
        rows = Numbered(start, stop, first["position"], first.get("token"), first.get("group"), None)
        self._look.skip()
        taking, self._taking = self._taking, None  # who gives them has them
        self._add(rows, rows.groups, columns)
        self._taking = taking

    def summary(self) -> ComparisonSummary:
        """The summary of the rows so far; more may follow."""
        found = self.comparison()
        if len(found) != 1:
            raise ValueError(f"there are several candidates, {', '.join(found)}: comparison() has them all")
        return found.summaries[0]

    def comparison(self) -> CandidateComparison:
        """The comparison of all candidates over the rows so far, as of `compare_candidates`; more may follow."""
        if self._summing is None:
            raise ValueError("no rows were compared yet")
        found = self._summing.so_far()
        base = self._facts.get("", {}) if self._base is None else self._base.facts()
        names = ["p" if self._base is None else self._base.name, *self._names]
        lines = self._look.now(names, self._order.targets) or [[] for _ in self._names]
        for name, summary, some in zip(self._names, found.summaries, lines, strict=True):
            if name in self._facts:
                note_facts(summary, base, self._facts[name], self._plan, (0, self._order.row))
                note_labels(summary, {} if self._labels is None else self._labels.identity)
            if some or self._order.remarks:
                summary.facts["warnings"] = [*self._order.remarks, *some]
        return found

    def close(self) -> None:
        """Release the reference; summaries are given all the same."""
        self._closed = True
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close()
