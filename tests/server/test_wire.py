"""Frames between the server and the engine: what passes, what does not, and how long they may be."""

from __future__ import annotations

import socket

import pytest
from toy_engine import toy_facts

from flover.config import EngineConfig
from flover.engine.queue import Cancel, Submit
from flover.engine.stats import EngineStats
from flover.ipc import wire
from flover.ipc.messages import EngineOutputs, Loading, Ready, Start, Stop
from flover.request import Delta, FinishReason, Request, SamplingParams, TokenLogprobs
from flover.service import process


def make_request(**params: object) -> Request:
    sampling = SamplingParams(**{"temperature": 0.0, "max_tokens": 5, **params})  # type: ignore[arg-type]
    return Request(id="r", prompt_ids=[97, 98], params=sampling, seed=0)


def test_every_message_survives_the_wire() -> None:
    request = make_request(logit_bias={3: -1.5}, stop=["x"], logprobs=2)
    entry = TokenLogprobs([1, 2], [-0.5, float("-inf")], [1, 2])
    delta = Delta(request_id="r", token_ids=[1], logprobs=[entry], prompt_logprobs=[None, entry])
    to_engine = [Start(EngineConfig(model="m", num_threads=3)), Submit(request), Cancel("r", 2), Stop()]
    from_engine = [Loading(1, 2), Ready(toy_facts()), EngineOutputs([delta], EngineStats(finished={"stop": 3}))]
    for messages, decode in ((to_engine, wire.to_engine_decoder()), (from_engine, wire.from_engine_decoder())):
        for message in messages:
            frame = wire.encode(message)  # type: ignore[arg-type]
            assert wire.body_length(frame[:4]) == len(frame) - 4
            assert decode(frame[4:]) == message


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", b"\x80", b"\x81\xa4type\xa5pickl", b"\x81\xa4type\xa5ready", b"\x91" * 9999]
)
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.from_engine_decoder()(body)


def test_a_request_with_bad_parameters_does_not_pass_the_wire() -> None:
    frame = wire.encode(Submit(make_request())).replace(
        b"\xabtemperature\xcb" + bytes(8), b"\xabtemperature\xcb\xff" + bytes(7)
    )
    with pytest.raises(wire.WireError, match="temperature"):
        wire.to_engine_decoder()(frame[4:])


def test_an_announced_length_is_checked_before_it_is_allocated() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"\xff\xff\xff\xff")
        with pytest.raises(wire.WireError, match="limit"):
            wire.receive(theirs)


def test_a_stream_that_ends_inside_a_frame_is_over() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.sendall(wire.encode(Stop())[:-1])
        ours.close()
        assert wire.receive(theirs) is None


def test_news_too_long_for_one_frame_are_sent_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The delta that does not even fit alone ends its own sequence and no other."""
    monkeypatch.setattr(wire, "MAX_FRAME_BYTES", 1000)
    ours, theirs = socket.socketpair()

    class Canceller:
        cancelled: list[tuple[str, int | None]] = []

        def cancel(self, request_id: str, index: int | None = None) -> None:
            self.cancelled.append((request_id, index))

        def stats(self) -> EngineStats:
            return EngineStats()

    small = [Delta(request_id=f"small{i}", token_ids=[1] * 200) for i in range(2)]
    deltas = [small[0], Delta(request_id="big", index=1, token_ids=[1] * 2000), small[1]]
    engine = Canceller()
    with ours, theirs:
        worker = process.EngineProcess(theirs, lambda config, progress: pytest.fail("not needed"))
        worker._deliver(engine, deltas)  # type: ignore[arg-type]
        messages = [wire.from_engine_decoder()(wire.receive(ours) or b"") for _ in deltas]
    received = [item.deltas[0] for item in messages if isinstance(item, EngineOutputs)]
    assert [received[0], received[2]] == small
    assert (received[1].request_id, received[1].finish_reason) == ("big", FinishReason.ERROR)
    assert engine.cancelled == [("big", 1)]
