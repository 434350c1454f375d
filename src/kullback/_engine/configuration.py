"""What results and speed depend on, printed."""

from kullback._engine import processors
from kullback._engine.engine import current, default_threads, get_engine


def show_config() -> None:
    """Print the engine, the number of threads and the versions that results and speed depend on.

    The number of threads is KULLBACK_NUM_THREADS, else the least of OMP_NUM_THREADS, the processors that this process
    may run on and the quota of its control group. An OMP_NUM_THREADS that is no number ("auto") is ignored, and
    printed here.

    Examples
    --------
    >>> import kullback as kb
    >>> kb.show_config()  # doctest: +ELLIPSIS
    kullback ...
    """
    import platform
    from importlib.metadata import version

    why = f" ({current().why})" if current().why else ""
    threads = f"{default_threads()} threads{processors.choose()[1]}"
    print(f"kullback {version('kullback')}, engine {get_engine()}{why}, {threads}")
    print(f"numpy {version('numpy')}, numba {version('numba')}, cffi {version('cffi')}")
    print(f"Python {platform.python_version()}, {platform.system()} {platform.machine()}")
