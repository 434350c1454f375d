"""Models of transformers as they run: what is compared equals a float64 computation by hand."""

import numpy as np
import pytest

import kullback as kb
from kullback.evaluation import LiveComparison

V = 300
pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def models():
    """A tiny random model and one whose weights are rounded."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=V, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.3,
    )  # fmt: skip
    base = transformers.LlamaForCausalLM(config).eval()
    rounded = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for mine, its in zip(rounded.parameters(), base.parameters(), strict=True):
            mine.copy_((its * 16).round() / 16)
    return base, rounded


def batch(left):
    """Three sequences of 12, 7 and 1 tokens and their mask."""
    import torch

    ids = torch.arange(36).reshape(3, 12) * 7 % V
    mask = torch.ones_like(ids)
    for row, n in ((1, 7), (2, 1)):
        mask[row, slice(0, 12 - n) if left else slice(n, 12)] = 0
    return ids, mask


def by_hand(models, ids):
    """KL and log-probabilities of one whole sequence, in float64: logits at t, token at t + 1."""
    import torch

    with torch.inference_mode():
        both = [m(input_ids=ids[None]).logits[0, :-1].double().numpy() for m in models]
    p, q = (x - np.log(np.exp(x).sum(axis=1, keepdims=True)) for x in both)
    places = np.arange(len(ids) - 1)
    tokens = ids[1:].numpy()
    return (np.exp(p) * (p - q)).sum(axis=1), p[places, tokens], q[places, tokens]


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("labelled", [False, True])
def test_two_models_on_padded_batches(models, left, labelled):
    import torch

    from kullback.integrations.transformers import collecting, next_tokens

    ids, mask = batch(left)
    labels = ids.clone()
    labels[0, 3:6] = -100
    given = {"labels": labels} if labelled else {}
    found = [by_hand(models, ids[i][mask[i] == 1]) for i in range(3)]
    kl, log_p, log_q = (np.concatenate(parts) for parts in zip(*found, strict=True))
    keep = np.ones(len(kl), bool)
    keep[2:5] = not labelled
    base, rounded = models
    with torch.inference_mode():
        live = LiveComparison()
        args = next_tokens(base(ids, mask).logits, ids, mask, **given)
        live.update_both(args.pop("logits"), rounded(ids, mask).logits[:, :-1], **args)
        # the same with a reference that was kept, and a hook
        rows = base(ids, mask).logits[:, :-1][next_tokens(base(ids).logits, ids, mask)["mask"]]
        hooked = LiveComparison(rows)
        with collecting(rounded, hooked.update):
            rounded(input_ids=ids, attention_mask=mask, **given)
        rounded(input_ids=ids)  # no longer collected
    for summary in (live.summary(), hooked.summary()):
        assert summary.tokens == keep.sum() == (14 if labelled else 17)
        assert summary.ignored == (3 if labelled else 0)
        # 1e-5: padding on the left moves positions by rounding only
        assert summary.kl.mean == pytest.approx(kl[keep].mean(), rel=1e-5)
        assert summary.kl.max == pytest.approx(kl[keep].max(), rel=1e-5)
        assert summary.log_ratio.mean == pytest.approx((log_p - log_q)[keep].mean(), rel=1e-4, abs=1e-6)
        assert summary.perplexity_q == pytest.approx(np.exp(-log_q[keep].mean()), rel=1e-5)
        assert summary.kl.groups == 2  # the third sequence predicts nothing


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float8_e4m3fn"])
def test_tensors_of_torch_are_read_where_they_lie(monkeypatch, dtype):
    import torch

    from kullback.evaluation.live import comparison

    rng = np.random.default_rng(0)
    p = torch.tensor(rng.normal(0, 2, (2, 9, V)), dtype=torch.float32)
    q = (p + 0.1 * torch.tensor(rng.normal(size=p.shape), dtype=torch.float32)).to(getattr(torch, dtype))
    seen = []
    real = comparison.compare_rows
    monkeypatch.setattr(comparison, "compare_rows", lambda *a: seen.append(a[2]) or real(*a))
    live = LiveComparison(p.reshape(-1, V))
    live.update(q)
    assert seen[0].ctypes.data == q.data_ptr()
    assert seen[0].dtype.name == dtype
    assert live.summary().kl == kb.compare(p.reshape(-1, V), q.reshape(-1, V)).summary(groups=np.repeat([0, 1], 9)).kl


def test_arrays_of_jax():
    import jax.numpy as jnp

    rng = np.random.default_rng(0)
    p = rng.normal(0, 2, (8, V)).astype(np.float32)
    for dtype in (jnp.float32, jnp.bfloat16):
        q = jnp.asarray(p + 0.1, dtype)
        live = LiveComparison(p)
        live.update(q, tokens=jnp.arange(8))
        assert live.summary().kl == kb.compare(p, np.asarray(q)).summary().kl


def test_what_cannot_be_collected(models):
    import torch

    from kullback.integrations.transformers import collecting

    model, ids = models[0], torch.arange(6)[None]
    live = LiveComparison(np.zeros((5, V)))
    with torch.inference_mode(), collecting(model, live.update):
        with pytest.raises(ValueError, match="without `input_ids`"):
            model(inputs_embeds=torch.zeros(1, 6, 64))
        whole = model(input_ids=ids, use_cache=True)
        assert live.rows == 5
        with pytest.raises(ValueError, match="tokens in its cache"):
            model(input_ids=ids, cache=whole.past_key_values)
    with pytest.raises(TypeError, match="requires grad"):
        live.update(model(ids).logits[:, :-1])
