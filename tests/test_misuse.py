"""Wrong arguments of every public function: an error that says so or a right answer, each time."""

import os

import misuse
import pytest

# right arguments that no general rule makes
BY_HAND = {"merge_logs", "open_sparse", "MismatchReport.merge", "ComparisonSummary.merge", "DriftState.merge"}


@pytest.mark.parametrize("name", [name for name in misuse.names() if name not in BY_HAND])
def test_right_arguments_are_taken(name, tmp_path, monkeypatch):
    """Else all that is tried of a function would be its first check."""
    monkeypatch.chdir(tmp_path)
    misuse.save_rows()
    call = misuse.Call(0, name, 0, wrong=False)
    call.make(call.arguments)


def test_random_misuse():
    """A few calls of each function here, 10,000 in `make nightly`."""
    found = misuse.run(0, int(os.environ.get("KULLBACK_MISUSE_CALLS", "25")))
    wrong = [f"{what}: {call}" for call, what in misuse.failures(found)]
    assert not wrong, misuse.table(found) + "\n" + "\n".join(wrong[:20])
