"""Drift of tables: fit on a reference, update with batches, merge, report; and other tools' rules by name."""

from kullback.drift.fitting import fit
from kullback.drift.presets import PRESETS, PresetResult, reproduce
from kullback.drift.results import DriftReport
from kullback.drift.significance import psi_threshold
from kullback.drift.state import DriftState, load

__all__ = ["PRESETS", "DriftReport", "DriftState", "PresetResult", "fit", "load", "psi_threshold", "reproduce"]
