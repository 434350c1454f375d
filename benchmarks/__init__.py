"""How fast, and how right: `python -m benchmarks` measures, prints, saves; nothing is timed before it was checked."""
