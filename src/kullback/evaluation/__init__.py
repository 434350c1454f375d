"""From files of logits to a report: sources, jobs, statistics; and from models that run."""

from typing import TYPE_CHECKING, Any

from kullback._engine import import_whole

if TYPE_CHECKING:
    from kullback.evaluation.live import LiveComparison

__all__ = ["LiveComparison"]

if not TYPE_CHECKING:  # loaded when first used: whoever needs a reader alone needs nothing else

    def __getattr__(name: str) -> Any:
        if name in __all__:
            value = globals()[name] = getattr(import_whole("kullback.evaluation.live"), name)
            return value
        raise AttributeError(f"module 'kullback.evaluation' has no attribute {name!r}")
