"""What `llama-perplexity --kl-divergence` printed, read back: old results without files of logits.

The lines are those of tools/perplexity/perplexity.cpp; see also evaluation/llama_cpp.py, which computes them. The
figures have the digits that were printed, six after the point, and llama.cpp's conventions.
"""

from __future__ import annotations

import math
import re

from kullback.evaluation.table.figures import Base, Figures, with_normal_interval

__all__ = ["is_log", "log_figures"]

CONVENTION = "llama.cpp"
_NUMBER = r"([-+]?(?:[0-9]+(?:\.[0-9]*)?(?:e[-+]?[0-9]+)?|nan(?:\([a-z]*\))?|inf))"
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_RUN = re.compile(r"computing over ([0-9]{1,9}) chunks, n_ctx\s*=\s*([0-9]{1,9})")
_QUANTILES = ("0.1", "1.0", "5.0", "10.0", "90.0", "95.0", "99.0", "99.9")


def is_log(text: str) -> bool:
    """Whether the text has the statistics of a KL divergence as llama-perplexity prints them."""
    return re.search(r"Mean\s+KLD\s*:", text) is not None


def log_figures(text: str, name: str, path: str) -> Figures:
    """The figures of one log; ValueError where it has none, or several."""
    text = _COLOURS.sub("", text)
    if len(re.findall(r"Mean\s+KLD\s*:", text)) > 1:
        raise ValueError(f"{path}: the logs of several runs in one file, expected one")
    mean, error = _line(text, r"Mean\s+KLD")
    kl = {"mean": mean, "median": _line(text, r"Median\s+KLD")[0], "max": _line(text, r"Maximum\s+KLD")[0]}
    kl |= {f"p{float(level):g}": _line(text, rf"(?<![0-9]){re.escape(level)}%\s+KLD")[0] for level in _QUANTILES}
    same_top, _ = _line(text, r"Same top p")
    ratio, ratio_error = _line(text, r"Mean\s+PPL\(Q\)/PPL\(base\)")
    perplexity, _ = _line(text, r"Mean\s+PPL\(base\)")
    printed = re.search(r"Mean\s+PPL\(base\)\s*:\s*[0-9]+\.([0-9]+)", text)
    base = Base(
        _tokens(text), None, 0, 0, "nats", CONVENTION, perplexity, math.nan, "",
        len(printed[1]) if printed else None,
    )  # fmt: skip
    intervals = {} if math.isnan(error) else {"mean": with_normal_interval(mean, error)}
    return Figures(name, path, base, kl, error, False, intervals, same_top / 100, ratio, ratio_error)


def _line(text: str, what: str) -> tuple[float, float]:
    """The number after a label, and its error; NaN where there is none. Between them stands ± in some coding."""
    found = re.search(rf"{what}\s*:\s*{_NUMBER}\s*(?:%?\s*(?!-?[0-9])\S{{1,3}}\s*{_NUMBER})?", text)
    if found is None:
        return math.nan, math.nan
    return _number(found[1]), _number(found[2])


def _number(text: str | None) -> float:
    return math.nan if text is None or text.lstrip("+-").startswith("nan") else float(text)


def _tokens(text: str) -> int | None:
    """Of each chunk the second half counts: n_ctx - 1 - n_ctx // 2 tokens. None where standard error was not kept."""
    run = _RUN.search(text)
    if run is None:
        return None
    chunks, context = int(run[1]), int(run[2])
    return chunks * max(0, context - 1 - context // 2)
