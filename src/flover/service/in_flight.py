"""How an open request stands: what of it has come, so that another engine can go on where a dead one stopped.

A request's tokens depend on nothing but the request (ARCHITECTURE.md, "CPU kernels"). Computed again from the start,
they are the same; what the reader has had already is compared and left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from flover.errors import EngineError
from flover.request import Delta, FinishReason, Request
from flover.service.streams import DeltaStream, Mailbox

MOST_BEGINNINGS = 2
"""Engines that one request is given to: it may be what they die of."""


@dataclass(slots=True)
class _Sequence:
    tokens: list[int] = field(default_factory=list)  # all that the reader has had
    again: int = 0  # of these, how many the present engine has computed
    ended: bool = False
    cancelled: bool = False


class Standing:
    """One open request, whoever computes it, and the mailbox of its reader."""

    def __init__(self, request: Request, mailbox: Mailbox) -> None:
        self.request = request
        self.mailbox = mailbox
        self.beginnings = 0
        self._sequences = [_Sequence() for _ in range(request.params.n)]
        self._prompt_told = False

    def begin(self) -> list[int]:
        """An engine computes it from the start. Returns the sequences that nobody wants any more: they are to be
        cancelled in it."""
        self.beginnings += 1
        for sequence in self._sequences:
            sequence.again = 0
        return [index for index, each in enumerate(self._sequences) if each.cancelled or each.ended]

    @property
    def may_begin_again(self) -> bool:
        """Whether another engine should try."""
        return self.beginnings < MOST_BEGINNINGS and self.request.id in self.mailbox.unfinished

    def cancel(self, index: int | None) -> None:
        """Nobody wants this sequence any more (None: all of them)."""
        for sequence in self._sequences if index is None else self._sequences[index : index + 1]:
            sequence.cancelled = True

    def take(self, delta: Delta) -> Delta | None:
        """What of the present engine's news is news to the reader. Raises `EngineError` if the engine computed
        something else than the one before."""
        sequence = self._sequences[delta.index]
        if sequence.ended:
            return None
        repeated = min(len(sequence.tokens) - sequence.again, len(delta.token_ids))
        if repeated or sequence.again < len(sequence.tokens):
            self._compare(sequence, delta, repeated)
            if repeated == len(delta.token_ids) and delta.finish_reason is None:
                return None
            delta = _without(delta, repeated)
        if delta.prompt_logprobs is not None:
            if self._prompt_told:
                delta = msgspec.structs.replace(delta, prompt_logprobs=None)
            self._prompt_told = True
        sequence.tokens += delta.token_ids
        sequence.again = len(sequence.tokens)
        sequence.ended = delta.finish_reason is not None
        return delta

    def _compare(self, sequence: _Sequence, delta: Delta, repeated: int) -> None:
        first = sequence.again
        sequence.again += repeated
        if delta.token_ids[:repeated] != sequence.tokens[first : sequence.again]:
            raise EngineError("the engine died, and the next one computed other tokens for the same request")
        ends_early = delta.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
        if ends_early and sequence.again < len(sequence.tokens):
            raise EngineError("the engine died, and the next one ended the same request earlier")


def _without(delta: Delta, count: int) -> Delta:
    """A delta without its first tokens."""
    logprobs = None if delta.logprobs is None else delta.logprobs[count:]
    return msgspec.structs.replace(delta, token_ids=delta.token_ids[count:], logprobs=logprobs)


def open_stream(
    requests: Sequence[Request], loop: asyncio.AbstractEventLoop, abandon: Callable[[Mailbox], None]
) -> tuple[list[Standing], DeltaStream]:
    """Requests that nobody computes yet, and the one stream that their reader gets. `abandon` is called in `loop` when
    the stream is closed or forgotten."""
    mailbox = Mailbox({request.id: request.params.n for request in requests})
    stream = DeltaStream(mailbox, abandon)
    weakref.finalize(stream, _abandon_later, loop, abandon, mailbox).atexit = False
    return [Standing(request, mailbox) for request in requests], stream


def _abandon_later(loop: asyncio.AbstractEventLoop, abandon: Callable[[Mailbox], None], mailbox: Mailbox) -> None:
    """The garbage collector runs in any thread; the reader lives in one."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(abandon, mailbox)
