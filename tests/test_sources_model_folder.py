"""The end of a model from its folder: norm, output weights, bias, scale and soft-cap, and what is refused."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import kullback as kb
from kullback.cli import main
from kullback.evaluation.sources import hidden, output_layer

VOCAB, WIDTH, ROWS = 300, 16, 70
RNG = np.random.default_rng(5)
WEIGHTS = RNG.normal(size=(VOCAB, WIDTH)).astype(np.float32)
BIAS = RNG.normal(size=VOCAB).astype(np.float32)
NORM, SHIFT = (RNG.uniform(0.5, 2, WIDTH).astype(np.float32) for _ in range(2))
STATES = (5 * RNG.normal(size=(ROWS, WIDTH)) + 1).astype(np.float32)
TOKENS = RNG.integers(0, VOCAB, ROWS)
ENDS = {  # model_type, further settings, tensors besides the weights
    "llama": ({"rms_norm_eps": 0.5}, {"model.norm.weight": NORM}),
    "gemma2": ({"rms_norm_eps": 0.5, "final_logit_softcapping": 20.0}, {"model.norm.weight": NORM}),
    "granite": ({"rms_norm_eps": 0.5, "logits_scaling": 8.0}, {"model.norm.weight": NORM}),
    "cohere": ({"layer_norm_eps": 0.5, "logit_scale": 0.25}, {"model.norm.weight": NORM}),
    "phi": (
        {"layer_norm_eps": 0.5},
        {"model.final_layernorm.weight": NORM, "model.final_layernorm.bias": SHIFT, "lm_head.bias": BIAS},
    ),
}


def written(folder, model_type, weights="lm_head.weight", **more):
    settings, tensors = ENDS[model_type]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": model_type} | settings | more))
    safetensors.numpy.save_file({weights: WEIGHTS} | tensors, folder / "model.safetensors")
    return folder


def by_hand(model_type, x):
    """In float64, line by line as the models do it."""
    x, norm, eps = x.astype(float), NORM.astype(float), 0.5
    if model_type in ("cohere", "phi"):
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + eps) * norm
    else:
        x = x / np.sqrt((x**2).mean(1, keepdims=True) + eps) * (1 + norm if model_type == "gemma2" else norm)
    x = x + SHIFT if model_type == "phi" else x
    logits = x @ WEIGHTS.T.astype(float)
    return {
        "phi": lambda: logits + BIAS,
        "cohere": lambda: logits * 0.25,
        "granite": lambda: logits / 8,
        "gemma2": lambda: 20 * np.tanh(logits / 20),
    }.get(model_type, lambda: logits)()


@pytest.fixture
def states(tmp_path):
    path = tmp_path / "states.safetensors"
    safetensors.numpy.save_file({"hidden_states": STATES, "token_ids": TOKENS}, path)
    return path


@pytest.mark.parametrize("model_type", ENDS)
def test_logits(model_type, states, tmp_path):
    folder = written(tmp_path / "model", model_type)
    with kb.open_logits(states, lm_head=folder, norm="model") as source:
        got = source.rows(0, ROWS)
        facts = source.facts()["lm_head"]
    # float32 sums of 16 products of magnitude 10, against float64
    np.testing.assert_allclose(got, by_hand(model_type, STATES), rtol=0, atol=3e-5)
    assert (facts["model_type"], facts["eps"]) == (model_type, 0.5)


def test_tied_embeddings(states, tmp_path):
    folder = written(tmp_path / "model", "llama", weights="model.embed_tokens.weight", tie_word_embeddings=True)
    with kb.open_logits(states, lm_head=folder, norm="model") as source:
        np.testing.assert_allclose(source.rows(0, ROWS), by_hand("llama", STATES), rtol=0, atol=3e-5)
        assert source.facts()["lm_head"]["tied"]
    folder = written(tmp_path / "other", "llama", weights="model.embed_tokens.weight")
    with pytest.raises(ValueError, match=r"no tensor lm_head.weight, and its embeddings are not the output weights"):
        kb.open_logits(states, lm_head=folder, norm="model")


def test_sharded_weights(states, tmp_path):
    """Only the files that an index names for what is needed are opened."""
    folder = written(tmp_path / "model", "phi")
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    where = {name: f"model-{i}.safetensors" for i, name in enumerate(tensors)} | {"model.layers.0": "gone.safetensors"}
    for name, x in tensors.items():
        safetensors.numpy.save_file({name: x}, folder / where[name])
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    with kb.open_logits(states, lm_head=folder, norm="model") as source:
        np.testing.assert_allclose(source.rows(0, ROWS), by_hand("phi", STATES), rtol=0, atol=3e-5)
    for wrong in ({}, {"weight_map": {"lm_head.weight": "../x.safetensors"}}, []):
        index.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match="not an index of weights"):
            kb.open_logits(states, lm_head=folder, norm="model")


def test_what_is_refused(states, tmp_path):
    folder = written(tmp_path / "model", "llama")

    def refused(message, norm="model", lm_head=folder):
        with pytest.raises(ValueError, match=message):
            kb.open_logits(states, lm_head=lm_head, norm=norm)

    refused(r'`norm` is None: say norm="applied" .* hidden_states\[-1\] are; norm="model" .* as vLLM writes them', None)
    refused(r"needs the model's folder as lm_head", lm_head=folder / "model.safetensors")
    config = folder / "config.json"
    config.write_text(json.dumps({"model_type": "new"}))
    refused(r"model_type 'new', whose end is not known; known are llama, .*--norm applied")
    for text in ("[]", "{", "{}", '{"model_type": "llama", "text_config": 3}'):
        config.write_text(text)
        refused("not a model's config.json")
    for wrong in ("x", -1, True, None, float("nan")):
        config.write_text(json.dumps({"model_type": "llama", "rms_norm_eps": wrong}))
        refused("config.json: rms_norm_eps is .*, expected a number above 0")
    config.write_text(json.dumps({"model_type": "llama"}))
    file = folder / "model.safetensors"
    good = {"lm_head.weight": WEIGHTS, "model.norm.weight": NORM}
    for tensors, message in [
        (good | {"lm_head.weight_scale": NORM}, "'lm_head.weight' is quantised"),
        (good | {"model.norm.weight": NORM[1:]}, r"'model.norm.weight' has shape \(15,\), expected \(16,\)"),
        (good | {"transformer.norm.weight": NORM}, "2 tensors called norm.weight, expected one"),
        ({"lm_head.weight": WEIGHTS}, "0 tensors called norm.weight, expected one"),
        (good | {"model.norm.weight": TOKENS[:WIDTH]}, "holds I64"),
    ]:
        safetensors.numpy.save_file(tensors, file)
        refused(message)
    file.rename(folder / "a.safetensors")
    safetensors.numpy.save_file(good, folder / "b.safetensors")
    refused("2 files of weights; expected model.safetensors, or model.safetensors.index.json")


def test_weights_alone_are_not_the_whole_end(states, tmp_path):
    """A file of weights beside a config.json with a soft-cap or scale would give other logits than the model's."""
    for model_type, said in (("gemma2", "final_logit_softcapping 20.0"), ("granite", "logits_scaling 8.0")):
        folder = written(tmp_path / model_type, model_type)
        with pytest.raises(ValueError, match=f"more than the product with them .{said} .*give the folder"):
            kb.open_logits(states, lm_head=folder / "model.safetensors", norm="applied")
    folder = written(tmp_path / "llama", "llama")
    assert kb.open_logits(states, lm_head=folder / "model.safetensors", norm="applied").shape == (ROWS, VOCAB)


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "phi"])
def test_a_norm_that_was_or_was_not_applied_is_told(model_type, states, tmp_path):
    """In bfloat16 too: rows that went through the norm have mean square 1 over its weights."""
    folder = written(tmp_path / "model", model_type)
    norm = kb.open_logits(states, lm_head=folder, norm="model")._end.norm
    done = norm.apply(20 * STATES).astype(ml_dtypes.bfloat16)
    safetensors.numpy.save_file({"hidden_states": done}, tmp_path / "done.safetensors")
    for path, wrong, right in ((states, "applied", "model"), (tmp_path / "done.safetensors", "model", "applied")):
        with pytest.raises(ValueError, match=f'`norm` is "{wrong}", but .*norm="{right}"'):
            kb.open_logits(path, lm_head=folder, norm=wrong).rows(3, 4)
        assert np.isfinite(kb.open_logits(path, lm_head=folder, norm=right).rows(3, 4)).all()


class TestTokens:
    """`token_ids` are what the model read, `tokens` what it should say."""

    def test_shifted_within_documents(self, tmp_path):
        head = tmp_path / "w.npy"
        np.save(head, WEIGHTS)
        (tmp_path / "requests").mkdir()
        for i, length in enumerate((5, 1, 7)):
            part = {"hidden_states": STATES[:length, None].repeat(3, 1), "token_ids": TOKENS[:length]}
            safetensors.numpy.save_file(part, tmp_path / "requests" / f"{i}-abc.safetensors")
        with kb.open_logits(tmp_path / "requests", lm_head=head, norm="applied", layer=-1) as source:
            np.testing.assert_array_equal(source.tokens, [*TOKENS[1:5], -100, -100, *TOKENS[1:7], -100])
            np.testing.assert_array_equal(source.groups, np.repeat([0, 1, 2], [5, 1, 7]))
        one = {"hidden_states": STATES[:6], "token_ids": TOKENS[:6], "groups": np.array([4, 4, 4, 9, 9, 9])}
        safetensors.numpy.save_file(one, tmp_path / "one.safetensors")
        with kb.open_logits(tmp_path / "one.safetensors", lm_head=head, norm="applied") as source:
            np.testing.assert_array_equal(source.tokens, [*TOKENS[1:3], -100, *TOKENS[4:6], -100])

    def test_never_off_by_one(self, tmp_path):
        """Both kinds in one file must say the same, and one a row; as do columns beside several layers."""
        head, path = tmp_path / "w.npy", tmp_path / "x.safetensors"
        np.save(head, WEIGHTS)
        states = {"hidden_states": STATES[:6, None].repeat(2, 1), "token_ids": TOKENS[:6]}
        said = np.array([*TOKENS[1:6], -100])
        safetensors.numpy.save_file(states | {"tokens": said}, path)
        np.testing.assert_array_equal(kb.open_logits(path, lm_head=head, norm="applied", layer=0).tokens, said)
        for name, wrong, message in [
            ("tokens", TOKENS[:6], "which are the targets themselves, are others"),
            ("token_ids", TOKENS[:7], r"expected 48 for shape \(7,\)"),
            ("token_ids", TOKENS[:12], r"expected 48 for shape \(12,\)"),
        ]:
            safetensors.numpy.save_file(states | {name: wrong}, path)
            with pytest.raises(ValueError, match=message):
                kb.open_logits(path, lm_head=head, norm="applied", layer=0)


def test_the_same_bits_whatever_is_held_and_asked_for(states, tmp_path, monkeypatch):
    """Weights held as float32, as stored, or read for each block; rows alone, over the bounds of blocks, or all."""
    monkeypatch.setattr(hidden, "ROW_BLOCK", 32)
    monkeypatch.setattr(output_layer, "VOCAB_BLOCK", 128)
    folder = written(tmp_path / "model", "llama")
    stored = {"lm_head.weight": WEIGHTS.astype(ml_dtypes.bfloat16), "model.norm.weight": NORM}
    safetensors.numpy.save_file(stored, folder / "model.safetensors")
    found = []
    for most in (4 * VOCAB * WIDTH, 2 * VOCAB * WIDTH, 0):
        monkeypatch.setattr(output_layer, "HELD_BYTES", most)
        with kb.open_logits(states, lm_head=folder, norm="model") as source:
            found.append(source.rows(0, ROWS))
            for start, stop in [(69, 70), (31, 33), (0, 1), (5, 66), (64, 70)]:
                np.testing.assert_array_equal(source.rows(start, stop), found[0][start:stop])
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_weights_are_read_once_a_block_of_rows(states, tmp_path, monkeypatch):
    """And once in all, where they are held: also by two files with one model."""
    monkeypatch.setattr(hidden, "ROW_BLOCK", 32)
    read = []
    rows = kb.evaluation.sources.base.FlatRows._read

    def counting(self, start, stop, out):
        if self.shape == WEIGHTS.shape:
            read.append(stop - start)
        rows(self, start, stop, out)

    monkeypatch.setattr(kb.evaluation.sources.base.FlatRows, "_read", counting)
    folder = written(tmp_path / "model", "llama")
    command = ["compare", str(states), str(states), "--lm-head", str(folder), "--norm", "model", "--quiet"]
    assert main(command) == 0
    assert sum(read) == VOCAB
    read.clear()
    monkeypatch.setattr(output_layer, "HELD_BYTES", 0)
    with kb.open_logits(states, lm_head=folder, norm="model") as source:
        for i in range(ROWS):
            source.rows(i, i + 1)
    assert sum(read) == 3 * VOCAB


def test_another_model_is_noticed_by_a_checkpoint(states, tmp_path):
    """The norm's file and config.json decide the numbers as the weights do."""
    folder, log = written(tmp_path / "model", "phi"), tmp_path / "log"
    options = {"lm_head": folder, "norm": "model", "checkpoint": log}
    kb.compare_files(states, states, **options)
    kb.compare_files(states, states, resume=True, **options)
    config = folder / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(ValueError, match="is of another job"):
        kb.compare_files(states, states, resume=True, **options)
