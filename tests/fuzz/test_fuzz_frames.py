"""Frames between the server and an engine by chance: a message of a closed type, or a `WireError`."""

from __future__ import annotations

import contextlib
import socket

from support.fuzz import Fuzzer

from flover.config import EngineConfig
from flover.engine.queue import Cancel, Submit
from flover.engine.stats import EngineStats
from flover.ipc.messages import EngineOutputs, Start
from flover.ipc.wire import (
    HEADER_BYTES,
    WireError,
    encode,
    from_engine_decoder,
    receive,
    request_id_of,
    to_engine_decoder,
)
from flover.request import Delta, Request, SamplingParams
from flover.structured_outputs import StructuredOutputsParams
from flover.thinking import ThinkingBudget


def test_frames(fuzzer: Fuzzer) -> None:
    params = SamplingParams(
        stop=["a"], logit_bias={1: 2.0}, thinking=ThinkingBudget(tokens=1, start_ids=[1], end_id=2), top_p=0.5
    )
    constrained = SamplingParams(structured_outputs=StructuredOutputsParams(regex="a+"))
    messages = [
        Submit(Request(id="a", prompt_ids=[1, 2, 300], params=params, seed=1)),
        Submit(Request(id="b", prompt_ids=[7], params=constrained, seed=2)),
        Cancel("a", None),
        Start(EngineConfig()),
        EngineOutputs([Delta(request_id="a", token_ids=[1])], EngineStats()),
    ]
    decoders = (to_engine_decoder(), from_engine_decoder())

    def check(data: bytes) -> None:
        body = data[HEADER_BYTES:]
        request_id_of(body)
        for decode in decoders:
            with contextlib.suppress(WireError):
                decode(body)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(data[:4096])
            theirs.close()
            with contextlib.suppress(WireError):
                receive(ours)

    assert fuzzer.run("frames", [encode(message) for message in messages], check, limit=1.0)
