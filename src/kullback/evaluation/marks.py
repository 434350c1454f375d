"""What tables of candidates begin with, by which an output is known as ours and may be replaced."""

from __future__ import annotations

__all__ = ["PICTURE_CREATOR", "TABLE_COLUMNS", "TABLE_KEY", "is_table", "marked"]

TABLE_KEY = "kullback_table"
MARKDOWN_BEGIN = "<!-- kullback table -->"
MARKDOWN_END = "<!-- /kullback table -->"
TABLE_COLUMNS = (
    "rank", "candidate", "result", "tokens", "bytes", "parameters", "bits_per_weight", "frontier", "alike", "kl_mean",
    "kl_error", "kl_error_between", "kl_low", "kl_high", "kl_median", "kl_p90", "kl_p95", "kl_p99", "kl_p99.9",
    "kl_max", "same_top1", "perplexity_ratio", "perplexity_ratio_error", "acceptance",
)  # fmt: skip
PICTURE_CREATOR = "kullback table"
_LARGEST = 1 << 20  # of a table in Markdown, in bytes: hundreds of candidates take some 100 kB
_PNG = b"\x89PNG\r\n\x1a\n"


def marked(markdown: str) -> str:
    """Markdown between comments by which it is known."""
    return f"{MARKDOWN_BEGIN}\n{markdown}{MARKDOWN_END}\n"


def is_table(path: str) -> bool:
    """Whether the file is the whole of a table in Markdown, or begins as one in CSV, JSON or a picture does."""
    with open(path, "rb") as file:
        data = file.read(_LARGEST)
    creator = PICTURE_CREATOR.encode()
    if data.startswith(_PNG):
        return b"tEXtSoftware\0" + creator in data[:1024]
    if data.startswith(b"<?xml"):
        return b"<dc:title>" + creator + b"</dc:title>" in data[:2048]
    if data.startswith(MARKDOWN_BEGIN.encode()):
        return data.endswith(MARKDOWN_END.encode() + b"\n") and data.count(b"<!--") == 2
    if data.startswith(",".join(TABLE_COLUMNS).encode() + b"\n"):
        return True
    return data.startswith(b'{\n  "' + TABLE_KEY.encode() + b'":')
