"""The model card, with samples drawn from the saved folder through transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from bundled.training import TrainingResult

TEMPERATURE, TOP_P, SAMPLE_SEED = 0.8, 0.95, 1234
PROMPTS: tuple[str, ...] = (
    "Once upon a time, there was a little fox named",
    "One rainy day, Lily found a tiny frog",
    "Tom was a shy boy. He lived near the forest.",
    "There was going to be a big race.",
    "Hello! My name is",
)
QUESTIONS: tuple[str, ...] = (
    "Hello! What is your name?",
    "What do rabbits eat?",
    "Tell me a short story about a brave little mouse.",
    "Write a short poem about rain.",
    "I am sad.",
)


@dataclass(frozen=True)
class ModelFacts:
    """The numbers the card states."""

    minutes: float
    documents: int
    seed: int
    parameters: int
    corpus_tokens: int
    training: TrainingResult
    perplexity_float32: float
    perplexity_bfloat16: float


def draw_samples(folder: Path) -> list[tuple[str, str]]:
    """A continuation of every prompt and an answer to every question, one seed for each."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    samples = []
    for number, text in enumerate((*PROMPTS, *QUESTIONS)):
        rendered = text
        if text in QUESTIONS:
            rendered = str(
                tokenizer.apply_chat_template(
                    [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
                )
            )
        inputs = tokenizer(
            rendered, return_tensors="pt", return_token_type_ids=False, add_special_tokens=text in PROMPTS
        )
        torch.manual_seed(SAMPLE_SEED + number)
        output = model.generate(  # type: ignore[misc]
            **inputs, do_sample=True, temperature=TEMPERATURE, top_p=TOP_P, top_k=0, max_new_tokens=320
        )
        answer = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        samples.append((text, str(answer)))
    return samples


def _format_sample(number: int, prompt: str, answer: str) -> str:
    is_chat = prompt in QUESTIONS
    quoted = "\n".join(f"> {line}".rstrip() for line in (answer if is_chat else f"**{prompt}**{answer}").split("\n"))
    heading = f"**{number}. Chat, seed {SAMPLE_SEED + number - 1}.** User: {prompt}"
    if not is_chat:
        heading = f"**{number}. Continuation, seed {SAMPLE_SEED + number - 1}.**"
    return f"{heading}\n\n{quoted}\n"


def write_model_card(folder: Path, facts: ModelFacts) -> None:
    """Write `README.md` of the model folder."""
    run = facts.training
    samples = "\n".join(
        _format_sample(number, prompt, answer) for number, (prompt, answer) in enumerate(draw_samples(folder), 1)
    )
    (folder / "README.md").write_text(
        f"""---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---

# flover-tiny

A very small LLaMA-architecture language model that comes with Flover, so that a first run needs no download.
It writes simple children's-story English and answers simple chat messages about the same world. It is made for
trying out and testing the engine, not as a source of knowledge.

| | |
|---|---|
| Parameters | {facts.parameters:,} (embeddings tied) |
| Layout | LLaMA: RMSNorm, rotary positions, grouped-query attention, SwiGLU |
| Context | 1024 tokens |
| Vocabulary | 2048, byte-level BPE; every byte can be written |
| Weights | bfloat16, safetensors |
| Licence | Apache-2.0 |

## Training

- Command: `python tools/train_bundled_model.py --minutes {facts.minutes:g} --documents {facts.documents}`
  (seed {facts.seed})
- Machine class: 2 CPU cores (shared with other work), no GPU; two single-threaded workers; float32
- Training time: {run.minutes:.1f} minutes, {run.steps:,} steps, {run.tokens:,} tokens seen
  ({run.tokens_per_second:,.0f} tokens per second)
- Optimizer: Muon for hidden matrices and AdamW for the rest, warm-up and cosine decay
- Rows of 256 and 512 tokens, and every eighth batch of 1024 tokens; 2048 tokens per step

## Data

All text is made by our own generator, `tools/story_corpus.py`: {facts.documents:,} documents
({facts.corpus_tokens:,} tokens) of stories, chapters, letters, short texts about animals, poems and chats. No other
text was used. `heldout.txt` holds stories made with another seed; none of them occurs in the training text. A line
with only `<|end_of_text|>` separates them.

## Held-out perplexity

Per token, every story by itself, given the begin token and including the end token:

| Weights | Perplexity |
|---|---|
| float32 | {facts.perplexity_float32:.3f} |
| bfloat16 (as saved) | {facts.perplexity_bfloat16:.3f} |

The held-out stories come from the same generator as the training text, so the number says how well the model learned
that small language. It does not compare with models trained on natural text.

## Limits

The model knows only a small world of animals, children, weather and simple things. Its sentences are
mostly grammatical, but it has hardly learned to look back: the name of the hero often changes within a story, and an
answer can be about another animal than the question. It repeats its plots. Facts outside that world are missing or
wrong. It understands only short, simple English.

## Samples

The samples below are unedited: temperature {TEMPERATURE}, top-p {TOP_P}, no top-k, seed as given, drawn with
`transformers` from the saved files in float32. The prompt of a continuation is bold.

{samples}"""
    )
