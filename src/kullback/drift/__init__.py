"""Drift of tables: fit on a reference, update with batches, merge, report; and other tools' rules by name."""

from kullback.drift.presets import PRESETS, PresetResult, reproduce
from kullback.drift.report import DriftReport, psi_threshold
from kullback.drift.state import DriftState, fit

__all__ = ["PRESETS", "DriftReport", "DriftState", "PresetResult", "fit", "psi_threshold", "reproduce"]
