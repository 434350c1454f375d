"""What an audit looks for: each check's severity, how often it is wrong, and what to do about what it finds."""

from __future__ import annotations

from types import MappingProxyType
from typing import Literal, NamedTuple

__all__ = ["AUDIT_CHECKS", "NAMES", "RARE", "TESTED", "AuditCheck", "Severity"]

Severity = Literal["error", "warning", "note"]

RARE = 1e-6  # false alarms a run of checks for what sampled log-probs cannot be
TESTED = 1e-3  # and of tests, at most, at any number of sequences


class AuditCheck(NamedTuple):
    """A check of `audit`: what it looks for, how bad that is, how often a clean run gives it, and what to do."""

    looks_for: str
    severity: Severity
    false_alarm_rate: float
    advice: str


_CHECKS = {
    "infinite": AuditCheck(
        "an unmasked log-prob of +inf or -inf", "error", RARE,
        "a token that was sampled cannot have probability 0: give both sides the same banned and padded tokens, "
        "temperature and top-p; mask tokens that were forced, not sampled",
    ),
    "missing": AuditCheck(
        "an unmasked log-prob of NaN", "error", RARE,
        "mask tokens that one side did not score, or have it score them; do not fill them with a number",
    ),
    "sentinel": AuditCheck(
        "placeholders in place of log-probs: -9999, -100, 1.0 (TRL) and their like", "error", RARE,
        "mask the positions that hold the placeholder on either side, before anything is averaged",
    ),
    "probabilities": AuditCheck(
        "a side whose values are probabilities, not their logarithms", "error", RARE,
        "take the logarithm of that side",
    ),
    "positive": AuditCheck(
        "log-probs above 0", "error", RARE,
        "no log-prob is above 0: look for logits that were not normalised, or a sign that was turned (NLL)",
    ),
    "zero_filled": AuditCheck(
        "exact zeros where the other side is far from 0", "error", RARE,
        "0.0 is probability 1: the engine gave no log-prob there (or decodes greedily); ask it for all log-probs, "
        "or mask these tokens",
    ),
    "constant": AuditCheck(
        "one number for a whole sequence on one side", "error", RARE,
        "a mean or a sum was spread over the tokens, or a buffer never filled; log one number a token",
    ),
    "length": AuditCheck(
        "sides of different lengths, or one that ends before the other", "error", RARE,
        "one side was cut or gathered short; compare lengths before padding, and mask what only one side has",
    ),
    "shift": AuditCheck(
        "sides that agree when one is moved by one or two tokens, and not in place", "error", RARE,
        "log-probs at t belong to token t + 1 on one side only: drop its extra first or last entry "
        "(logits[:, :-1] against tokens[:, 1:])",
    ),
    "unrelated": AuditCheck(
        "sides that have nothing to do with each other at any lag", "error", RARE,
        "the rows were permuted or belong to other samples or another model: pair them by id, not by order",
    ),
    "masked_prompt": AuditCheck(
        "tokens at the start that were not sampled: prompt inside the mask", "warning", TESTED,
        "begin the mask at the first sampled token; if it does, the engine gave no log-probs for the first ones: ask "
        "it for all of them, or mask these",
    ),
    "temperature": AuditCheck(
        "one side sharper or flatter than the other, or than what was sampled", "error", TESTED,
        "divide logits by the sampling temperature on both sides, and ask the engine for processed log-probs "
        "(vLLM: logprobs_mode='processed_logprobs')",
    ),
    "truncated_support": AuditCheck(
        "log-probs renormalised over top-p, top-k or min-p on one side only", "warning", TESTED,
        "give the trainer the kept ids (`kept=` of token_log_probs), or sample without truncation",
    ),
    "identical": AuditCheck(
        "a side that is the other, bit for bit", "warning", TESTED,
        "unless the two engines are made to agree to the bit, one side is a copy of the other: nothing was compared",
    ),
    "duplicates": AuditCheck(
        "sequences that occur again and are too improbable to have been drawn twice", "warning", TESTED,
        "a sequence was logged twice, or two workers share a seed",
    ),
    "bad_source": AuditCheck(
        "a source (worker, environment) whose mismatch is several times that of the others", "warning", TESTED,
        "look at that source: a worker with stale weights, another precision or another kernel; an environment with "
        "another sampler, template or mask",
    ),
    "rounding": AuditCheck(
        "a side kept in bfloat16 or float16", "note", RARE,
        "a KL of this size says nothing about the policies: keep log-probs in float32",
    ),
}  # fmt: skip
AUDIT_CHECKS = MappingProxyType(_CHECKS)
NAMES = tuple(_CHECKS)
