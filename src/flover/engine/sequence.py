"""One sequence: what the engine knows of a request's i-th continuation while it is open.

A sequence is *waiting* (no row), *pre-processing* (its known tokens are being computed, in chunks), or
*generating*: ready for fusion, one token in every iteration.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from flover.prefix.entry import Entry
from flover.request import FinishReason, Request, TokenLogprobs
from flover.speculation import Drafter

Ending = tuple[FinishReason | None, int | None]
"""Why a sequence ends, and the stop token id that did it if one did."""
NOT_ENDED: Ending = (None, None)
MAX_PREEMPTIONS = 8
"""After so many preemptions a sequence is admitted only with all the pages it can ever need, and then stays."""


@dataclass(slots=True, eq=False)
class Sequence:
    """Mutable state of one sequence. `number` counts sequences in order of arrival."""

    number: int
    request: Request
    index: int
    token_ids: list[int]
    """Prompt and output together."""
    arrived: float = 0.0  # in seconds on the engine's clock
    row: int | None = None
    computed: int = 0
    """How many of `token_ids` have their keys and values in `pages`."""
    computing: int = 0
    """Tokens after these that iterations in flight compute."""
    sampling: int = 0
    """Tokens that iterations in flight sample: there, and not known yet."""
    pages: list[int] = field(default_factory=list)
    chain: list[Entry] = field(default_factory=list)
    """Prefix entries that describe the first full pages."""
    cached_tokens: int | None = None  # of the prompt, when it was admitted for the first time
    preemptions: int = 0
    faults: int = 0
    """Iterations that raised while this sequence was alone in them."""
    prompt_logprobs: list[TokenLogprobs | None] = field(default_factory=list)
    drafter: Drafter | None = None
    """What proposes its next tokens, with speculation; it knows the pages, and goes with them."""

    @property
    def prompt_len(self) -> int:
        return len(self.request.prompt_ids)

    @property
    def num_outputs(self) -> int:
        return len(self.token_ids) - self.prompt_len

    @property
    def output_ids(self) -> list[int]:
        return self.token_ids[self.prompt_len :]

    @property
    def length(self) -> int:
        """Tokens, those included that iterations in flight sample."""
        return len(self.token_ids) + self.sampling

    @property
    def position(self) -> int:
        """Where the next iteration begins: what is before is computed, or iterations in flight compute it."""
        return self.computed + self.computing

    @property
    def pending(self) -> int:
        """Tokens that no iteration computes yet; 1 when generating."""
        return 0 if self._last_is_sampled else self.length - self.position

    @property
    def ready(self) -> bool:
        """Ready for fusion: in a row, and its next token needs only its last one."""
        length = len(self.token_ids) + self.sampling  # asked of every row in every iteration
        one_left = length - self.computed - self.computing == 1 and length > len(self.request.prompt_ids)
        return one_left and self.row is not None and not (self.sampling and self._last_is_sampled)

    @property
    def _last_is_sampled(self) -> bool:
        """Whether an iteration in flight samples its last token, whatever it is."""
        return self.sampling > 0 and self.length >= self.max_len

    @property
    def guaranteed(self) -> bool:
        """Preempted so often that it now holds all its pages until it ends."""
        return self.preemptions >= MAX_PREEMPTIONS

    @property
    def max_len(self) -> int:
        """Most tokens that it can reach."""
        max_tokens = self.request.params.max_tokens
        assert max_tokens is not None, "max_tokens is resolved before a request enters the engine"
        return self.prompt_len + max_tokens

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Only the first sequence of a request reports on the prompt, and only once."""
        return self.request.params.prompt_logprobs is not None and self.index == 0 and self.num_outputs == 0

    def ending(self, eos_ids: tuple[int, ...], max_model_len: int) -> Ending:
        """Whether its last token ends it."""
        params, token = self.request.params, self.token_ids[-1]
        num_outputs = len(self.token_ids) - len(self.request.prompt_ids)
        if num_outputs >= params.min_tokens:
            if token in eos_ids and not params.ignore_eos:
                return FinishReason.STOP, None
            if params.stop_token_ids and token in params.stop_token_ids:
                return FinishReason.STOP, token
        if len(self.token_ids) >= self.max_len or len(self.token_ids) >= max_model_len:
            return FinishReason.LENGTH, None
        return NOT_ENDED
