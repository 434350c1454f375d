"""The command `kullback`, one file a command."""

from kullback.cli.program import main

__all__ = ["main"]
