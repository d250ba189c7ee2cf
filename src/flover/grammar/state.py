"""Where one sequence is in its grammar, and which tokens may come next."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import llguidance

Words = npt.NDArray[np.uint32]


class GrammarState:
    """Column `grammar` of a row. The answer's tokens so far are all that it depends on.

    Tokens are only noted by `add`; `build` follows them and makes the mask, in any thread, but in one at a time.
    """

    __slots__ = ("_address", "_answer", "_built", "_eos_ids", "_matcher", "_num_followed", "_renew", "_words", "error")

    def __init__(
        self,
        compiled: llguidance.LLMatcher,
        renew: Callable[[], llguidance.LLMatcher],
        vocab_size: int,
        eos_ids: Container[int],
        output_ids: Sequence[int],
    ) -> None:
        """`compiled` is copied. All its copies share a lexer, and all fail once it has become too complex for one of
        them: then the state goes on with what `renew` makes, of its own."""
        self.error = ""
        """Why no token may come any more, if the grammar has become too complex."""
        self._matcher = compiled.deep_copy()
        self._renew: Callable[[], llguidance.LLMatcher] | None = renew
        self._eos_ids = eos_ids
        self._answer = list(output_ids)
        self._num_followed = 0
        self._words: Words = np.zeros(-(-vocab_size // 32), dtype=np.uint32)
        self._address = self._words.ctypes.data
        self._built = False

    def add(self, token: int) -> None:
        """Note one more token of the answer. After its end the mask stays as it is: what an iteration that was planned
        ahead still chooses is void."""
        if token not in self._eos_ids:
            self._answer.append(token)
            self._built = False

    def build(self) -> None:
        """Make the mask of the next token, unless it is there."""
        if self._built:
            return
        self._built = True
        error = self._follow(self._answer[self._num_followed :])
        self._num_followed = len(self._answer)
        if error and self._renew is not None:
            self._matcher, self._renew = self._renew(), None
            error = self._follow([])
            for token in self._answer:  # mask by mask, as it would have come here alone
                error = error or self._follow([token])
        if error:
            self.error = error
            self._words.fill(0)

    def _follow(self, tokens: list[int]) -> str:
        """Take these tokens and make the mask after them; the error, if there is one."""
        matcher = self._matcher
        taken = matcher.try_consume_tokens(tokens)
        if taken == len(tokens):
            matcher.unsafe_compute_mask_ptr(self._address, self._words.nbytes)  # releases the GIL
        if matcher.is_error():
            return matcher.get_error().partition("\n")[0]
        return f"its grammar does not have token {tokens[taken]}" if taken < len(tokens) else ""

    def words(self) -> Words:
        """The mask: token i is allowed if bit i % 32 of word i // 32 is set. Bits behind the vocabulary say nothing."""
        self.build()
        return self._words


def ids_of(words: Words, vocab_size: int) -> npt.NDArray[np.int64]:
    """The ids that a mask allows."""
    bits = np.unpackbits(words.view(np.uint8), bitorder="little", count=vocab_size)
    return np.flatnonzero(bits)
