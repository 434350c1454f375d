"""Logs of RL training: read in batches, audited, and said what is wrong with the run."""

from kullback.rollouts.batches import RolloutBatch
from kullback.rollouts.cluster import audit_on_cluster
from kullback.rollouts.fields import PRESETS, TrainerPreset
from kullback.rollouts.gate import (
    SEVERITIES as SEVERITIES,
    severe as severe,
    too_far_apart as too_far_apart,
    unseen as unseen,
)
from kullback.rollouts.job import audit_files, read_rollouts
from kullback.rollouts.parts import is_part, merge_parts, save_part
from kullback.rollouts.report import RolloutReport
from kullback.rollouts.series import Point, Series
from kullback.rollouts.skipped import Skipped
from kullback.rollouts.terminal import print_report

__all__ = [
    "PRESETS",
    "Point",
    "RolloutBatch",
    "RolloutReport",
    "Series",
    "Skipped",
    "TrainerPreset",
    "audit_files",
    "audit_on_cluster",
    "is_part",
    "merge_parts",
    "print_report",
    "read_rollouts",
    "save_part",
]
