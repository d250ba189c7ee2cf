"""Compiles constraints to find out whether they can be: `python -m flover.service.grammar_process FD`.

A process of its own, since a hostile grammar can take all time, memory or stack that there is. It has less of each
than an engine: what ends it never reaches one. It serves one server over the inherited socket FD and ends with it.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Sequence

import msgspec

from flover.errors import RequestError
from flover.grammar.compiler import Compiler
from flover.ipc import wire
from flover.ipc.signals import leave_to_the_server
from flover.service.grammar_limits import CPU_SECONDS, MEMORY_BYTES, NICENESS, STACK_BYTES, Setup, Verdict
from flover.structured_outputs import StructuredOutputsParams


def main(arguments: Sequence[str]) -> int:
    """Serve until the socket ends."""
    leave_to_the_server()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    os.nice(NICENESS)
    threading.stack_size(STACK_BYTES)
    serving = threading.Thread(target=_serve, args=(int(arguments[-1]),), name="grammars")
    serving.start()
    serving.join()
    return 0


def _serve(descriptor: int) -> None:
    with socket.socket(fileno=descriptor) as sock:
        body = wire.receive(sock)
        if body is None:
            return
        setup = msgspec.msgpack.decode(body, type=Setup)
        compiler = Compiler(setup.vocabulary, setup.vocab_size, setup.eos_ids)
        while (body := wire.receive(sock)) is not None:
            signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
            verdict = _verdict(compiler, body)
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            sock.sendall(wire.frame(msgspec.msgpack.encode(verdict)))


def _verdict(compiler: Compiler, body: memoryview) -> Verdict:
    params = msgspec.msgpack.decode(body, type=StructuredOutputsParams)
    try:
        compiler.try_out(params)
    except RequestError as error:
        return Verdict(error.message)
    except MemoryError:
        return Verdict("it needs too much memory")
    return Verdict(None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
