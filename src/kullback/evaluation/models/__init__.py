"""Folders of transformers models and a text to a report: what is read, in which windows, and what is compared."""

from kullback.evaluation.models.comparing import compare_models, reference_of_model

__all__ = ["compare_models", "reference_of_model"]
