"""What lies between the last hidden states and the logits, by model type: as transformers' modelling code has it.

Only model types are here for which tests rebuild the logits of a random model. Where a config.json leaves a value out,
the default of transformers' configuration class holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Family:
    """How the models of one type end.

    Attributes
    ----------
    norm : {"RMSNorm", "RMSNorm (1 + w)", "LayerNorm"}
        The last normalisation.
    eps : tuple of str and float
        Name in config.json and default of what it adds to the mean square or variance.
    tied : bool
        Whether the embeddings are the output weights where config.json does not say.
    softcap : bool
        Whether `final_logit_softcapping` bounds the logits: cap * tanh(logits / cap).
    cap : float or None
        Its default.
    scale : tuple of str, float and bool, optional
        Name and default of what logits are multiplied by; divided, if the last is True.
    norm_names, embeddings : tuple of str
        Names of the modules, under one of `PREFIXES`.
    """

    norm: str
    eps: tuple[str, float]
    tied: bool = False
    softcap: bool = False
    cap: float | None = None
    scale: tuple[str, float, bool] | None = None
    norm_names: tuple[str, ...] = ("norm",)
    embeddings: tuple[str, ...] = ("embed_tokens",)


PREFIXES = ("", "model.", "transformer.", "gpt_neox.", "model.language_model.", "language_model.model.")
HEADS = ("lm_head", "embed_out", "language_model.lm_head")

_RMS = Family("RMSNorm", ("rms_norm_eps", 1e-6))
_RMS_5 = Family("RMSNorm", ("rms_norm_eps", 1e-5))
_GEMMA = Family("RMSNorm (1 + w)", ("rms_norm_eps", 1e-6), tied=True)
_LAYER = Family("LayerNorm", ("layer_norm_eps", 1e-5))
_COHERE = replace(_LAYER, tied=True, scale=("logit_scale", 0.0625, False))
_GRANITE = replace(_RMS, scale=("logits_scaling", 1.0, True))

FAMILIES = {
    "llama": _RMS,
    "mistral": _RMS,
    "ministral": _RMS,
    "mixtral": _RMS_5,
    "qwen2": _RMS,
    "qwen2_moe": _RMS,
    "qwen3": _RMS,
    "qwen3_moe": _RMS,
    "qwen3_next": replace(_GEMMA, tied=False),
    "phi3": _RMS_5,
    "olmo2": _RMS_5,
    "olmo3": _RMS_5,
    "smollm3": replace(_RMS, tied=True),
    "gpt_oss": _RMS_5,
    "deepseek_v3": _RMS,
    "gemma": _GEMMA,
    "gemma2": replace(_GEMMA, softcap=True, cap=30.0),
    "gemma3_text": replace(_GEMMA, softcap=True),
    "gemma3": _GEMMA,  # with images: its forward pass has no soft-cap
    "gpt2": Family("LayerNorm", ("layer_norm_epsilon", 1e-5), tied=True, norm_names=("ln_f",), embeddings=("wte",)),
    "gpt_neox": replace(_LAYER, norm_names=("final_layer_norm",), embeddings=("embed_in",)),
    "phi": replace(_LAYER, norm_names=("final_layernorm",)),
    "stablelm": _LAYER,
    "starcoder2": Family("LayerNorm", ("norm_epsilon", 1e-5), tied=True),
    "cohere": _COHERE,
    "cohere2": _COHERE,
    "granite": _GRANITE,
    "granitemoe": _GRANITE,
}
