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

from support.recipes import FAMILIES, MAX_LEN, RECIPES, VOCAB_SIZE

__all__ = ["FAMILIES", "MAX_LEN", "RECIPES", "VOCAB_SIZE"]


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
    config = json.loads((directory / "config.json").read_text())
    falcon = config["model_type"] == "falcon"
    kind = transformers.AutoModelForImageTextToText if "text_config" in config else transformers.AutoModelForCausalLM
    model = kind.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="sdpa" if falcon else "eager", local_files_only=True
    )
    return model.eval()


@torch.inference_mode()
def reference_logits(directory: Path, token_ids: list[int]) -> torch.Tensor:
    """Logits [T, vocab] of all positions of one sequence, by transformers."""
    return logits_of(load_reference(directory), token_ids)


@torch.inference_mode()
def logits_of(model: transformers.PreTrainedModel, token_ids: list[int]) -> torch.Tensor:
    """The same by a model that is loaded already."""
    return model(input_ids=torch.tensor([token_ids])).logits[0].float()


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
