"""The registry as pytest-benchmark cases: `pytest benchmarks --benchmark-only`, with its own compare and history."""

import pytest

from benchmarks import cases, harness
from benchmarks.operations import OPERATIONS

QUICK_PEERS = ("NumPy", "SciPy", "torch eager", "SimSIMD", "NumKong")
CHOSEN = cases.representative()
CONTESTS = [
    (case, name)
    for case in CHOSEN
    if case.dtype == "float32" and case.kind in ("near", "probs")
    for name in OPERATIONS[case.operation].peers
    if name in QUICK_PEERS
]


def describe(benchmark, case, inputs, error):
    benchmark.group = case.name
    benchmark.extra_info |= {"error": error, "bytes": harness.bytes_of(OPERATIONS[case.operation], inputs)}


@pytest.mark.parametrize("case", CHOSEN, ids=lambda case: case.name)
def test_ours(benchmark, case):
    inputs, ours, truth = harness.prepare(case)
    describe(benchmark, case, inputs, harness.verify(case, ours(), truth))
    benchmark(ours)


@pytest.mark.parametrize(("case", "peer"), CONTESTS, ids=lambda value: getattr(value, "name", value))
@pytest.mark.filterwarnings("ignore")  # other libraries' warnings are not ours to fail on
def test_peer(benchmark, case, peer):
    inputs, _, truth = harness.prepare(case)
    try:
        run = OPERATIONS[case.operation].peers[peer](inputs, case.threads)
    except ImportError as missing:
        pytest.skip(f"needs `pip install kullback[bench]`: {missing}")
    describe(benchmark, case, inputs, harness.peer_error(run(), truth))
    benchmark(run)
