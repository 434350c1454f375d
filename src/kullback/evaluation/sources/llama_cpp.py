"""The `_logits_` dumps of `llama-perplexity --kl-divergence-base FILE`: log-probabilities in 16 bits.

Layout, little-endian (llama.cpp, tools/perplexity/perplexity.cpp): the 8 bytes `_logits_`; int32 n_ctx, V, C;
int32 tokens[C, n_ctx]; then C*R rows, R = n_ctx - 1 - n_ctx//2, each of float32 scale, float32 min and uint16
code[V rounded up to even], where log p = scale * code + min. Row r of a chunk is the distribution after
position n_ctx//2 + r, so its target is the token that follows. Codes reach to 16 nats under the row's maximum
(24 in ik_llama.cpp since 2025); what lies lower is stored as code 0 and cannot be told from -inf.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback.evaluation.sources.base import Source, check_stream
from kullback.evaluation.sources.files import ByteReader
from kullback.evaluation.sources.pipes import KEPT_BYTES, StreamFile

MAGIC = b"_logits_"
HEADER_BYTES = 20
# row heads looked at on opening, to tell the window of the writer
SAMPLED_ROWS = 16


def code_dtype(vocab_size: int) -> np.dtype[np.void]:
    """The structured dtype of one row: `scale`, `min` and `code`, the latter padded to an even length."""
    padded = 2 * ((vocab_size + 1) // 2)
    return np.dtype([("scale", "<f4"), ("min", "<f4"), ("code", "<u2", (padded,))])


def decode(codes: NDArray[np.void], out: NDArray[np.float32]) -> None:
    """Write scale * code + min into `out` (n, V), in float32 with a rounding after each operation."""
    np.multiply(codes["code"][:, : out.shape[1]], codes["scale"][:, None], out=out, dtype=np.float32)
    out += codes["min"][:, None]


class Dump(Source):
    """Rows kept as 16-bit codes, in one `_logits_` dump or several."""

    chunk_tokens: NDArray[np.int32]
    widest: float  # nats from a row's maximum to the end of its codes, of the widest row seen

    @property
    def window(self) -> float:
        """Nats under a row's maximum that its codes can reach: 16, 24, or what the widest row seen says."""
        if self.widest <= 16.001:
            return 16.0
        return 24.0 if self.widest <= 24.001 else self.widest

    def codes(self, start: int, stop: int, out: NDArray[np.void] | None = None) -> NDArray[np.void]:
        """Read rows as they are stored."""
        raise NotImplementedError

    def check(self) -> dict[str, Any]:
        """Read what `facts` needs of the rows not read yet, and return complete facts."""
        raise NotImplementedError


class LlamaCppLogits(Dump):
    """Rows of a `_logits_` dump, decoded to float32 log-probabilities by `rows`, as stored by `codes`.

    Attributes
    ----------
    chunk_tokens : ndarray of int32 (C, n_ctx)
        All tokens of each chunk, scored or not, as the file has them.
    """

    def __init__(self, file: ByteReader, salvage: bool = False) -> None:
        n_ctx, vocab_size, chunks, complete = _sizes(file)
        if complete < chunks and not salvage:
            raise ValueError(
                f"{file.path}: truncated, {complete} of its {chunks} chunks are complete; salvage=True uses those"
            )
        if complete == 0:
            raise ValueError(f"{file.path}: truncated, none of its {chunks} chunks is complete")
        if isinstance(file, StreamFile):
            file.reach(HEADER_BYTES + 4 * chunks * n_ctx)
        table = np.empty((complete, n_ctx), "<i4")
        file.read_into(table, HEADER_BYTES)
        if table.min() < 0 or table.max() >= vocab_size:
            raise ValueError(
                f"{file.path}: token ids from {table.min()} to {table.max()}, expected 0 to {vocab_size - 1}"
            )
        first = n_ctx // 2
        scored = n_ctx - 1 - first
        super().__init__(
            file.path,
            "llama.cpp",
            (complete * scored, vocab_size),
            np.dtype(np.float32),
            tokens=table[:, first + 1 :].reshape(-1).astype(np.int64),
            groups=np.repeat(np.arange(complete), scored),
        )
        self.chunk_tokens = table
        self.announced_chunks = chunks
        self._file = file
        self._codes = code_dtype(vocab_size)
        self._offset = HEADER_BYTES + 4 * chunks * n_ctx
        self._read_rows = np.zeros(self.shape[0], np.bool_)
        self._clipped = np.zeros(self.shape[0], np.bool_)
        self.widest = 0.0
        self._said: float | None = None  # the window of a stream, as its first rows say
        if isinstance(file, StreamFile):
            file.place_rows(self._offset, self._codes.itemsize, self.shape[0])
        else:
            self._sample(np.unique(np.linspace(0, self.shape[0] - 1, SAMPLED_ROWS).astype(np.int64)))

    @property
    def window(self) -> float:
        """As of any dump; of a stream it is asked when its first rows are needed, long after its header has come."""
        if self.streams() and self._said is None and not self._read_rows.any():
            self._sample(np.arange(min(SAMPLED_ROWS, self.shape[0])))
            self._said = super().window
        return super().window

    def codes(self, start: int, stop: int, out: NDArray[np.void] | None = None) -> NDArray[np.void]:
        """Read rows as they are stored.

        Parameters
        ----------
        start, stop : int
            0 <= start <= stop <= T.
        out : structured ndarray (stop - start,), optional
            To fill instead of a new array.

        Returns
        -------
        structured ndarray (stop - start,)
            Fields `scale` and `min` (float32) and `code` (uint16, V rounded up to even).

        Raises
        ------
        ValueError
            If the range or `out` does not fit, or a row has a negative scale (no writer produces one).
        OSError
            If the file was truncated or replaced since it was opened.
        """
        count = self._range(start, stop)
        if out is None:
            out = np.empty(count, self._codes)
        elif out.shape != (count,) or out.dtype != self._codes or not out.flags.c_contiguous:
            raise ValueError(f"`out` has shape {out.shape} and dtype {out.dtype}, expected ({count},) {self._codes}")
        if count:
            self._file.read_into(out, self._offset + start * self._codes.itemsize)
            self._note(start, stop, out)
            self._check_stream(stop)
        return out

    def facts(self) -> dict[str, Any]:
        """Facts about the file; `clipped_targets` counts among the `rows_read` so far, see `check`."""
        n_ctx = int(self.chunk_tokens.shape[1])
        return super().facts() | {
            "n_ctx": n_ctx,
            "chunks": int(self.chunk_tokens.shape[0]),
            "announced_chunks": self.announced_chunks,
            "window": self.window,
            "rows_read": int(self._read_rows.sum()),
            "clipped_targets": int(self._clipped.sum()),
        }

    def check(self) -> dict[str, Any]:
        """Read what `facts` needs of the rows not read yet (10 bytes a row), and return complete facts."""
        assert self.tokens is not None
        size = self._codes.itemsize
        for stream in self.streams():
            stream.forward()
        for row in np.flatnonzero(~self._read_rows).tolist():
            at = self._offset + row * size
            self._note_scales(np.frombuffer(self._file.read(4, at), "<f4"))
            self._clipped[row] = self._file.read(2, at + 8 + 2 * int(self.tokens[row])) == b"\0\0"
            self._read_rows[row] = True
        self._check_stream(self.shape[0])
        return self.facts()

    def _read(self, start: int, stop: int, out: NDArray[Any]) -> None:
        decode(self.codes(start, stop), out)

    def _note(self, start: int, stop: int, codes: NDArray[np.void]) -> None:
        """Keep what `facts` reports: the widest window and which targets are clipped."""
        assert self.tokens is not None
        self._note_scales(codes["scale"])
        self._clipped[start:stop] = codes["code"][np.arange(stop - start), self.tokens[start:stop]] == 0
        self._read_rows[start:stop] = True

    def _sample(self, rows: NDArray[Any]) -> None:
        """Look at the heads of some rows, to tell the window of the writer."""
        for row in rows.tolist():
            self._note_scales(np.frombuffer(self._file.read(4, self._offset + row * self._codes.itemsize), "<f4"))

    def _check_stream(self, stop: int) -> None:
        """What a file shows on opening, a stream at row `stop`: its window, and that nothing follows its last row."""
        for stream in self.streams():
            if self._said is not None and self.window != self._said:
                raise ValueError(
                    f"{self.path}: rows before {stop} reach {self.window:.4g} nats under their maxima, the first "
                    f"{SAMPLED_ROWS} no more than {self._said:.4g}; such a dump is read from a file only"
                )
            end = self._offset + stop * self._codes.itemsize
            if stop == self.shape[0] and not stream.ends(end):
                raise ValueError(f"{self.path}: goes on after the {end} bytes that its header makes")

    def _note_scales(self, scales: NDArray[np.float32]) -> None:
        finite = scales[np.isfinite(scales)]
        if (finite < 0).any():
            raise ValueError(
                f"{self.path}: a row has the scale {finite.min()}, expected 0 or more; the file is damaged"
            )
        # a row of NaN or inf logits has no finite scale: it decodes to NaN, which every comparison counts
        if finite.size:
            self.widest = max(self.widest, float(finite.max()) * 65535)


def _sizes(file: ByteReader) -> tuple[int, int, int, int]:
    """n_ctx, V, C and the number of chunks that are wholly in the file; nothing is allocated before this."""
    head = file.read(HEADER_BYTES)
    if len(head) < HEADER_BYTES:
        raise ValueError(f"{file.path}: {len(head)} bytes; a llama.cpp dump has a header of {HEADER_BYTES}")
    n_ctx, vocab_size, chunks = (int(n) for n in np.frombuffer(head, "<i4", 3, 8))
    header = f"{file.path}: n_ctx {n_ctx}, vocabulary {vocab_size} and {chunks} chunks"
    if n_ctx < 4 or vocab_size < 1 or chunks < 1:
        raise ValueError(f"{header} are in its header, which llama.cpp does not write")
    chunk_bytes = (n_ctx - 1 - n_ctx // 2) * (8 + 4 * ((vocab_size + 1) // 2))
    rows_at = HEADER_BYTES + 4 * chunks * n_ctx
    if isinstance(file, StreamFile):
        if 4 * chunks * n_ctx > KEPT_BYTES // 2:
            raise ValueError(f"{header} in a stream, expected at most {KEPT_BYTES // 8} tokens in all")
        check_stream(chunks * n_ctx, chunk_bytes // (n_ctx - 1 - n_ctx // 2), file.path)
        return n_ctx, vocab_size, chunks, chunks
    expected = rows_at + chunks * chunk_bytes
    if file.size > expected:
        raise ValueError(f"{header} make {expected} bytes, but it has {file.size}")
    return n_ctx, vocab_size, chunks, max(0, file.size - rows_at) // chunk_bytes
