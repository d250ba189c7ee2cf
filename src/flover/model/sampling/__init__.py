"""Choosing the next token of every row at once. Plain torch on the logits, numpy on the rows' parameters."""

from flover.model.sampling.logprobs import prompt_logprobs, token_logprobs
from flover.model.sampling.sampler import Sampled, sample
from flover.model.sampling.state import advance, sampling_values

__all__ = ["Sampled", "advance", "prompt_logprobs", "sample", "sampling_values", "token_logprobs"]
