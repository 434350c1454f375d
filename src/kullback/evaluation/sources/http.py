"""Files behind http:// and https://, read in ranges that are checked to be what was asked for."""

from __future__ import annotations

import http.client
import re
import time
import urllib.error
import urllib.request
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from kullback.evaluation.sources.files import stream

# a server that sends nothing for so many seconds, or less than so many bytes a second beyond them, has failed
TIME_LIMIT = 60.0
LEAST_RATE = 1 << 14
_PIECE = 1 << 20
_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)")


class HttpFile:
    """A file on a web server; every read is one request for exactly its bytes.

    Each answer must be of the range asked for, of a file of the first answer's size and, where the server tells, of its
    ETag (or time of modification): a file replaced in the meantime is an error. One that a server without either
    replaces by another of equal size is not noticed.
    """

    def __init__(self, url: str) -> None:
        self.path = url
        self.size = 0
        self._version: str | None = None
        self._request(0, np.empty(1, np.uint8), first=True)

    def read(self, count: int, offset: int = 0) -> bytes:
        """Up to `count` bytes at `offset`; fewer only where the file ends."""
        buffer = np.empty(max(0, min(count, self.size - offset)), np.uint8)
        self.read_into(buffer, offset)
        return buffer.tobytes()

    def read_into(self, out: NDArray[Any], offset: int) -> None:
        """Fill the C-contiguous array `out` with the bytes at `offset`."""
        if out.size:
            self._request(offset, out.reshape(-1).view(np.uint8))

    def open(self) -> BinaryIO:
        """A file object, for the libraries that want one."""
        return stream(self)

    def check(self) -> None:
        """Nothing to check: every answer is checked as it comes."""

    def stamp(self) -> list[Any]:
        """What tells this file from another under its name."""
        return [self.size, self._version]

    def _request(self, offset: int, out: NDArray[np.uint8], first: bool = False) -> None:
        last = offset + len(out) - 1
        headers = {"Range": f"bytes={offset}-{last}", "User-Agent": "kullback"}
        deadline = time.monotonic() + TIME_LIMIT + len(out) / LEAST_RATE
        try:
            request = urllib.request.Request(self.path, headers=headers)
            with urllib.request.urlopen(request, timeout=TIME_LIMIT) as answer:
                size = self._check(answer, offset, last)
                version = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
                if first:
                    self.size, self._version = size, version
                elif (size, version) != (self.size, self._version):
                    raise OSError(f"{self.path}: replaced or modified since it was opened; open it again to read it")
                self._fill(answer, out, deadline)
        except urllib.error.HTTPError as error:
            with error:
                if first and error.code == 416 and (error.headers.get("Content-Range") or "").endswith("*/0"):
                    return  # an empty file has no first byte
                if error.code in (404, 410):
                    raise FileNotFoundError(f"{self.path}: the server has no such file ({error.code})") from None
                raise OSError(f"{self.path}: the server answers {error.code} {error.reason}") from None
        except TimeoutError:
            raise OSError(f"{self.path}: the server sent nothing for {TIME_LIMIT:g} seconds") from None
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError) as error:
            reason = getattr(error, "reason", None) or error or type(error).__name__
            raise OSError(f"{self.path}: cannot be read ({reason})") from None

    def _check(self, answer: Any, offset: int, last: int) -> int:
        """The size of the file, after making sure that the answer is the range."""
        content = answer.headers.get("Content-Range") or ""
        match = _RANGE.fullmatch(content.strip())
        if answer.status != 206 or match is None or match[1] is None:
            raise OSError(
                f"{self.path}: the server answers {answer.status} where bytes {offset} to {last} were asked for "
                "(206): it knows no ranges; download the file"
            )
        if (int(match[1]), int(match[2])) != (offset, last):
            raise OSError(f"{self.path}: the server sent {content!r} where bytes {offset} to {last} were asked for")
        return int(match[3])

    def _fill(self, answer: Any, out: NDArray[np.uint8], deadline: float) -> None:
        filled = 0
        while filled < len(out):
            piece = answer.read1(min(_PIECE, len(out) - filled))
            if not piece:
                raise OSError(f"{self.path}: {filled} bytes came back where {len(out)} were asked for")
            out[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
            filled += len(piece)
            if time.monotonic() > deadline:
                raise OSError(f"{self.path}: {filled} of {len(out)} bytes after {TIME_LIMIT:g} seconds and more")
