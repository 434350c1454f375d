"""A job makes each column and draws each bootstrap once, however often its results are shown."""

from collections import Counter

import numpy as np
import pytest
from safetensors.numpy import save_file

import kullback as kb
from kullback.cli import main
from kullback.comparison import Spread, columns
from kullback.comparison.summary import SPREADS

ROWS, V = 60, 12
RNG = np.random.default_rng(3)


@pytest.fixture
def files(tmp_path):
    p = RNG.normal(size=(ROWS, V)).astype(np.float32)
    labels = {"tokens": RNG.integers(0, V, ROWS), "groups": np.arange(ROWS) // 10}
    save_file({"logits": p, **labels}, tmp_path / "p.safetensors")
    np.save(tmp_path / "q.npy", p + RNG.normal(size=p.shape).astype(np.float32))
    return str(tmp_path / "p.safetensors"), str(tmp_path / "q.npy")


def counted(monkeypatch, owner, name, calls):
    true = getattr(owner, name)

    def call(*arguments, **keywords):
        calls[name] += 1
        return true(*arguments, **keywords)

    monkeypatch.setattr(owner, name, call)


def test_a_printed_job_makes_everything_once(monkeypatch, files, tmp_path, capsys):
    calls = Counter()
    counted(monkeypatch, columns, "agreement", calls)
    counted(monkeypatch, columns, "probability_change", calls)
    counted(monkeypatch, Spread, "_group_interval", calls)
    counted(monkeypatch, kb.TokenComparison, "__init__", calls)
    outputs = ["--json", str(tmp_path / "result.json"), "--html", str(tmp_path / "page.html")]
    assert main(["compare", *files, *outputs]) == 0
    # the share of equal tops has Wilson's interval instead of drawn ones
    assert calls == {"agreement": 1, "probability_change": 1, "_group_interval": len(SPREADS) - 1}
    assert "same top token" in capsys.readouterr().out


def test_what_was_drawn_is_drawn_again_for_another_seed():
    spread = Spread.of(RNG.normal(size=50), np.arange(50) // 5)
    assert spread.group_interval() == spread.group_interval(0.95, 2000, 0)
    assert len({spread.group_interval(0.9), spread.group_interval(), spread.group_interval(seed=1)}) == 3
    with pytest.raises(TypeError, match="`seed` is True"):
        spread.group_interval(seed=True)
