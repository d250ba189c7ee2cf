"""Tiny random checkpoints of every family, written by transformers, and transformers' own answers for them.

Weights are drawn wider than transformers draws them: with its std of 0.02 every logit is nearly the same and a wrong
attention would pass any tolerance. It knows nothing of Flover.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

VOCAB_SIZE = 300
MAX_LEN = 512

_COMMON = {"vocab_size": VOCAB_SIZE, "eos_token_id": None, "bos_token_id": None}
_LLAMA = {
    **_COMMON,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "max_position_embeddings": MAX_LEN,
}
_EXPERTS = {"num_experts": 6, "num_experts_per_tok": 3, "pad_token_id": None}
_LOCAL_EXPERTS = {"num_local_experts": 6, "num_experts_per_tok": 3, "pad_token_id": None}
_GRANITE = {
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.3,
    "attention_multiplier": 0.5,
    "logits_scaling": 1.7,
    "pad_token_id": None,
}
_GPT = {**_COMMON, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": MAX_LEN}
_NEOX = {key: value for key, value in _LLAMA.items() if key != "num_key_value_heads"}

RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", _LLAMA),
    "mistral": ("MistralForCausalLM", {**_LLAMA, "sliding_window": 16, "head_dim": 16}),
    "qwen2": ("Qwen2ForCausalLM", {**_LLAMA, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3ForCausalLM", {**_LLAMA, "head_dim": 16}),
    "gpt2": ("GPT2LMHeadModel", _GPT),
    "gptj": ("GPTJForCausalLM", {**_GPT, "rotary_dim": 4}),
    "gpt_neox": ("GPTNeoXForCausalLM", {**_NEOX, "rotary_pct": 0.5}),
    "qwen2_moe": (
        "Qwen2MoeForCausalLM",
        {
            **_LLAMA,
            **_EXPERTS,
            "moe_intermediate_size": 48,
            "shared_expert_intermediate_size": 64,
            "mlp_only_layers": [1],
        },
    ),
}
FAMILIES = tuple(RECIPES)
"""One name for every wiring of the decoder but the last: a parameter for tests that must hold for all of them."""

RECIPES |= {
    "phi": ("PhiForCausalLM", {**_LLAMA, "partial_rotary_factor": 0.5, "head_dim": 12}),
    "phi3": ("Phi3ForCausalLM", {**_LLAMA, "pad_token_id": None, "sliding_window": 16}),
    "stablelm": ("StableLmForCausalLM", {**_LLAMA, "partial_rotary_factor": 0.5, "use_qkv_bias": True}),
    "starcoder2": ("Starcoder2ForCausalLM", {**_LLAMA, "sliding_window": 16}),
    "ministral3": (
        "Ministral3ForCausalLM",
        {
            **_LLAMA,
            "head_dim": 16,
            "pad_token_id": None,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e6,
                "factor": 16.0,
                "original_max_position_embeddings": 16,
                "max_position_embeddings": MAX_LEN,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "llama_4_scaling_beta": 0.25,
            },
        },
    ),
    "seed_oss": ("SeedOssForCausalLM", {**_LLAMA, "head_dim": 16, "attention_out_bias": True, "mlp_bias": True}),
    "smollm3": ("SmolLM3ForCausalLM", {**_LLAMA, "num_hidden_layers": 4, "pad_token_id": None}),
    "glm": ("GlmForCausalLM", {**_LLAMA, "head_dim": 16, "pad_token_id": None}),
    "glm4": ("Glm4ForCausalLM", {**_LLAMA, "head_dim": 16, "pad_token_id": None, "eos_token_id": 0}),
    "hunyuan": (
        "HunYuanDenseV1ForCausalLM",
        {
            **_LLAMA,
            "head_dim": 12,
            "rope_parameters": {"rope_type": "dynamic", "alpha": 50.0, "factor": 1.0, "rope_theta": 10000.0},
        },
    ),
    "helium": ("HeliumForCausalLM", {**_LLAMA, "head_dim": 12, "pad_token_id": None}),
    "ernie4_5": ("Ernie4_5ForCausalLM", {**_LLAMA, "head_dim": 12, "use_bias": True, "pad_token_id": None}),
    "cohere": ("CohereForCausalLM", {**_LLAMA, "pad_token_id": None}),
    "cohere2": ("Cohere2ForCausalLM", {**_LLAMA, "num_hidden_layers": 4, "sliding_window": 16, "pad_token_id": None}),
    "exaone4": ("Exaone4ForCausalLM", {**_LLAMA, "num_hidden_layers": 4, "sliding_window": 16}),
    "granite": ("GraniteForCausalLM", {**_LLAMA, **_GRANITE}),
    "granitemoe": ("GraniteMoeForCausalLM", {**_LLAMA, **_LOCAL_EXPERTS, **_GRANITE}),
    "granitemoeshared": (
        "GraniteMoeSharedForCausalLM",
        {**_LLAMA, **_LOCAL_EXPERTS, **_GRANITE, "shared_intermediate_size": 56},
    ),
    "gpt_oss": (
        "GptOssForCausalLM",
        {
            **_LLAMA,
            **_LOCAL_EXPERTS,
            "head_dim": 16,
            "sliding_window": 16,
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "rope_theta": 150000.0,
                "original_max_position_embeddings": 128,
                "truncate": False,
            },
        },
    ),
    "olmoe": ("OlmoeForCausalLM", {**_LLAMA, **_EXPERTS}),
    "gemma": ("GemmaForCausalLM", {**_LLAMA, "head_dim": 16, "pad_token_id": None}),
    "gemma2": (
        "Gemma2ForCausalLM",
        {
            **_LLAMA,
            "head_dim": 16,
            "query_pre_attn_scalar": 24,
            "sliding_window": 16,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
            "pad_token_id": None,
        },
    ),
    "cwm": (
        "CwmForCausalLM",
        {**_LLAMA, "head_dim": 16, "num_hidden_layers": 4, "sliding_window": 16, "bos_token_id": 0},
    ),
    "gpt_bigcode": ("GPTBigCodeForCausalLM", _GPT),
    "gpt_neo": (
        "GPTNeoForCausalLM",
        {
            **_COMMON,
            "hidden_size": 48,
            "num_layers": 4,
            "num_heads": 4,
            "max_position_embeddings": MAX_LEN,
            "attention_types": [[["global", "local"], 2]],
            "window_size": 16,
        },
    ),
    "codegen": ("CodeGenForCausalLM", {**_GPT, "rotary_dim": 4}),
    "opt": ("OPTForCausalLM", {**_NEOX, "ffn_dim": 80, "word_embed_proj_dim": 48, "pad_token_id": None}),
    "bloom": ("BloomForCausalLM", {**_COMMON, "hidden_size": 48, "n_layer": 2, "n_head": 4}),
    "mpt": ("MptForCausalLM", {**_COMMON, "d_model": 48, "n_layers": 2, "n_heads": 4, "max_seq_len": MAX_LEN}),
    "falcon": ("FalconForCausalLM", {**_NEOX, "ffn_hidden_size": 80}),
    "olmo": ("OlmoForCausalLM", {**_LLAMA, "pad_token_id": None}),
    "olmo2": ("Olmo2ForCausalLM", {**_LLAMA, "pad_token_id": None}),
    "olmo3": (
        "Olmo3ForCausalLM",
        {
            **_LLAMA,
            "num_hidden_layers": 4,
            "sliding_window": 16,
            "rope_parameters": {
                "full_attention": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "rope_theta": 5e5,
                    "original_max_position_embeddings": 128,
                },
                "sliding_attention": {"rope_type": "default", "rope_theta": 5e5},
            },
            "pad_token_id": None,
        },
    ),
    "arcee": ("ArceeForCausalLM", {**_LLAMA, "head_dim": 16, "mlp_bias": True, "attention_bias": True}),
    "nemotron": ("NemotronForCausalLM", {**_LLAMA, "partial_rotary_factor": 0.5, "mlp_bias": True}),
    "mixtral": ("MixtralForCausalLM", {**_LLAMA, **_LOCAL_EXPERTS}),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM",
        {**_LLAMA, **_EXPERTS, "head_dim": 16, "moe_intermediate_size": 48, "norm_topk_prob": True},
    ),
    "gemma3": (
        "Gemma3ForCausalLM",
        {
            **_LLAMA,
            "head_dim": 16,
            "num_hidden_layers": 4,
            "query_pre_attn_scalar": 24,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        },
    ),
}


def make_checkpoint(
    directory: Path,
    family: str = "llama",
    *,
    seed: int = 0,
    shard_size: str = "5GB",
    tokenizer: bool = False,
    **changes: Any,
) -> Path:
    """Write a random float32 checkpoint of `family` into `directory` and return the directory.

    `changes` override fields of the family's config, under the names of its transformers config class.
    `shard_size` such as "20KB" splits the weights into files with an index. `tokenizer` adds a byte-level
    tokenizer (ids 0-255 are bytes, 256 is "<|end|>") and a chat template.
    """
    class_name, fields = RECIPES[family]
    model_class = getattr(transformers, class_name)
    config = model_class.config_class(**{**fields, **changes})
    model = model_class(config)
    _draw_weights(model, seed)
    model.save_pretrained(directory, max_shard_size=shard_size)
    if tokenizer:
        write_tokenizer(directory)
    return directory


def _draw_weights(model: torch.nn.Module, seed: int) -> None:
    """Norms near 1, biases visibly not 0, matrices that keep the scale of what goes through them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.copy_(0.2 * noise if name.endswith("bias") else 1 + 0.2 * noise)
            else:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5 * 1.5)


def write_tokenizer(directory: Path) -> None:
    """A byte-level tokenizer without merges: one token per byte of UTF-8, and "<|end|>" as end of sequence."""
    alphabet = _byte_alphabet()
    vocabulary = {character: byte for byte, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.save(str(directory / "tokenizer.json"))
    template = (
        "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    settings = {"eos_token": "<|end|>", "chat_template": template, "tokenizer_class": "PreTrainedTokenizerFast"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


def _byte_alphabet() -> list[str]:
    """The printable stand-in of every byte, as byte-level BPE has used them since GPT-2."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def load_reference(directory: Path) -> transformers.PreTrainedModel:
    """The checkpoint as transformers runs it: float32, eager attention, no dropout. Falcon's eager attention adds ALiBi
    twice (transformers 5.23), so that is computed by torch's own."""
    falcon = json.loads((directory / "config.json").read_text())["model_type"] == "falcon"
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="sdpa" if falcon else "eager", local_files_only=True
    )
    return model.eval()


@torch.inference_mode()
def reference_logits(directory: Path, token_ids: list[int]) -> torch.Tensor:
    """Logits [T, vocab] of all positions of one sequence, by transformers."""
    output = load_reference(directory)(input_ids=torch.tensor([token_ids]))
    return output.logits[0].float()


@torch.inference_mode()
def reference_greedy(directory: Path, prompt_ids: list[int], num_tokens: int) -> list[int]:
    """The `num_tokens` most likely next tokens, one after another, by transformers' generate."""
    model = load_reference(directory)
    prompt = torch.tensor([prompt_ids])
    output = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=num_tokens,
        min_new_tokens=num_tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return output[0, len(prompt_ids) :].tolist()


def random_prompt(seed: int, length: int, vocab_size: int = VOCAB_SIZE) -> list[int]:
    """`length` token ids drawn from the whole vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocab_size, (length,), generator=generator).tolist()
