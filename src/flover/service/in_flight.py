"""Requests in flight: how much of each was delivered, so that another engine can go on where one died.

Where the platform is deterministic (`ModelFacts.deterministic`), a request's tokens depend on nothing but the request
(ARCHITECTURE.md, "CPU kernels"): it is computed again from the start, and the tokens that were delivered already are
compared and left out. Elsewhere other tokens may come out, so the engine gets those that were delivered and continues
after them.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from flover.errors import EngineClosedError, EngineDeadError, EngineError, FloverError
from flover.request import Delta, FinishReason, Request
from flover.service.streams import DeltaStream, Mailbox
from flover.structured_outputs import Vocabulary

MAX_ATTEMPTS = 2
"""Engines that one request is given to: the request may be what they die of."""
NOTHING: Sequence[str] = ()


@dataclass(slots=True)
class _SequenceState:
    delivered: list[int] = field(default_factory=list)  # token ids
    recomputed: int = 0  # of the delivered tokens, how many the present engine has computed
    ended: bool = False
    cancelled: bool = False


class InFlightRequest:
    """One open request and the mailbox of its reader, over the engines that compute it."""

    def __init__(self, request: Request, mailbox: Mailbox, vocabulary: Vocabulary | None = None) -> None:
        """`vocabulary` is what its constraint is applied to, if it has one."""
        self.request = request
        self.mailbox = mailbox
        self.vocabulary = vocabulary
        self.attempts = 0
        self._sequences = [_SequenceState() for _ in range(request.params.n)]
        self._prompt_delivered = False

    def start_attempt(self, deterministic: bool) -> tuple[Request, list[int]]:
        """An engine computes it: the request to send, and the sequences to cancel in it because they ended or were
        cancelled before. `deterministic` is the engine's."""
        self.attempts += 1
        # What has ended is cancelled at once, and has no room for another token.
        kept = [[] if deterministic or each.ended else each.delivered for each in self._sequences]
        for sequence, output_ids in zip(self._sequences, kept, strict=True):
            sequence.recomputed = len(output_ids)
        request = msgspec.structs.replace(self.request, output_ids=kept) if any(kept) else self.request
        return request, [index for index, each in enumerate(self._sequences) if each.cancelled or each.ended]

    @property
    def may_retry(self) -> bool:
        """Whether another engine should try."""
        return self.attempts < MAX_ATTEMPTS and self.request.id in self.mailbox.unfinished

    def cancel(self, index: int | None) -> None:
        """Its reader wants no more of this sequence (None: of all of them)."""
        for sequence in self._sequences if index is None else self._sequences[index : index + 1]:
            sequence.cancelled = True

    def accept(self, delta: Delta) -> Delta | None:
        """What of the present engine's delta was not delivered before, if anything. Raises `EngineError` if the engine
        computed something else than the one before."""
        sequence = self._sequences[delta.index]
        if sequence.ended:
            return None
        repeated = min(len(sequence.delivered) - sequence.recomputed, len(delta.token_ids))
        if repeated or sequence.recomputed < len(sequence.delivered):
            self._compare(sequence, delta, repeated)
            if repeated == len(delta.token_ids) and delta.finish_reason is None:
                return None
            delta = _without_first(delta, repeated)
        if delta.prompt_logprobs is not None:
            if self._prompt_delivered:
                delta = msgspec.structs.replace(delta, prompt_logprobs=None)
            self._prompt_delivered = True
        sequence.delivered += delta.token_ids
        sequence.recomputed = len(sequence.delivered)
        sequence.ended = delta.finish_reason is not None
        return delta

    def _compare(self, sequence: _SequenceState, delta: Delta, repeated: int) -> None:
        first = sequence.recomputed
        sequence.recomputed += repeated
        if delta.token_ids[:repeated] != sequence.delivered[first : sequence.recomputed]:
            raise EngineError("the engine died, and the next one computed other tokens for the same request")
        ends_early = delta.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
        if ends_early and sequence.recomputed < len(sequence.delivered):
            raise EngineError("the engine died, and the next one ended the same request earlier")


def _without_first(delta: Delta, count: int) -> Delta:
    """A delta without its first tokens."""
    logprobs = None if delta.logprobs is None else delta.logprobs[count:]
    return msgspec.structs.replace(delta, token_ids=delta.token_ids[count:], logprobs=logprobs)


class InFlightTable:
    """The requests that one engine computes, by id. Methods that end some of them return the ids of those that the
    engine still computes: they are to be cancelled there."""

    def __init__(self) -> None:
        self._requests: dict[str, InFlightRequest] = {}

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[str]:
        return iter(self._requests)

    def add(self, request: InFlightRequest) -> None:
        """The engine computes this one from now on."""
        self._requests[request.request.id] = request

    def get(self, request_id: str) -> InFlightRequest | None:
        """The request, if it is open."""
        return self._requests.get(request_id)

    def deliver(self, delta: Delta) -> Sequence[str]:
        """Give a delta to its reader."""
        request = self._requests.get(delta.request_id)
        if request is None:
            return NOTHING  # closed by its reader while this delta was under way
        mailbox = request.mailbox
        try:
            fresh = request.accept(delta)
        except EngineError as error:
            mailbox.fail(error)
            return self.drop(mailbox)
        if fresh is None:
            return NOTHING
        mailbox.put(fresh)
        if mailbox.has_ended(delta.request_id):
            del self._requests[delta.request_id]
        return self.drop(mailbox) if mailbox.overflowed else NOTHING

    def refuse(self, request_id: str, error: FloverError) -> Sequence[str]:
        """The engine has refused this request; the stream that it belongs to ends with `error`."""
        request = self._requests.pop(request_id, None)
        if request is None:
            return NOTHING
        request.mailbox.fail(error)
        return self.drop(request.mailbox)

    def drop(self, mailbox: Mailbox) -> Sequence[str]:
        """This mailbox is read no more."""
        return [each for each in mailbox.unfinished if self._requests.pop(each, None) is not None]

    def clear(self) -> list[InFlightRequest]:
        """Take out all of them: the engine is gone."""
        requests, self._requests = list(self._requests.values()), {}
        return requests


def end_of_engine(reason: FloverError) -> EngineError:
    """What a request ends with when its engine has ended for this reason."""
    kind = EngineClosedError if isinstance(reason, EngineClosedError) else EngineDeadError
    return kind(str(reason))


def fail_all(requests: Sequence[InFlightRequest], reason: FloverError) -> None:
    """End the streams of these requests, whose engine has ended for this reason."""
    error = end_of_engine(reason)
    for request in requests:
        request.mailbox.fail(error)


def open_stream(
    requests: Sequence[Request],
    loop: asyncio.AbstractEventLoop,
    abandon: Callable[[Mailbox], None],
    vocabulary: Vocabulary | None = None,
) -> tuple[list[InFlightRequest], DeltaStream]:
    """Requests that no engine computes yet, and the one stream that their reader gets. `abandon` is called in `loop`
    when the stream is closed or garbage collected."""
    mailbox = Mailbox({request.id: request.params.n for request in requests})
    stream = DeltaStream(mailbox, abandon)
    weakref.finalize(stream, _abandon_later, loop, abandon, mailbox).atexit = False
    return [InFlightRequest(request, mailbox, vocabulary) for request in requests], stream


def _abandon_later(loop: asyncio.AbstractEventLoop, abandon: Callable[[Mailbox], None], mailbox: Mailbox) -> None:
    """The garbage collector runs in any thread, the reader in one."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(abandon, mailbox)
