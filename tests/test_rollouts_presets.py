"""Presets: a file written as each trainer writes it is read to the samples that went in."""

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import rollout_writers as writers

from kullback.evaluation.arguments import ROLLOUT_PRESETS
from kullback.rollouts import PRESETS, audit_files, read_rollouts

DATA = Path(__file__).parent / "data" / "torch"


def read(path, **options):
    """The counted tokens of each sequence, and everything else of the batches."""
    found = {"rollout": [], "train": [], "tokens": [], "train_entropy": [], "reward": [], "labels": [], "skipped": {}}
    for batch in read_rollouts(path, **options):
        found["skipped"] |= batch.skipped.reasons
        for b in range(batch.sequences):
            own = slice(batch.offsets[b], batch.offsets[b + 1])
            keep = np.ones(own.stop - own.start, bool) if batch.mask is None else batch.mask[own]
            for name in ("rollout", "train", "tokens", "train_entropy"):
                column = getattr(batch, name)
                found[name].append(None if column is None else column[own][keep].tolist())
            found["reward"].append(None if batch.reward is None else float(batch.reward[b]))
            found["labels"].append({name: values[b] for name, values in batch.labels.items()})
    return found


def check(found, samples, labels, entropy=False, reward=True):
    for name, key in (("rollout", "rollout"), ("train", "train"), ("tokens", "ids")):
        assert found[name] == [s[key][s["prompt"] :].tolist() for s in samples], name
    if entropy:
        assert found["train_entropy"] == [s["entropy"][s["prompt"] :].tolist() for s in samples]
    if reward:
        assert found["reward"] == [s["reward"] for s in samples]
    assert found["labels"] == labels
    assert not found["skipped"]


def test_nemo_rl(tmp_path):
    samples = writers.sequences()
    path = writers.nemo_rl(tmp_path, samples, step=12)
    check(read(path), samples, [{"step": 12, "env": s["env"]} for s in samples])
    assert audit_files(path).facts["files"][0]["preset"] == "nemo_rl"


def test_prime_rl(tmp_path):
    samples = writers.sequences()
    path = writers.prime_rl(tmp_path, samples, step=4, rank=2)
    labels = [{"step": 4, "env": s["env"], "worker": 2} for s in samples]
    check(read(path), samples, labels, entropy=True, reward=False)


def test_prime_rl_writes_null_for_what_is_not_finite(tmp_path):
    samples = writers.sequences()
    samples[0]["rollout"][-1] = -np.inf
    (batch,) = read_rollouts(writers.prime_rl(tmp_path, samples))
    assert np.isnan(batch.rollout[batch.offsets[1] - 1])
    findings = {f.check for f in audit_files(tmp_path).audit.findings}
    assert "missing" in findings


def test_verl(tmp_path):
    samples = writers.sequences()
    path = tmp_path / "global_step_7.npz"
    np.savez(path, **writers.verl_batch(samples))
    check(read(path), samples, [{"step": 7}] * len(samples), entropy=True)


def test_verl_data_proto():
    """tests/data/torch/verl.pkl: DataProto.save_to_disk of these samples, by tensordict 0.15.3 and torch 2.13.

    Its tensors are consolidated; verl_batch.pt is torch.save of a TensorDict whose tensors are not.
    """
    samples = writers.sequences()
    labels = [{"step": 7, "env": s["env"]} for s in samples]
    check(read(DATA / "verl.pkl"), samples, labels, entropy=True)
    assert audit_files(DATA / "verl.pkl").facts["files"][0]["preset"] == "verl"
    check(read(DATA / "verl_batch.pt"), samples, [{}] * len(samples), entropy=True)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_verl_data_proto_of_words(tmp_path, protocol):
    samples = writers.sequences()
    data = writers.verl_data_proto(samples, writers.verl_words(samples), {"step": 3, "timing": {"s": 1.0}})
    path = writers.save_to_disk(data, tmp_path / "batch.pkl", protocol)
    labels = [{"step": 3, "env": s["env"]} for s in samples]
    check(read(path), samples, labels, entropy=True)
    assert read(tmp_path) == read(path), "a folder of them too"


def test_arrays_that_were_pickled(tmp_path):
    """A dict of arrays, one by columns and one of other bytes' order, and a list of samples."""
    samples = writers.sequences()
    batch = writers.trl_batch(samples)
    batch["old_per_token_logps"] = np.asfortranarray(batch["old_per_token_logps"]).astype(">f4", order="F")
    path = tmp_path / "step_9.pkl"
    path.write_bytes(pickle.dumps(batch))
    check(read(path), samples, [{"step": 9}] * len(samples), reward=False)
    path.write_bytes(pickle.dumps(writers.slime_payload(samples)))
    check(read(path), samples, [{"step": 3, "worker": i % 2} for i in range(len(samples))], entropy=True)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (lambda: pickle.dumps(3), "neither a dict of tensors nor a list of samples"),
        (lambda: pickle.dumps({"text": ["a"]}), "no log-probs of both sides in it; its rows have text"),
        (lambda: (DATA / "verl.pkl").read_bytes()[:900], "not a readable pickle"),
        (lambda: (DATA / "verl.pkl").read_bytes().replace(b"verl.protocol", b"very.protocol"), "neither a dict"),
    ],
)
def test_pickles_of_something_else_are_named(tmp_path, found, words):
    path = tmp_path / "some.pkl"
    path.write_bytes(found())
    with pytest.raises(ValueError, match=f"some.pkl: .*{words}"):
        audit_files(path)


def test_nothing_of_a_plain_pickle_is_run(tmp_path, capsys):
    batch = writers.trl_batch(writers.sequences()) | {"more": [Trap()]}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(batch))
    assert len(read(tmp_path / "a.pkl")["rollout"]) == 6
    assert capsys.readouterr().out == ""


def test_trl(tmp_path):
    samples = writers.sequences()
    path = tmp_path / "batch_00005.npz"
    np.savez_compressed(path, **writers.trl_batch(samples))
    check(read(path), samples, [{"step": 5}] * len(samples), reward=False)


@pytest.mark.parametrize("write", [writers.verl_texts, writers.trl_texts])
def test_texts_without_log_probs_say_how_to_get_them(tmp_path, write):
    """verl's and TRL's own dumps have no log-probs: the error says which fields there are and what to save."""
    with pytest.raises(ValueError, match=r"no log-probs of both sides.*(input|prompt).*save"):
        audit_files(write(tmp_path, writers.sequences()))


def test_slime():
    """tests/data/torch/slime.pt is what the integration test below writes, with torch 2.13."""
    samples = writers.sequences()
    labels = [{"step": 3, "worker": i % 2} for i in range(len(samples))]
    check(read(DATA / "slime.pt"), samples, labels, entropy=True)


@pytest.mark.integration
def test_slime_as_torch_saves_it(tmp_path):
    import torch

    samples = writers.sequences()
    path = tmp_path / "3.pt"
    torch.save(writers.slime_payload(samples, tensor=torch.as_tensor), path)
    found = read(path)
    check(found, samples, [{"step": 3, "worker": i % 2} for i in range(len(samples))], entropy=True)
    assert found == read(DATA / "slime.pt")


@pytest.mark.integration
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_batches_as_torch_saves_them(tmp_path, dtype):
    """A dict of tensors, transposed, cut and narrow ones among them; nothing of the file is run."""
    import torch

    samples = writers.sequences()
    batch = {name: torch.as_tensor(x) for name, x in writers.trl_batch(samples).items()}
    for name in ("old_per_token_logps", "sampling_per_token_logps"):
        wide = torch.zeros(batch[name].shape[1] + 2, len(samples) + 1, dtype=getattr(torch, dtype))
        wide[1:-1, 1:] = batch[name].T
        batch[name] = wide[1:-1, 1:].T
    path = tmp_path / "step_9.pt"
    torch.save(batch, path)
    (read_batch,) = read_rollouts(path)
    expected = batch["old_per_token_logps"].double().numpy().reshape(-1)
    assert np.array_equal(read_batch.train, expected)
    assert read_batch.labels["step"] == [9] * len(samples)


class Trap:
    """What a pickle may hold: an order to run something."""

    def __reduce__(self):
        return (print, ("this must not be run",))


@pytest.mark.integration
def test_nothing_of_a_pickle_is_run(tmp_path, capsys):
    import torch

    payload = writers.slime_payload(writers.sequences(), tensor=torch.as_tensor)
    payload["samples"][0]["metadata"] = Trap()
    torch.save(payload, tmp_path / "3.pt")
    assert len(read(tmp_path / "3.pt")["rollout"]) == 6
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("damage", [slice(0, 400), slice(0, -30)])
def test_damaged_torch_files_are_named(tmp_path, damage):
    path = tmp_path / "cut.pt"
    path.write_bytes((DATA / "slime.pt").read_bytes()[damage])
    with pytest.raises(ValueError, match=r"cut\.pt"):
        audit_files(path)


def test_tensors_stay_within_their_storage(tmp_path):
    import zipfile

    source = zipfile.ZipFile(io.BytesIO((DATA / "slime.pt").read_bytes()))
    path = tmp_path / "short.pt"
    with zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, data[:8] if name.endswith("/data/0") else data)
    with pytest.raises(ValueError, match=r"short\.pt: not a readable file of torch\.save"):
        audit_files(path)


def test_a_dump_of_one_side_says_how_to_get_the_other(tmp_path):
    """THUDM/slime 624b824a: utils/types.py Sample.to_dict, which --save-debug-rollout-data saves."""
    row = {"response": "b", "response_length": 2, "weight_versions": [], "rollout_log_probs": [-1.0, -2.0]}
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(ValueError, match=r"response_length.*slime .*--save-debug-train-data"):
        audit_files(path)
    path.write_text(json.dumps({"rollout_log_probs": [-1.0, -2.0]}))  # verl's or slime's
    with pytest.raises(ValueError, match=r"name the fields: `fields="):
        audit_files(path)


def test_a_number_of_a_folder_is_no_step(tmp_path):
    folder = tmp_path / "run2"
    folder.mkdir()
    np.savez(folder / "batch.npz", **writers.trl_batch(writers.sequences()))
    assert list(audit_files(folder).by) == []
    (folder / "batch.npz").rename(folder / "batch_7.npz")
    assert list(audit_files(folder).by["step"].points) == [7]


def test_the_command_offers_every_preset():
    assert tuple(PRESETS) == ROLLOUT_PRESETS


def test_a_preset_that_does_not_fit_says_what_there_is(tmp_path):
    path = writers.nemo_rl(tmp_path, writers.sequences())
    with pytest.raises(
        ValueError, match=r"generation_logprobs.*trl has sampling_per_token_logps.*`fields={'rollout': FIELD"
    ):
        audit_files(path, preset="trl")


def test_what_is_mapped_goes_before_the_preset(tmp_path):
    samples = writers.sequences()
    path = writers.nemo_rl(tmp_path, samples)
    (batch,) = read_rollouts(path, fields=["train=generation_logprobs"])
    assert np.array_equal(batch.rollout, batch.train)
    assert batch.mask is not None
