"""Answers that are too large, and requests that cannot be read, end alone."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.engines import make_request, read_tokens, run, toy
from support.servers import ServerProcess
from toy_engine import toy_facts

from flover.config import EngineConfig, Limits
from flover.engine.queue import Submit
from flover.engine.stats import EngineStats
from flover.errors import FloverError, RequestError
from flover.ipc import wire
from flover.ipc.messages import EngineOutputs, Refused, Start
from flover.request import Delta, FinishReason, Request, SamplingParams
from flover.server.logprob_limits import check_logprobs
from flover.service import process


class BrokenEngine:
    """Takes a request called "fine" and fails on every other."""

    facts = toy_facts()
    submitted: list[str]

    def __init__(self) -> None:
        self.submitted = []

    def submit(self, request: Request, vocabulary: object = None) -> None:
        if request.id != "fine":
            raise ZeroDivisionError("a bug")
        self.submitted.append(request.id)

    def stats(self) -> EngineStats:
        return EngineStats()

    def wait(self, timeout: float) -> bool:
        threading.Event().wait(0.01)
        return False

    def close(self) -> None: ...


def exchange(engine: BrokenEngine, bodies: list[bytes], answers: int) -> list[Any]:
    """What an engine process answers to these bodies, beside its heartbeat."""
    ours, theirs = socket.socketpair()
    worker = process.EngineProcess(theirs, lambda config, progress: engine)  # type: ignore[arg-type, return-value]
    running = threading.Thread(target=worker.run, daemon=True)
    running.start()
    decode, found = wire.from_engine_decoder(), []
    ours.settimeout(10)
    with ours:
        ours.sendall(wire.encode(Start(EngineConfig())))
        wire.receive(ours)  # Ready
        for body in bodies:
            ours.sendall(wire.frame(body))
        while len(found) < answers:
            message = decode(wire.receive(ours) or b"")
            if not isinstance(message, EngineOutputs) or message.deltas:
                found.append(message)
        worker._stopping.set()
        running.join(5)
    return found


def body_of(request: Request) -> bytes:
    return wire.encode(Submit(request))[wire.HEADER_BYTES :]


def test_a_request_that_cannot_be_read_is_refused_and_the_next_one_is_taken() -> None:
    unreadable = msgspec.msgpack.decode(body_of(make_request("bad")))
    unreadable["request"]["params"]["temperature"] = -1.0
    engine = BrokenEngine()
    (answer,) = exchange(engine, [msgspec.msgpack.encode(unreadable), body_of(make_request("fine"))], 1)
    assert isinstance(answer, Refused)
    assert answer.request_id == "bad"
    assert "temperature" in answer.message
    assert engine.submitted == ["fine"]


def test_a_fault_while_a_request_is_taken_in_ends_its_sequences_alone() -> None:
    engine = BrokenEngine()
    bodies = [body_of(make_request("bad", n=3, temperature=1.0)), body_of(make_request("fine"))]
    (answer,) = exchange(engine, bodies, 1)
    assert [(delta.index, delta.finish_reason) for delta in answer.deltas] == [
        (i, FinishReason.ERROR) for i in range(3)
    ]
    assert engine.submitted == ["fine"]


def test_large_news_are_sent_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "SPLIT_BYTES", 100)
    ours, theirs = socket.socketpair()
    deltas = [Delta(request_id=f"r{i}", token_ids=[1] * 90) for i in range(3)]
    with ours, theirs:
        worker = process.EngineProcess(theirs, lambda config, progress: pytest.fail("not needed"))
        worker._deliver(BrokenEngine(), deltas)  # type: ignore[arg-type]
        got = [wire.from_engine_decoder()(wire.receive(ours) or b"") for _ in deltas]
    assert [item.deltas for item in got if isinstance(item, EngineOutputs)] == [[delta] for delta in deltas]


def test_an_answer_too_long_for_a_frame_ends_its_request_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a real process whose frames hold little."""
    code = "from flover.ipc import wire; wire.MAX_FRAME_BYTES = 20_000; import runpy, sys; sys.argv = sys.argv[1:]; "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"

    async def scenario() -> None:
        async with toy("--delay", "0.002", before=code) as engine:
            other = asyncio.create_task(read_tokens(engine.submit(make_request("other", max_tokens=200))))
            big = engine.submit(make_request("big", "x" * 1000, prompt_logprobs=20))
            deltas = [delta async for delta in big]
            assert [delta.finish_reason for delta in deltas] == [FinishReason.ERROR]
            assert "a frame holds at most 20000" in str(deltas[0].error)
            assert len((await other)["other", 0]) == 200
            assert engine.alive

    run(scenario)


# What may be asked for


FACTS = msgspec.structs.replace(toy_facts(), vocab_size=250_000, max_model_len=100_000, pool_tokens=200_000)


@pytest.mark.parametrize(
    ("length", "params", "words"),
    [
        (
            7000,
            {"prompt_logprobs": 20},
            r"^prompt_logprobs \(20\) for 7000 tokens is 147000 .* --max-prompt-logprobs-values",
        ),
        (2, {"prompt_logprobs": -1}, r"^prompt_logprobs \(-1\) for 2 tokens is 500000 "),
        (
            2,
            {"logprobs": -1, "max_tokens": 5},
            r"^logprobs \(-1\) for up to 5 tokens is 1250000 .* --max-logprobs-values",
        ),
        (2, {"logprobs": 20, "max_tokens": None}, r"^logprobs \(20\) for up to 99998 tokens is 2099958 "),
        (
            2,
            {"logprobs": 20, "max_tokens": 1000, "n": 64, "temperature": 1.0},
            r"up to 1000 tokens of 64 sequences is ",
        ),
    ],
)
def test_more_log_probabilities_than_an_answer_can_hold_are_refused(
    length: int, params: dict[str, Any], words: str
) -> None:
    request = Request(id="r", prompt_ids=[1] * length, params=SamplingParams(**params), seed=0)
    with pytest.raises(RequestError, match=words):
        check_logprobs(request, FACTS, Limits())


def test_what_people_ask_for_is_allowed() -> None:
    for length, params in (
        (20_000, {"prompt_logprobs": 5}),
        (60_000, {"prompt_logprobs": 1}),
        (100, {"logprobs": 20, "max_tokens": 30_000}),
        (100, {"logprobs": 20, "max_tokens": 200, "n": 64}),
        (100_000, {}),
    ):
        check_logprobs(
            Request(id="r", prompt_ids=[1] * length, params=SamplingParams(**params), seed=0), FACTS, Limits()
        )


def test_over_http_the_limit_is_named(start: Callable[..., ServerProcess]) -> None:
    server = start(server={"limits": {"max_prompt_logprobs_values": 100}})
    body = {"prompt": "x" * 60, "max_tokens": 1, "prompt_logprobs": 1}
    answer = server.post("/v1/completions", body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt_logprobs")
    assert server.post("/v1/completions", {**body, "prompt_logprobs": 0}).status_code == 200


@given(
    st.builds(
        dict,
        priority=st.integers(-(2**70), 2**70),
        salt=st.text(st.characters(), max_size=5) | st.just("\ud83d"),
        seed=st.integers(-(2**66), 2**66),
        id=st.text(max_size=5) | st.just("\udead"),
    )
)
def test_a_request_passes_the_wire_or_is_refused_before_it(fields: dict[str, Any]) -> None:
    request = Request(prompt_ids=[1], params=SamplingParams(), **fields)
    try:
        frame = wire.encode(Submit(request))
    except FloverError:
        return
    assert wire.to_engine_decoder()(frame[wire.HEADER_BYTES :]) == Submit(request)
