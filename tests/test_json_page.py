"""docs/json.md names every key of what the commands write as JSON."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from kullback.cli import main

PAGE = (Path(__file__).parent.parent / "docs" / "json.md").read_text(encoding="utf-8")
EXAMPLES = Path(__file__).parent.parent / "examples"
NAMED = set(re.findall(r"`([\w.]+)`", PAGE))
# what users name, or levels
FREE = re.compile(r"[\d.]+|code|prose|domain|step|q[46]\.npz|.*\.kld|positive|train|rollout|mask|reward|tokens")


def keys(tree):
    """Every key of a tree, at any depth."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield key
            yield from keys(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from keys(value)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(20)
    p, groups = rng.normal(0, 3, (240, 40)), np.arange(240) // 20
    np.savez("base.npz", logits=p, tokens=rng.integers(0, 40, 240), groups=groups)
    for name, noise in (("q6", 0.05), ("q4", 0.3)):
        q = p + noise * rng.normal(size=p.shape)
        q[7, 3] = -np.inf
        np.savez(f"{name}.npz", logits=q)
    (tmp_path / "labels.csv").write_text("domain\n" + "code\nprose\n" * 6)
    return tmp_path


def assert_named(name):
    unnamed = {key for key in keys(json.loads(Path(name).read_text())) if not FREE.fullmatch(key)} - NAMED
    assert not unnamed, f"docs/json.md has no word about {sorted(unnamed)}"


def test_compare_and_table(folder):
    sizes = ["--size", "q6=6GB", "--size", "q4=4GB", "--parameters", "8000000000"]
    files = ["compare", "base.npz", "q6.npz", "q4.npz", "--quiet", "--by", "labels.csv", "--margin", "0.1", "--js"]
    assert main([*files, *sizes, "--top-k", "1,5", "--json", "r.json"]) == 0
    assert_named("r.json")
    assert main(["table", "r.json", "--json", "table.json"]) == 0
    assert_named("table.json")


def test_dumps(folder):
    dumps = [str(EXAMPLES / name) for name in ("f16.kld", "q4_k_m.kld")]
    assert main(["compare", *dumps, "--convention", "llama.cpp", "--quiet", "--json", "r.json"]) == 0
    assert_named("r.json")


def test_references_and_info(folder, capsys):
    assert main(["reference", "base.npz", "base.kbref", "--top-k", "8", "--quiet"]) == 0
    assert main(["compare", "base.kbref", "q4.npz", "--quiet", "--json", "r.json"]) == 0
    assert_named("r.json")
    for files in (["base.kbref"], ["base.npz", "q4.npz"]):
        capsys.readouterr()
        assert main(["info", *files, "--json"]) == 0
        Path("info.json").write_text(capsys.readouterr().out)
        assert_named("info.json")


def test_rollouts(folder):
    rng = np.random.default_rng(0)
    with open("log.jsonl", "w", encoding="utf-8") as file:
        for i in range(30):
            train = -rng.exponential(1, 12)
            row = {"train": train.tolist(), "rollout": (train + rng.normal(0, 0.02, 12)).tolist(), "step": i // 10}
            file.write(json.dumps(row | {"tokens": list(range(12)), "reward": 0.5}) + "\n")
        file.write(json.dumps({"train": [0.5, -1.0], "rollout": [-0.5, -1.0], "step": 3, "tokens": [1, 2]}) + "\n")
        file.write("no JSON\n")
    roles = [f"{name}={name}" for name in ("train", "rollout", "step", "tokens", "reward")]
    assert main(["rollouts", "log.jsonl", "--map", *roles, "--by", "step", "--json", "r.json"]) == 0
    assert_named("r.json")
