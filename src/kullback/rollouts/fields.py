"""Which field of a log has which role: one preset a trainer, and what a user maps."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Container, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

__all__ = [
    "LABELS",
    "LISTS",
    "PRESETS",
    "SOURCES",
    "Fields",
    "PresetName",
    "Role",
    "TrainerPreset",
    "choose",
    "mapped",
    "step_of",
]

# the two sides first
Role = Literal[
    "rollout", "train", "mask", "tokens", "rollout_entropy", "train_entropy", "keep", "reward", "step", "env", "worker"
]
PresetName = Literal["nemo_rl", "prime_rl", "verl", "trl", "slime"]
# one value a token, one a sequence
LISTS = ("rollout", "train", "mask", "tokens", "rollout_entropy", "train_entropy")
LABELS = ("step", "env", "worker")
SOURCES = ("worker", "env")  # by which the audit looks for what is wrong with one of them, whatever is asked for
ROLES: tuple[str, ...] = get_args(Role)


class TrainerPreset(NamedTuple):
    """The fields that a trainer writes.

    Attributes
    ----------
    fields : mapping of role to names
        The first name that a row has is taken.
    step_in_name : str
        A pattern whose group is the step, in the name of the file or, unless it ends in a bare number, of its folders;
        "" where rows say it.
    text_only : tuple of str
        Fields by which to know a dump of the trainer that has texts, or log-probs of one side.
    advice : str
        How its log-probs come into a file, where the trainer writes none by itself.
    """

    fields: Mapping[str, tuple[str, ...]]
    step_in_name: str = ""
    text_only: tuple[str, ...] = ()
    advice: str = ""


# names as of August 2026: the tests write each file as the trainer's own code does, and name the place
PRESETS: Mapping[str, TrainerPreset] = MappingProxyType({
    "nemo_rl": TrainerPreset(
        {
            "rollout": ("generation_logprobs",), "train": ("prev_logprobs",), "mask": ("token_loss_mask",),
            "tokens": ("token_ids",), "keep": ("sample_loss_mask",), "reward": ("filtered_rewards", "rewards"),
            "env": ("agent_ref",),
        },
        step_in_name=r"train_data_step(\d+)",
    ),
    "prime_rl": TrainerPreset(
        {
            "rollout": ("inference_logprobs",), "train": ("trainer_logprobs",), "mask": ("loss_mask",),
            "tokens": ("token_ids",), "train_entropy": ("entropy",), "step": ("step",), "env": ("env_name",),
            "worker": ("rank",),
        },
        step_in_name=r"step_(\d+)",
        advice="prime-rl writes log-probs with enable_token_export",
    ),
    "verl": TrainerPreset(
        {
            "rollout": ("rollout_log_probs",), "train": ("old_log_probs",), "mask": ("response_mask", "loss_mask"),
            "tokens": ("responses",), "train_entropy": ("entropys",), "step": ("step", "global_steps"),
            "reward": ("score", "reward", "token_level_scores", "rm_scores"), "env": ("data_source",),
        },
        step_in_name=r"(\d+)$",
        text_only=("input", "output", "gts", "score"),
        advice="verl dumps texts and scores only: save the batch too (`batch.save_to_disk(path)` of the DataProto, or "
        "torch.save of `batch.batch`), after old_log_probs are in it",
    ),
    "trl": TrainerPreset(
        {
            "rollout": ("sampling_per_token_logps",), "train": ("old_per_token_logps",), "mask": ("completion_mask",),
            "tokens": ("completion_ids",), "step": ("step", "global_step"), "reward": ("rewards", "reward"),
        },
        step_in_name=r"(\d+)$",
        text_only=("prompt", "completion", "advantage"),
        advice="TRL's tables of completions hold texts only: save what `_generate_and_score_completions` returns too "
        "(torch.save of the dict, or numpy.savez)",
    ),
    "slime": TrainerPreset(
        {
            "rollout": ("rollout_log_probs",), "train": ("log_probs",), "mask": ("loss_masks", "loss_mask"),
            "tokens": ("tokens",), "train_entropy": ("entropy",), "reward": ("rewards", "reward"),
            "step": ("rollout_id",), "worker": ("data_parallel_rank",),
        },
        step_in_name=r"(\d+)$",
        text_only=("response", "response_length", "weight_versions"),
        advice="slime writes log-probs of both sides with --save-debug-train-data; --save-debug-rollout-data has the "
        "rollout's only",
    ),
})  # fmt: skip


class Fields(NamedTuple):
    """What is read of one file.

    Attributes
    ----------
    names : dict of role or label to the field's name
    preset : str
        "" where the user mapped all.
    """

    names: dict[str, str]
    preset: str = ""


def mapped(pairs: Mapping[str, str] | Iterable[str] | None) -> dict[str, str]:
    """`role=field` pairs as a dict; ValueError for an unknown role."""
    if pairs is None:
        return {}
    if not isinstance(pairs, Mapping):
        words = list(pairs)
        bad = next((word for word in words if "=" not in word), None)
        if bad is not None:
            raise ValueError(f"`fields` has {bad[:80]!r}, expected ROLE=FIELD, as rollout=generation_logprobs")
        pairs = dict(word.split("=", 1) for word in words)
    unknown = next((role for role in pairs if role not in ROLES), None)
    if unknown is not None:
        raise ValueError(f"`fields` has the role {str(unknown)[:80]!r}, expected one of {', '.join(ROLES)}")
    empty = next((role for role, name in pairs.items() if not (isinstance(name, str) and name)), None)
    if empty is not None:
        raise ValueError(f"`fields` names no field for {empty}")
    return dict(pairs)


def choose(
    present: Iterable[str], preset: str | None, pairs: Mapping[str, str], by: Iterable[str] = ()
) -> Fields | None:
    """The fields of a file whose rows have these; None where the log-probs of both sides are not among them."""
    there = set(present)
    candidates = [preset] if preset else ([] if {"rollout", "train"} <= pairs.keys() else list(PRESETS))
    for name in [*candidates, ""]:
        names: dict[str, str] = {}
        for role, some in (PRESETS[name].fields if name else {}).items():
            found = next((field for field in some if field in there), None)
            if found is not None:
                names[role] = found
        # what carries its role as its name needs no map; a preset's sides are those that it names
        own = ROLES if not name else ROLES[2:]
        names |= {role: role for role in own if role in there and role not in names}
        names |= pairs
        if names.get("rollout") in there and names.get("train") in there:
            # any other field that results are wished by is a label of its own
            names |= {label: label for label in by if label not in names and label in there}
            return Fields(names, name)
        if preset:
            return None
    return None


def refusal(path: str, present: Iterable[str], preset: str | None, pairs: Mapping[str, str]) -> tuple[str, str]:
    """Why a file has nothing to compare, and what to do about it."""
    there = set(present)
    lost = lost_field(LISTS[:2], pairs, there)
    if lost:
        return f"{path}: {lost}; its {shown(present)}", ""
    line = f"{path}: no log-probs of both sides in it; its {shown(present)}"
    known = {name: x for name, x in PRESETS.items() if x.advice and preset in (name, None)}
    by_text = [x for x in known.values() if x.text_only and set(x.text_only) <= there]
    by_side = [x for x in known.values() if {x.fields[side][0] for side in LISTS[:2]} & there]
    meant = by_text or by_side
    if len(meant) == 1:
        return f"{line}. {meant[0].advice}", ""
    if preset:
        sides = " and ".join("/".join(PRESETS[preset].fields[side]) for side in LISTS[:2])
        line += f" ({preset} has {sides})"
    return line, "; name the fields: `fields={'rollout': FIELD, 'train': FIELD, 'mask': FIELD}`"


def lost_field(roles: Iterable[str], pairs: Mapping[str, str], there: Container[str]) -> str:
    """That a mapped field of one of these roles is not there; "" if all are."""
    lost = ((role, pairs[role]) for role in roles if role in pairs and pairs[role] not in there)
    return next((f"no row has {name!r}, which is mapped to {role}" for role, name in lost), "")


def shown(present: Iterable[str]) -> str:
    """The fields that rows have."""
    names = list(dict.fromkeys(present))
    return f"rows have {', '.join(names[:12]) or 'no fields'}{', ...' if len(names) > 12 else ''}"


def step_of(path: str, fields: Fields) -> int | None:
    """The step that a file's name or folders tell, where its rows do not."""
    pattern = PRESETS[fields.preset].step_in_name if fields.preset else r"step_?(\d+)"
    parts = os.fspath(path).replace("\\", "/").split("/")
    for part in reversed(parts[-1:] if pattern.startswith("(") else parts[-3:]):
        stem = re.sub(r"(\.(jsonl?|ndjson|gz|zst|parquet|pq|arrow|feather|ipc|npz|pt|pth|pkl))+$", "", part)
        found = re.search(pattern, stem)
        if found:
            return int(found[1])
    return None


def plain_label(value: Any) -> str | int | float | None:
    """A label as it is written in tables: an object by its name, a list of one by what is in it."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict):
        value = value.get("name", value.get("id"))
    if value is None or isinstance(value, (str, int)):
        return int(value) if isinstance(value, bool) else value
    if isinstance(value, float):
        return None if math.isnan(value) else int(value) if value.is_integer() else value
    return str(value)[:200]
