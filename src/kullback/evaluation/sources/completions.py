"""Log-probabilities in the JSON answers of vLLM, SGLang and OpenAI-style servers, one document or JSON lines.

vLLM: `prompt_logprobs` is a list, null for the first token, then {"<id>": {"logprob", "rank", ...}}; the
token of the prompt comes first, whatever its rank. SGLang: `meta_info` has `input_token_logprobs` and
`output_token_logprobs`, lists of [logprob, id, text], and `..._top_logprobs`, lists of lists of the same.
OpenAI: `logprobs.content` (chat) or `logprobs.tokens`, `.token_logprobs`, `.top_logprobs` (completions);
these name tokens by their text or, where vLLM was started so, "token_id:N".
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from kullback.evaluation.sources.files import ByteReader
from kullback.evaluation.sources.sparse import SparseBuilder, SparseRows


def read_completions(
    file: ByteReader, vocabulary: dict[bytes, int] | None = None, vocab_size: int | None = None
) -> SparseRows:
    """All positions with log-probabilities in the file, in its order; see `open_sparse`."""
    reader = _Reader({} if vocabulary is None else vocabulary)
    for where, document in _documents(file):
        try:
            reader.walk(document)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"{file.path}{where}: {error or type(error).__name__}") from None
    if not reader.formats:
        raise ValueError(f"{file.path}: no log-probabilities of vLLM, SGLang or OpenAI in it")
    both = reader.named & reader.invented.keys()
    if both:
        text = reader.invented[min(both)]
        raise ValueError(
            f"{file.path}: names some tokens by id and others by text, of which {text!r} has no id: "
            "give a `vocabulary` with all of them, or ask the server for token ids"
        )
    notes = {"named_by": "text" if reader.texts else "id"}
    return reader.rows.build(file.path, ", ".join(sorted(reader.formats)), vocab_size, **notes)


def _documents(file: ByteReader) -> Iterator[tuple[str, Any]]:
    """Each line of a JSON lines file, or the whole file if its first line is not a document."""
    with file.open() as stream:
        first = stream.readline()
        try:
            documents = [json.loads(first)]
        except (ValueError, RecursionError):
            try:
                documents = [json.loads(first + stream.read())]
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{file.path}: not JSON ({error})") from None
        yield " (line 1)", documents[0]
        for number, line in enumerate(stream, 2):
            if line.strip():
                try:
                    document = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise ValueError(f"{file.path}: line {number} is not JSON ({error})") from None
                yield f" (line {number})", document


class _Reader:
    def __init__(self, vocabulary: dict[bytes, int]) -> None:
        if not isinstance(vocabulary, dict):
            raise TypeError(f"`vocabulary` is {type(vocabulary).__name__}, expected a dict of bytes to int")
        self.vocabulary = vocabulary
        self._used = set(vocabulary.values())  # any numbers, with gaps
        self.named: set[int] = set()  # ids that the answers tell themselves
        self.invented: dict[int, str] = {}  # ids made up for tokens of which nobody tells the id
        self.rows = SparseBuilder()
        self.formats: set[str] = set()
        self.texts = False
        self._group = -1

    def walk(self, node: Any) -> None:
        """Find the answers in a document: alone, in lists, as `choices`, or in a batch's `response.body`."""
        if isinstance(node, list):
            for item in node:
                self.walk(item)
        if not isinstance(node, dict):
            return
        if node.get("prompt_logprobs") is not None:
            self._vllm(node["prompt_logprobs"], node.get("prompt_token_ids"))
        if isinstance(node.get("meta_info"), dict):
            self._sglang(node["meta_info"])
        logprobs = node.get("logprobs")
        if isinstance(logprobs, dict) and logprobs.get("content") is not None:
            self._chat(logprobs["content"])
        elif isinstance(logprobs, dict) and logprobs.get("tokens") is not None:
            self._completion(logprobs)
        for key in ("choices", "response", "body"):
            self.walk(node.get(key))

    def _begin(self, format: str) -> int:
        self.formats.add(format)
        self._group += 1
        return self._group

    def _vllm(self, positions: list[Any], prompt: list[int] | None) -> None:
        group = self._begin("vllm")
        if prompt is not None and len(prompt) != len(positions):
            raise ValueError(f"{len(positions)} prompt_logprobs for {len(prompt)} prompt_token_ids")
        for i, position in enumerate(positions):
            if not position:
                self.rows.without_log_probs += 1
                continue
            entries = [(int(t), v["logprob"] if isinstance(v, dict) else v) for t, v in position.items()]
            token = _prompt_token(position) if prompt is None else prompt[i]
            self.named.update([token, *(id for id, _ in entries)])
            self.rows.add(group, token, None, entries)

    def _sglang(self, meta: dict[str, Any]) -> None:
        if not any(meta.get(f"{side}_token_logprobs") for side in ("input", "output")):
            return
        group = self._begin("sglang")
        for side in ("input", "output"):
            tokens = meta.get(f"{side}_token_logprobs") or []
            tops = meta.get(f"{side}_top_logprobs") or [None] * len(tokens)
            if len(tokens) != len(tops):
                raise ValueError(f"{len(tops)} {side}_top_logprobs for {len(tokens)} tokens")
            for token, top in zip(tokens, tops, strict=True):
                if not top and (token is None or token[0] is None):
                    self.rows.without_log_probs += 1
                    continue
                entries = [(int(entry[1]), entry[0]) for entry in top or []]
                target = (None, None) if token is None else token
                self.named.update(id for id in (target[1], *(id for id, _ in entries)) if id is not None)
                self.rows.add(group, target[1], target[0], entries)

    def _chat(self, content: list[dict[str, Any]]) -> None:
        group = self._begin("openai")
        for item in content:
            entries = [(self._id(e["token"], e.get("bytes")), e["logprob"]) for e in item.get("top_logprobs") or []]
            self.rows.add(group, self._id(item["token"], item.get("bytes")), item["logprob"], entries)

    def _completion(self, logprobs: dict[str, Any]) -> None:
        group = self._begin("openai")
        values = logprobs["token_logprobs"]
        tops = logprobs.get("top_logprobs") or [None] * len(values)
        for token, value, top in zip(logprobs["tokens"], values, tops, strict=True):
            if value is None and not top:
                self.rows.without_log_probs += 1
                continue
            entries = [(self._id(text), v) for text, v in (top or {}).items()]
            self.rows.add(group, self._id(token), value, entries)

    def _id(self, text: str, data: list[int] | None = None) -> int:
        """The id in "token_id:N", else that of the token's bytes; new ones get the next free id."""
        if text.startswith("token_id:"):
            known = int(text.removeprefix("token_id:"))
            self.named.add(known)
            return known
        self.texts = True
        if data and not isinstance(data, list):
            raise TypeError(f"the bytes of the token {text[:20]!r} are {str(data)[:20]}, expected a list")
        key = bytes(data) if data else text.encode()
        if key not in self.vocabulary:
            free = len(self.vocabulary)
            while free in self._used:
                free += 1
            self._used.add(free)
            self.vocabulary[key], self.invented[free] = free, text
        return self.vocabulary[key]


def _prompt_token(position: dict[str, Any]) -> int:
    """The token that was in the prompt: one ranked beyond the listed ones, else (as in vLLM) the first."""
    for token, value in position.items():
        if isinstance(value, dict) and (value.get("rank") or 0) > len(position):
            return int(token)
    return int(next(iter(position)))
