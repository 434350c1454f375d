"""Shared settings: deterministic Hypothesis, and nothing that would decide which engine runs."""

from hypothesis import settings

# the first call of an engine may compile; a deadline would then judge the compiler
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=60, print_blob=False)
settings.load_profile("repeatable")
