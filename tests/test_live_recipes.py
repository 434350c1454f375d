"""Recipes of docs/live.md for programs that are not installed here, against what their own code gives."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

import kullback as kb
from kullback.evaluation import LiveComparison
from kullback.integrations import llama_cpp, vllm

V = 40


class Llama:
    """What the recipe uses of llama_cpp.Llama 0.3: logits of all tokens since `reset`, in rows of `scores`."""

    def __init__(self, seed, n_ctx=16, logits_all=True):
        self.scores = np.zeros((n_ctx, V), np.float32)
        self.n_tokens = 0
        self._table = np.random.default_rng(seed).normal(0, 3, (V, V)).astype(np.float32)
        self._all = logits_all

    def reset(self):
        self.n_tokens = 0

    def eval(self, tokens):
        for i, token in enumerate(tokens, self.n_tokens):
            if self._all or i == self.n_tokens + len(tokens) - 1:
                self.scores[i] = self._table[token] + np.sin(i)
        self.n_tokens += len(tokens)


def test_llama_cpp_python():
    base, other = Llama(0), Llama(1)
    live = LiveComparison()
    found = []
    for number, length in enumerate((12, 16, 1, 5)):
        ids = [1, *np.random.default_rng(number).integers(2, V, length - 1).tolist()]
        p, q = (llama_cpp.rows(llm, ids) for llm in (base, other))
        assert p["logits"].base is base.scores or np.shares_memory(p["logits"], base.scores) or length == 1
        live.update_both(p["logits"], q["logits"], p["tokens"], groups=number)
        found.append(kb.compare(p["logits"], q["logits"], ids[1:]).kl)
    summary = live.summary()
    assert summary.tokens == 11 + 15 + 0 + 4
    assert summary.kl.groups == 3
    assert summary.kl.max == np.concatenate(found).max()


@pytest.mark.parametrize(
    "llm, count, message",
    [
        (Llama(0), 17, "`tokens` has 17 ids, expected from 1 to 16"),
        (Llama(0), 0, "`tokens` has 0 ids"),
        (Llama(0, logits_all=False), 5, "logits_all=True"),
    ],
)
def test_llama_cpp_python_misused(llm, count, message):
    with pytest.raises(ValueError, match=message):
        llama_cpp.rows(llm, range(1, count + 1))


@dataclass
class Logprob:
    """vLLM's."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


class FlatLogprobs(Sequence):
    """Of vLLM's, what it gives as a sequence: a dict a position, made when it is asked for; nothing for the first."""

    def __init__(self, positions):
        self._positions = positions

    def __len__(self):
        return len(self._positions)

    def __getitem__(self, place):
        return dict(self._positions[place] or {})


def of_vllm(logs, ids, k, flat=False):
    """A RequestOutput as vLLM makes it: the prompt's token first, then the k likeliest; nothing for the first token."""
    positions = [None]
    for row, token in zip(logs, ids[1:], strict=True):
        order = np.argsort(-row, kind="stable")
        rank = {int(id): place for place, id in enumerate(order, 1)}
        kept = dict.fromkeys([token, *order[:k].tolist()])
        positions.append({id: Logprob(float(row[id]), rank[id], f"<{id}>") for id in kept})
    return SimpleNamespace(prompt_token_ids=ids, prompt_logprobs=FlatLogprobs(positions) if flat else positions)


def log_probs(seed, n):
    x = np.random.default_rng(seed).normal(0, 2, (n, V))
    return (x - np.log(np.exp(x).sum(axis=1, keepdims=True))).astype(np.float32)


@pytest.mark.parametrize("flat", [False, True])
def test_vllm_with_the_whole_vocabulary(flat):
    ids = [7, 3, 3, 11, 0, 5]
    p, q = log_probs(0, 5), log_probs(1, 5)
    live = LiveComparison(p, given="log_probs")
    live.update(**vllm.rows(of_vllm(q, ids, V, flat), V))
    expected = kb.compare(p, q, ids[1:], given="log_probs").summary()
    assert live.summary().kl == expected.kl
    assert live.summary().perplexity_q == expected.perplexity_q
    with pytest.raises(ValueError, match=r"position 1 has 6 log-probabilities, expected 40: .* answers"):
        vllm.rows(of_vllm(q, [7, int(q[0].argmin()), 3, 11, 0, 5], 5, flat), V)
    with pytest.raises(ValueError, match="ids 0 to 39, expected 0 to 38"):
        vllm.rows(SimpleNamespace(prompt_token_ids=[1, 2], prompt_logprobs=[None, _without(q[0], 5)]), V - 1)


def _without(row, id):
    return {i: Logprob(float(x), 1) for i, x in enumerate(row) if i != id}


@pytest.mark.parametrize("flat", [False, True])
def test_vllm_with_the_likeliest(tmp_path, flat):
    logs = log_probs(0, 5)
    ids = [7, 3, 3, 11, 0, 5]
    path = tmp_path / "answers.jsonl"
    lines = [json.dumps(vllm.answer(of_vllm(logs, ids, 6, flat))) for _ in range(2)]
    path.write_text("\n".join(lines))
    found = kb.open_sparse(path)
    assert found.tokens.tolist() == ids[1:] * 2
    likeliest = np.argsort(-logs, axis=1, kind="stable")[:, :6]
    kept = [list(dict.fromkeys([token, *row])) for token, row in zip(ids[1:], likeliest.tolist(), strict=True)]
    assert found.ids.tolist() == [id for row in kept for id in row] * 2
    assert found.log_probs.tolist() == [float(row[id]) for row, ids in zip(logs, kept, strict=True) for id in ids] * 2
    assert found.groups.tolist() == [0] * 5 + [1] * 5
