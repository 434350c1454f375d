"""`kullback eval`: two folders of tiny random models and a text in, a report out; figures equal float64 by hand."""

import json
import os
import shutil

import numpy as np
import pytest

from kullback.cli import main
from kullback.evaluation.checkpoint import Checkpoint
from kullback.evaluation.models import compare_models

pytestmark = pytest.mark.integration
# fmt: off
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "it", "was", "not", "so", "very", "far", "from", "what", "we",
         "know", "of", "all", "these", "things"]
# fmt: on
DOCUMENTS = [" ".join(WORDS[(i * i + 3 * i * n) % len(WORDS)] for i in range(n)) for n in (40, 1, 23, 9, 30, 14, 26)]

KINDS = ["a", "a", None, "b", "b", "b", "a"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base, two candidates made of it (one without a tokenizer), a text, a text of JSON lines."""
    import tokenizers
    import torch
    import transformers

    path = tmp_path_factory.mktemp("models")
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: i for i, w in enumerate(["<s>", "<?>", *WORDS])}, "<?>")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", unk_token="<?>")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.4,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(path / "base")
    tokenizer.save_pretrained(path / "base")
    for name, step in (("q8", 64), ("q4", 8)):
        with torch.no_grad():
            for weights in model.parameters():
                weights.copy_((weights * step).round() / step)
        model.save_pretrained(path / name)
    tokenizer.save_pretrained(path / "q8")
    (path / "text.txt").write_text("\n\n".join(DOCUMENTS))
    (path / "text.jsonl").write_text(
        "".join(json.dumps({"body": d, "kind": KINDS[i]}) + "\n" for i, d in enumerate(DOCUMENTS))
    )
    return path


def by_hand(folder, candidate, windows):
    """Of each window (ids, first token asked for): KL, log p and log q of the tokens, each window read by itself."""
    import torch
    import transformers

    both = [transformers.LlamaForCausalLM.from_pretrained(folder / name).eval() for name in ("base", candidate)]
    found = []
    for ids, first in windows:
        with torch.inference_mode():
            x, y = (m(torch.tensor([ids])).logits[0, first - 1 : -1].double().numpy() for m in both)
        x, y = (z - np.log(np.exp(z).sum(axis=1, keepdims=True)) for z in (x, y))
        tokens = ids[first:]
        rows = np.arange(len(tokens))
        found.append(((np.exp(x) * (x - y)).sum(axis=1), x[rows, tokens], y[rows, tokens]))
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


def ids_of(text):
    return [0, *(2 + WORDS.index(word) for word in text.split())]


def overlapping(documents, context, stride):
    windows = []
    for ids in map(ids_of, documents):
        asked = 1
        for start in range(0, len(ids), stride):
            part = ids[start : start + context]
            windows.append((part, asked - start))
            asked = start + len(part)
            if asked == len(ids):
                break
    return windows


def check(tree, hand):
    kl, log_p, log_q = hand
    assert tree["tokens"] == len(kl)
    assert tree["kl"]["mean"] == pytest.approx(kl.mean(), rel=1e-5)
    assert tree["kl"]["max"] == pytest.approx(kl.max(), rel=1e-5)
    assert tree["perplexity_p"] == pytest.approx(np.exp(-log_p.mean()), rel=1e-5)
    assert tree["perplexity_q"] == pytest.approx(np.exp(-log_q.mean()), rel=1e-5)


def test_from_folders_and_a_text_to_a_report(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    outputs = [f"--{kind}={tmp_path / 'r'}.{kind}" for kind in ("json", "html", "markdown", "junit")]
    limits = ["--fail-if", "q8: kl.mean > 1e-9", "--context", "16", "--stride", "6", "--batch", "3", "--top-k", "5"]
    code = main(["eval", "base", "q8", "q4", "--text", "text.txt", "--split", *limits, *outputs, "--quiet"])
    assert code == 1  # above the gate
    tree = json.loads((tmp_path / "r.json").read_text())
    windows = overlapping(DOCUMENTS, 16, 6)
    for name, one in zip(("q8", "q4"), tree["candidates"], strict=True):
        check(one, by_hand(folder, name, windows))
        assert one["kl"]["groups"] == len(DOCUMENTS)
        assert one["top_k_agreement"]["5"]["overlap"]["mean"] > 0.3
        assert one["p"] == {
            "path": "base", "format": "transformers", "shape": [len(" ".join(DOCUMENTS).split()), 32],
            "dtype": "float32", "tokens": True, "groups": 7, "text": "text.txt", "context": 16, "stride": 6,
            "windows": "overlapping", "documents": 7,
        }  # fmt: skip
    assert tree["candidates"][0]["kl"]["mean"] < tree["candidates"][1]["kl"]["mean"]
    shown = capsys.readouterr()
    assert "q8 has the lowest mean KL" in shown.out or "q8 is nearest to the base" in shown.out
    assert "kl.mean" in shown.err
    page = (tmp_path / "r.html").read_text()
    assert "windows: overlapping" in page
    assert tree["candidates"][0]["worst_tokens"][0]["text"]["token"] in WORDS  # by the base's own tokenizer
    table = (tmp_path / "r.markdown").read_text()
    assert "| size |" in table  # which the folders say
    assert " kB |" in table
    assert 'failures="1"' in (tmp_path / "r.junit").read_text()


def test_a_single_document_and_lines_of_json(folder):
    whole = compare_models(folder / "base", {"q": folder / "q4"}, folder / "text.txt", context=16, batch=2)["q"]
    check(whole.to_dict(), by_hand(folder, "q4", overlapping([" ".join(DOCUMENTS)], 16, 8)))
    assert whole.kl.groups == 1 + -(-(1 + sum(len(d.split()) for d in DOCUMENTS) - 16) // 8)  # windows
    lines = compare_models(folder / "base", [folder / "q4"], folder / "text.jsonl", field="body", context=16)
    check(lines["q4"].to_dict(), by_hand(folder, "q4", overlapping(DOCUMENTS, 16, 8)))


def test_the_windows_of_llama_perplexity(folder):
    found = compare_models(folder / "base", [folder / "q4"], folder / "text.txt", context=10, windows="llama.cpp")["q4"]
    ids = ids_of(" ".join(DOCUMENTS))
    windows = [([0, *ids[start + 1 : start + 10]], 6) for start in range(0, len(ids) - 9, 10)]
    check(found.to_dict(), by_hand(folder, "q4", windows))
    assert found.kl.groups == len(windows)


def test_resumed_to_the_same_bits(folder, tmp_path, monkeypatch):
    """Stopped after three batches and gone on with; and a log that was complete."""
    common = {"context": 8, "batch": 2, "split": True}
    expected = compare_models(folder / "base", [folder / "q4"], folder / "text.txt", **common)

    class Stop(Exception):
        pass

    real, count = Checkpoint.append, []

    def append(log, *rows):
        real(log, *rows)
        count.append(rows)
        if len(count) == 3:
            raise Stop

    log = tmp_path / "log"
    monkeypatch.setattr(Checkpoint, "append", append)
    with pytest.raises(Stop):
        compare_models(folder / "base", [folder / "q4"], folder / "text.txt", checkpoint=log, **common)
    seen = []
    for _ in range(2):
        found = compare_models(
            folder / "base", [folder / "q4"], folder / "text.txt", checkpoint=log, resume=True,
            progress=lambda *rows: seen.append(rows), per_token=tmp_path / "t.csv", **common,
        )  # fmt: skip
        assert found["q4"] == expected["q4"]
        assert found["q4"].facts == expected["q4"].facts
    assert seen[0][0] == count[2][1]
    assert seen[-1] == (found["q4"].tokens, found["q4"].tokens)
    assert len((tmp_path / "t.csv").read_text().splitlines()) == found["q4"].tokens + 1
    with pytest.raises(ValueError, match="of another job"):
        compare_models(folder / "base", [folder / "q8"], folder / "text.txt", checkpoint=log, resume=True, **common)
    assert main(["merge", str(log), "--json", str(tmp_path / "m.json")]) == 0
    assert json.loads((tmp_path / "m.json").read_text())["kl"] == found["q4"].to_dict()["kl"]


def test_bfloat16_is_compared_as_it_is(folder):
    found = compare_models(folder / "base", [folder / "base"], folder / "text.txt", context=16, dtype="bfloat16")[
        "base"
    ]
    assert found.facts["q"]["dtype"] == "bfloat16"
    assert found.kl.max == 0
    assert found.parts["null_control"].mean > 1e-7  # the rounding of its logits


def changed(folder, tmp_path, change):
    """A candidate that is q8 with its tokenizer or its size changed."""
    shutil.copytree(folder / "q8", tmp_path / "x")
    path = tmp_path / "x" / "tokenizer.json"
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))
    return tmp_path / "x"


def swap(tree):
    vocab = tree["model"]["vocab"]
    vocab["cat"], vocab["sat"] = vocab["sat"], vocab["cat"]


def rename(tree):
    vocab = tree["model"]["vocab"]
    vocab["dog"] = vocab.pop("cat")


def without_begin(tree):
    tree["post_processor"] = None


@pytest.mark.parametrize(
    "change, message",
    [
        (swap, "differ: 'cat' is 3 in one, 4 in the other"),
        (rename, "differ: 3 is 'cat' in one, 'dog' in the other"),
        (without_begin, "differ: document 0 has 41 tokens by one, 40 by the other"),
    ],
)
def test_other_tokenizers_are_refused(folder, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        compare_models(folder / "base", [changed(folder, tmp_path, change)], folder / "text.txt", split=True)


def test_what_is_refused(folder, tmp_path, capsys):
    import transformers

    os.mkdir(tmp_path / "empty")
    text = str(folder / "text.txt")
    for arguments, message in (
        ([str(folder / "base")], "expected candidates to compare, or --reference OUT to write"),
        ([str(folder / "base"), str(folder / "q8"), "--reference", "r"], "expected candidates to compare, or"),
        ([str(folder / "base"), "--reference", "r", "--json", "j"], "--json is of a comparison"),
        ([text, "--reference", str(tmp_path / "r")], "is no folder; expected"),
        (["meta-llama/Llama-3", "b"], "is no folder; expected one with a model's config.json"),
        ([str(folder / "base"), str(tmp_path / "empty")], "has no config.json"),
        ([str(folder / "q4"), str(folder / "base")], "q4: has no tokenizer"),
        (
            [str(folder / "base"), str(folder / "q8"), "--context", "8", "--stride", "9"],
            "expected at most 8, the context",
        ),
        ([str(folder / "base"), str(folder / "q8"), "--resume"], "`resume` needs a `checkpoint`"),
        ([str(folder / "base"), str(folder / "q8"), "--windows", "llama.cpp"], "tokens fill no window of 512"),
        ([str(folder / "base"), str(folder / "q8"), "--vocab-size", "33"], "expected from 1 to 32"),
    ):
        assert main(["eval", *arguments, "--text", text, "--quiet"]) == 2
        assert message in capsys.readouterr().err
    shutil.copytree(folder / "q4", tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").unlink()
    assert main(["eval", str(folder / "base"), str(tmp_path / "broken"), "--text", text, "--quiet"]) == 2
    assert "broken: transformers does not load it" in capsys.readouterr().err
    larger = transformers.LlamaForCausalLM.from_pretrained(folder / "q4")
    larger.resize_token_embeddings(40, mean_resizing=False)
    larger.save_pretrained(tmp_path / "larger")
    with pytest.raises(ValueError, match=r"larger has 40; .*vocab_size=32 \(--vocab-size 32\)"):
        compare_models(folder / "base", [tmp_path / "larger"], text)
    found = compare_models(folder / "base", [tmp_path / "larger", folder / "q4"], text, vocab_size=32, context=16)
    assert found["larger"].kl.mean == pytest.approx(found["q4"].kl.mean, rel=1e-6)


def test_a_reference_stands_for_the_base(folder, tmp_path, monkeypatch, capsys):
    """Written whole, or gone on with after a kill; a candidate compared with it, its tokenizer and windows checked."""
    monkeypatch.chdir(tmp_path)
    base, text = str(folder / "base"), str(folder / "text.txt")
    how = ["--text", text, "--split", "--context", "16", "--batch", "3", "--quiet"]
    # a vocabulary that is listed in whole: bounds that meet
    assert main(["eval", base, "--reference", "all.kbref", "--reference-top-k", "32", *how]) == 0
    assert main(["eval", base, "--reference", "all.kbref", *how]) == 2
    assert "--resume" in capsys.readouterr().err
    code = main(["eval", "all.kbref", str(folder / "q8"), "--js", "--json", "r.json", *how])
    assert code == 2
    assert "compact reference" in capsys.readouterr().err
    assert main(["eval", "all.kbref", str(folder / "q8"), str(folder / "q4"), "--json", "r.json", *how]) == 0
    for name, one in zip(("q8", "q4"), json.loads((tmp_path / "r.json").read_text())["candidates"], strict=True):
        check(one, by_hand(folder, name, overlapping(DOCUMENTS, 16, 8)))
        low, high = one["kl"]["bounds"]
        assert low <= one["kl"]["mean"] <= high < low + 1e-6
        assert one["kl"]["groups"] == 7
        assert one["p"]["text"] == text

    # of a part the KL lies within the bounds; stopped half-way and gone on with, to the same bytes
    from kullback.evaluation.models import reference_of_model

    common = {"split": True, "context": 16, "batch": 3, "top_k": 4}
    rows = reference_of_model(base, text, "r.kbref", **common)

    def stop(done, total):
        assert total == rows
        if done > rows / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reference_of_model(base, text, "again.kbref", progress=stop, **common)
    assert reference_of_model(base, text, "again.kbref", resume=True, **common) == rows
    both = [folder / "q4", folder / "q8"]  # q4 has no tokenizer of its own
    found = [compare_models(path, both, text, split=True, context=16)["q4"] for path in ("r.kbref", "again.kbref")]
    assert found[0] == found[1]
    low, high = found[0].to_dict()["kl"]["bounds"]
    assert low <= by_hand(folder, "q4", overlapping(DOCUMENTS, 16, 8))[0].mean() <= high

    with pytest.raises(ValueError, match=r"r.kbref has 143 rows, the text makes 63: .* must be those that it was"):
        compare_models("r.kbref", [folder / "q8"], text, split=True, context=16, windows="llama.cpp")
    (tmp_path / "other.txt").write_text("\n\n".join(DOCUMENTS).replace("cat", "sat"))
    with pytest.raises(ValueError, match=r"r.kbref has the token 3 at row \d+, the text 4: "):
        compare_models("r.kbref", [folder / "q8"], "other.txt", split=True, context=16)
    with pytest.raises(ValueError, match="q4: has no tokenizer"):
        compare_models("r.kbref", [folder / "q4"], text, split=True, context=16)


def test_figures_by_a_field_of_the_lines(folder, tmp_path):
    """Labels of documents, in a log that is gone on with too."""
    common = {"field": "body", "context": 16, "by_fields": ["kind"], "checkpoint": tmp_path / "log"}
    for resume in (False, True):
        found = compare_models(
            folder / "base",
            [folder / "q4"],
            folder / "text.jsonl",
            resume=resume,
            per_token=tmp_path / "t.csv",
            **common,
        )["q4"]
        for kind in ("a", "b", None):
            documents = [d for d, k in zip(DOCUMENTS, KINDS, strict=True) if k == kind]
            check(found.by["kind"][kind or "(none)"].to_dict(), by_hand(folder, "q4", overlapping(documents, 16, 8)))
        assert found.facts["labels"]["of"] == {"kind": "group"}
    assert "label.kind" in (tmp_path / "t.csv").read_text().splitlines()[0]
    assert main(["merge", str(tmp_path / "log"), "--json", str(tmp_path / "m.json")]) == 0
    assert json.loads((tmp_path / "m.json").read_text())["by"].keys() == found.to_dict()["by"].keys()
    with pytest.raises(ValueError, match=r"which the windows of llama\.cpp do not tell apart"):
        compare_models(folder / "base", [folder / "q4"], folder / "text.jsonl", windows="llama.cpp", by_fields=["kind"])


@pytest.mark.parametrize("family", ["GPT2", "Qwen3", "Gemma2", "Mamba"])
def test_models_of_other_kinds(folder, tmp_path, family):
    """Places that are learned, soft-capped logits, states instead of attention; batches that are padded."""
    import torch
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.3}
    if family == "GPT2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.3}
    elif family != "Mamba":
        sizes |= {"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64}
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(vocab_size=32, **sizes)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    shutil.copytree(folder / "q8", tmp_path / "p")
    model.save_pretrained(tmp_path / "p")
    text = folder / "text.txt"
    found = compare_models(tmp_path / "p", [folder / "q8"], text, split=True, context=16, batch=3)["q8"]
    logs = []
    for ids, first in overlapping(DOCUMENTS, 16, 8):
        with torch.inference_mode():
            rows = model(torch.tensor([ids])).logits[0, first - 1 : -1].double().log_softmax(-1).numpy()
        logs += rows[np.arange(len(rows)), ids[first:]].tolist()
    assert found.perplexity_p == pytest.approx(np.exp(-np.mean(logs)), rel=1e-5)
