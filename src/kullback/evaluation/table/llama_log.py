"""What `llama-perplexity --kl-divergence` printed, read back: old results without files of logits.

The lines are those of tools/perplexity/perplexity.cpp; see also evaluation/llama_cpp.py, which computes them. The
figures have the digits that were printed, six after the point, and llama.cpp's conventions. From January to April of
2024 it printed fewer, under other names: the last line of its table by chunk has the rest, to five digits.
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


_PLUS_MINUS = rf"{_NUMBER}\s*(?!-?[0-9])\S{{1,3}}\s*{_NUMBER}"  # ± in some coding
_MEAN = r"Mean\s+KLD\s*:"
_EARLY = "===== KL-divergence statistics"
_EARLY_QUANTILES = ("01", "05", "10", "90", "95", "99")
_CHUNK = re.compile(rf"^\s*[0-9]{{1,9}}\s+{_NUMBER}\s+{_PLUS_MINUS}\s+{_PLUS_MINUS}\s+{_PLUS_MINUS}\s*$", re.MULTILINE)


def is_log(text: str) -> bool:
    """Whether the text has the statistics of a KL divergence as llama-perplexity prints them."""
    return re.search(_MEAN, text) is not None or _EARLY in text


def log_figures(text: str, name: str, path: str) -> Figures:
    """The figures of one log; ValueError where it has none, or several."""
    text = _COLOURS.sub("", text)
    if len(re.findall(_MEAN, text)) + text.count(_EARLY) > 1:
        raise ValueError(f"{path}: the logs of several runs in one file, expected one")
    if _EARLY in text:
        return _early_figures(text, name, path)
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


def _early_figures(text: str, name: str, path: str) -> Figures:
    """Of a log of early 2024: statistics of KL; in the last line by chunk perplexity, its ratio and the top token."""
    before, _, after = text.partition(_EARLY)
    mean, error = _line(after, "Average")
    kl = {"mean": mean, "median": _line(after, r"Median")[0], "max": _line(after, "Maximum")[0]}
    kl |= {f"p{int(level)}": _line(after, f"KLD_{level}")[0] for level in _EARLY_QUANTILES}
    chunks = _CHUNK.findall(before)
    perplexity, log_ratio, log_error, _, _, same_top, _ = map(_number, chunks[-1]) if chunks else [math.nan] * 7
    ratio = math.exp(log_ratio) if log_ratio < 700 else math.nan
    known, decimals = perplexity / ratio, None
    if 0 < known < math.inf:
        # the base's is not printed; that of the candidate has four digits after the point, the logarithm five
        decimals = math.floor(-math.log10(2 * (5e-5 / ratio + 5e-6 * known)))
    base = Base(_tokens(text), None, 0, 0, "nats", CONVENTION, known, math.nan, "", decimals)
    intervals = {} if math.isnan(error) else {"mean": with_normal_interval(mean, error)}
    return Figures(name, path, base, kl, error, False, intervals, same_top, ratio, ratio * log_error)


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
