"""Compiles constraints for one vocabulary. Threads may share a compiler."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import NoReturn

import llguidance
import numpy as np

from flover.errors import RequestError
from flover.grammar.source import grammar_of
from flover.grammar.state import GrammarState, ids_of
from flover.structured_outputs import FIELD, StructuredOutputsParams, Vocabulary

MAX_KEPT = 256
"""Compiled constraints that are kept; the least recently used goes first."""
MAX_REASON_CHARACTERS = 400
TRIAL_TOKENS = 32
"""A constraint that fails so soon is refused at the door."""
_STRIDE = 7919
"""Chooses among the tokens that a mask allows."""
_PLACE = re.compile(r"^(at )?\d+\(\d+\): ")
"""Where in the grammar that was made of a constraint: not a place that its author knows."""
LIMITS = llguidance.LLParserLimits(
    max_items_in_row=20_000,  # an object of 1,000 optional properties needs 4,000
    step_lexer_fuel=100_000,  # about 7 ms of a mask
    step_max_items=50_000,  # about 3 ms
    verbose_errors=False,
)
"""What compiling and each mask may cost; beyond it the constraint or the request that has it fails."""
_SLICES = [*llguidance.LLTokenizer.general_slices(), "[a-z]+", "[a-zA-Z]+"]
"""Tokens that a grammar often allows all together, which then need not be looked at one by one: llguidance's own, which
are parts of JSON's strings, and words (measured with 262,144 tokens: a mask of words takes 0.6 times as long)."""


class Compiler:
    """`vocab_size` is the width of the logits; `eos_ids` are what ends an answer, where the grammar accepts it."""

    def __init__(self, vocabulary: Vocabulary, vocab_size: int, eos_ids: Sequence[int]) -> None:
        self._vocab_size = vocab_size
        self._eos_ids = list(eos_ids)
        wrapper = llguidance.TokenizerWrapper(_Tokens(vocabulary, vocab_size, eos_ids[0]))
        self._tokenizer = llguidance.LLTokenizer(wrapper, n_vocab=vocab_size, eos_token=list(eos_ids), slices=_SLICES)
        wrapper.tokens = wrapper._gtokenizer.tokens = ()  # read once, and kept as long as the wrapper
        self._kept: OrderedDict[bytes, llguidance.LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def has(self, params: StructuredOutputsParams) -> bool:
        """Whether a constraint is compiled."""
        with self._lock:
            return params.key in self._kept

    def prepare(self, params: StructuredOutputsParams) -> None:
        """Compile a constraint, unless it is there. Raises `RequestError` if it cannot be compiled."""
        self._get(params)

    def try_out(self, params: StructuredOutputsParams) -> None:
        """Compile a constraint and follow it for a few tokens, and keep nothing. Raises `RequestError`."""
        state = self._new_state(self._compile(params), params, ())
        for turn in range(TRIAL_TOKENS):
            found = ids_of(state.words(), self._vocab_size)
            if not len(found):
                nothing = not state.error or state.error.startswith("NoExtension")
                raise refusal(params, "no text satisfies it" if nothing else state.error)
            going_on = found[~np.isin(found, self._eos_ids)]
            if not len(going_on):
                return
            state.add(int(going_on[(turn + 1) * _STRIDE % len(going_on)]))

    def state(self, params: StructuredOutputsParams, output_ids: Sequence[int]) -> GrammarState:
        """The state of a sequence that has these tokens of its answer."""
        return self._new_state(self._get(params), params, output_ids)

    def _new_state(
        self, compiled: llguidance.LLMatcher, params: StructuredOutputsParams, output_ids: Sequence[int]
    ) -> GrammarState:
        return GrammarState(
            compiled, partial(self._renew, compiled, params), self._vocab_size, self._eos_ids, output_ids
        )

    def _renew(self, spent: llguidance.LLMatcher, params: StructuredOutputsParams) -> llguidance.LLMatcher:
        """One that shares nothing; `spent` is kept for nobody else."""
        key = params.key
        with self._lock:
            if self._kept.get(key) is spent:
                del self._kept[key]
        return self._compile(params)

    def _get(self, params: StructuredOutputsParams) -> llguidance.LLMatcher:
        key = params.key
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
        made = self._compile(params)
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        return made

    def _compile(self, params: StructuredOutputsParams) -> llguidance.LLMatcher:
        made = llguidance.LLMatcher(self._tokenizer, grammar_of(params), log_level=0, limits=LIMITS)
        if made.is_error():
            raise refusal(params, made.get_error())
        return made


def refusal(params: StructuredOutputsParams, reason: str) -> RequestError:
    """The error about a constraint that cannot be compiled, for this reason."""
    lines = (line.strip() for line in reason.splitlines())
    said = " ".join(line for line in lines if line and "|" not in line and not line.startswith("^"))
    said = _PLACE.sub("", said)
    return RequestError(f"{FIELD}.{params.kind} cannot be compiled: {said[:MAX_REASON_CHARACTERS]}", param=FIELD)


class _Tokens:
    """What llguidance asks of a tokenizer."""

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary, vocab_size: int, eos_id: int) -> None:
        missing = vocab_size - len(vocabulary.tokens)
        self.tokens = [*vocabulary.tokens[:vocab_size], *[b""] * max(missing, 0)]
        self.special_token_ids = vocabulary.special_ids
        self.eos_token_id = eos_id

    def __call__(self, text: str) -> NoReturn:
        """Only a grammar that forces tokens needs it."""
        raise NotImplementedError("constraints are compiled without a tokenizer")
