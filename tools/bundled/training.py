"""The training loop: a small LLaMA, a time budget, a cosine schedule, and held-out perplexity."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from story_corpus import BOS, EOS
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from bundled.data import PackedStream
from bundled.muon import Muon
from bundled.workers import Team, run_together

CONTEXT = 1024
MATRIX_LR, VECTOR_LR, EMBEDDING_LR = 0.02, 0.003, 0.006
WARMUP, FINAL_LR = 0.03, 0.03
LOG_EVERY = 50


@dataclass(frozen=True)
class TrainingResult:
    """What a training run did."""

    minutes: float
    steps: int
    tokens: int

    @property
    def tokens_per_second(self) -> float:
        """Average training speed."""
        return self.tokens / max(self.minutes * 60, 1e-9)


def make_model(tokenizer: Tokenizer, seed: int) -> LlamaForCausalLM:
    """An untrained model in the Hugging Face LLaMA layout."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        attention_bias=False,
        mlp_bias=False,
        bos_token_id=tokenizer.token_to_id(BOS),
        eos_token_id=tokenizer.token_to_id(EOS),
        pad_token_id=None,
        use_cache=True,
    )
    return LlamaForCausalLM(config)


class _Optimizers:
    """Muon for the hidden matrices, AdamW for the embedding and the norms."""

    def __init__(self, model: LlamaForCausalLM, team: Team) -> None:
        named = list(model.named_parameters())
        embeddings = [value for name, value in named if "embed_tokens" in name]
        matrices = [value for name, value in named if value.ndim == 2 and "embed_tokens" not in name]
        vectors = [value for _, value in named if value.ndim == 1]
        self.muon = Muon(matrices, team)
        self.adam = torch.optim.AdamW(
            [{"params": embeddings, "lr": EMBEDDING_LR}, {"params": vectors, "lr": VECTOR_LR}],
            betas=(0.9, 0.95),
            weight_decay=0.0,
        )
        self.adam_rates = [EMBEDDING_LR, VECTOR_LR]

    def step(self, factor: float) -> None:
        """Apply one update with all learning rates scaled by `factor`."""
        for group, rate in zip(self.adam.param_groups, self.adam_rates, strict=True):
            group["lr"] = rate * factor
        self.adam.step()
        self.muon.step(MATRIX_LR * factor)


def _schedule(progress: float) -> float:
    """Learning-rate factor: linear warm-up, then cosine decay."""
    if progress < WARMUP:
        return max(progress / WARMUP, 0.01)
    done = (progress - WARMUP) / (1 - WARMUP)
    return FINAL_LR + (1 - FINAL_LR) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def _loss(model: LlamaForCausalLM, rows: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=rows[:, :-1], use_cache=False).logits
    return functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


def _average_gradients(model: LlamaForCausalLM, team: Team, facts: list[float]) -> list[float]:
    """Average the gradients over the workers, and a few numbers along with them."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), torch.tensor(facts)])
    team.sum(flat)
    flat /= team.size
    offset = 0
    for gradient in gradients:
        gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient))
        offset += gradient.numel()
    return [float(value) for value in flat[offset:]]


def train(model: LlamaForCausalLM, stream: PackedStream, minutes: float, workers: int) -> TrainingResult:
    """Train until the time is used up; the learning rate follows the clock."""
    results: list[TrainingResult] = []
    run_together(lambda team: results.append(_train_in_team(model, stream, minutes, team)), workers)
    return results[0]


def _train_in_team(model: LlamaForCausalLM, stream: PackedStream, minutes: float, team: Team) -> TrainingResult:
    torch.set_num_threads(1)
    optimizers = _Optimizers(model, team)
    model.train()
    tokens, step, smoothed, progress = 0, 0, math.nan, 0.0
    began = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=team.rank > 0) as bar:
        task = bar.add_task("training", total=1.0)
        for rows in stream.batches(team.rank, team.size):
            loss = _loss(model, rows)
            loss.backward()  # type: ignore[no-untyped-call]
            elapsed = time.monotonic() - began
            progress, mean_loss = _average_gradients(model, team, [elapsed / (minutes * 60), loss.item()])
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizers.step(_schedule(progress))
            model.zero_grad(set_to_none=True)
            tokens += rows[:, 1:].numel() * team.size
            step += 1
            smoothed = mean_loss if math.isnan(smoothed) else 0.95 * smoothed + 0.05 * mean_loss
            speed = tokens / (time.monotonic() - began)
            bar.update(task, completed=progress, description=f"loss {smoothed:.3f}  {speed:,.0f} tok/s")
            if step % LOG_EVERY == 0 and team.rank == 0 and not bar.console.is_terminal:
                print(f"step {step} loss {smoothed:.4f} tokens {tokens:,} {speed:,.0f} tok/s", flush=True)
            if progress >= 1:
                break
    return TrainingResult((time.monotonic() - began) / 60, step, tokens)


@torch.no_grad()
def perplexity(model: LlamaForCausalLM, tokenizer: Tokenizer, documents: list[str]) -> float:
    """Perplexity per token of each document by itself, given BOS and including EOS."""
    model.train(False)
    bos, eos = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
    total, count = 0.0, 0
    for document in documents:
        ids = [bos, *tokenizer.encode(document, add_special_tokens=False).ids, eos][: CONTEXT + 1]
        total += _loss(model, torch.tensor([ids])).item() * (len(ids) - 1)
        count += len(ids) - 1
    return math.exp(total / count)


@torch.no_grad()
def round_to_bfloat16(model: LlamaForCausalLM) -> None:
    """Round every weight to bfloat16 and keep it in float32, to measure what the saved file gives."""
    for parameter in model.parameters():
        parameter.copy_(parameter.bfloat16().float())
