"""Logits rebuilt from hidden states against the models of transformers that they belong to, tiny and random."""

import numpy as np
import pytest
import safetensors.numpy

import kullback as kb
from kullback.evaluation.sources.families import FAMILIES

pytestmark = pytest.mark.integration

VOCAB, WIDTH, LENGTH = 203, 64, 40
SMALL = {
    "vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 16,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "sliding_window": 16,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
           "shared_expert_intermediate_size": 32}  # fmt: skip
OF_TYPE = {
    "gpt2": {"n_embd": WIDTH, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "gpt_neox": {"num_key_value_heads": None},
    "granite": {"logits_scaling": 3.0},
    "granitemoe": {"logits_scaling": 3.0, **EXPERTS},
    "gemma3_text": {"final_logit_softcapping": 5.0},
    "gemma2": {"query_pre_attn_scalar": 16},
    "mixtral": EXPERTS, "qwen2_moe": EXPERTS, "qwen3_moe": EXPERTS, "gpt_oss": EXPERTS,
    "qwen3_next": {**EXPERTS, "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16,
                   "linear_value_head_dim": 16},
    "deepseek_v3": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "q_lora_rank": 16,
                    "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16,
                    "moe_intermediate_size": 32, "num_key_value_heads": 4, "head_dim": 8},
}  # fmt: skip


def tiny(model_type, **more):
    """A random model of a type, whose last normalisation and biases are random too."""
    import torch
    import transformers

    torch.manual_seed(1)
    settings = SMALL | OF_TYPE.get(model_type, {}) | more
    if model_type == "gemma3":
        vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                  "image_size": 28, "patch_size": 14}  # fmt: skip
        config = transformers.Gemma3Config(text_config=SMALL, vision_config=vision, mm_tokens_per_image=4)
        model = transformers.Gemma3ForConditionalGeneration(config)
    else:
        config = transformers.AutoConfig.for_model(model_type, **settings)
        model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, x in model.named_parameters():
            if x.ndim == 1 and "vision" not in name:
                x.add_(0.3 * torch.randn_like(x))
    return model.eval()


def run(model):
    """Tokens, the states before and after the last normalisation, and the logits that the model makes of them."""
    import torch

    family = FAMILIES[model.config.model_type]
    kept = {}
    names = [n for n, _ in model.named_modules() if n.split(".")[-1] in family.norm_names and n.count(".") <= 2]
    (name,) = (n for n in names if "layers" not in n and "vision" not in n and "projector" not in n)
    hook = model.get_submodule(name).register_forward_hook(lambda _, x, y: kept.update(before=x[0], after=y))
    tokens = torch.randint(3, VOCAB, (1, LENGTH))
    with torch.no_grad():
        logits = model(input_ids=tokens, use_cache=False).logits[0]
    hook.remove()
    return tokens[0].numpy(), *(x.detach().reshape(LENGTH, WIDTH).numpy() for x in kept.values()), logits.numpy()


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    made = tiny(request.param)
    made.save_pretrained(folder)
    return folder, *run(made)


def states(path, x, **more):
    safetensors.numpy.save_file({"hidden_states": np.ascontiguousarray(x)} | more, path)
    return path


def near(got, expected):
    """To the rounding of float32 sums of products: of the largest logit, as a small one is a difference of others."""
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_logits_are_the_models_own(model, tmp_path):
    folder, tokens, before, after, logits = model
    three = np.stack([after, 0 * before, before], axis=1)  # vLLM: (T, L, H), the last layer not normalised
    path = states(tmp_path / "raw.safetensors", three, token_ids=tokens.astype(np.int32))
    with kb.open_logits(path, lm_head=folder, norm="model", layer=-1) as source:
        assert source.shape == logits.shape
        near(source.rows(0, LENGTH), logits)
        np.testing.assert_array_equal(source.tokens, [*tokens[1:], -100])
    with kb.open_logits(states(tmp_path / "n.safetensors", after), lm_head=folder, norm="applied") as source:
        near(source.rows(0, LENGTH), logits)
    for wrong, x in (("applied", before), ("model", after)):
        with (
            kb.open_logits(states(tmp_path / "w.safetensors", x), lm_head=folder, norm=wrong) as source,
            pytest.raises(ValueError, match=f'`norm` is "{wrong}", but the hidden states .* gone through this model'),
        ):
            source.rows(0, LENGTH)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_defaults_are_those_of_the_configuration_class(model_type):
    """What a config.json leaves out."""
    import transformers

    family, config = FAMILIES[model_type], transformers.AutoConfig.for_model(model_type)
    text = config.get_text_config()
    assert getattr(text, family.eps[0]) == family.eps[1]
    assert config.tie_word_embeddings == family.tied
    if family.softcap:
        assert text.final_logit_softcapping == family.cap
    if family.scale is not None:
        assert getattr(text, family.scale[0]) == family.scale[1]


def test_weights_in_shards_and_tied_or_not(tmp_path):
    for tied in (True, False):
        folder = tmp_path / f"tied {tied}"
        made = tiny("llama", tie_word_embeddings=tied)
        made.save_pretrained(folder, max_shard_size="20kB")
        assert (folder / "model.safetensors.index.json").exists()
        _, before, _, logits = run(made)
        with kb.open_logits(states(tmp_path / "x.safetensors", before), lm_head=folder, norm="model") as source:
            near(source.rows(0, LENGTH), logits)
            assert source.facts()["lm_head"]["tied"] == tied


def test_a_model_in_bfloat16(tmp_path):
    """Computed in float32 from what is stored: nearer to the exact logits than the model's own."""
    import torch

    made = tiny("qwen3").to(torch.bfloat16)
    made.save_pretrained(tmp_path / "model")
    exact = made.float()
    _, before, _, logits = run(exact)
    with kb.open_logits(states(tmp_path / "x.safetensors", before), lm_head=tmp_path / "model", norm="model") as source:
        near(source.rows(0, LENGTH), logits)
        assert source.facts()["lm_head"]["dtype"] == "bfloat16"
