"""Two machines, as two network namespaces of this one: a rank on each, and what happens when one goes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from flover.config import EngineConfig
from flover.errors import ConfigError
from flover.parallel.group import dist
from flover.parallel.rendezvous import _count_neighbours

pytestmark = pytest.mark.alone
needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and iproute2"
)
ADDRESSES = ("10.77.31.1", "10.77.31.2")
PORT = 8177
SERVE = [
    *(sys.executable, "-m", "flover", "serve", "--tensor-parallel-size=2", "--nnodes=2", "--num-threads=1"),
    *(f"--master-addr={ADDRESSES[0]}", "--kv-cache-memory-bytes=32MiB", "--distributed-timeout-seconds=5"),
]
ASK = """
import http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=30)
body = sys.argv[3] if len(sys.argv) > 3 else None
try:
    connection.request("POST" if body else "GET", sys.argv[2], body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    print(response.status, flush=True)
    for line in response:
        print(line.decode().rstrip(), flush=True)
except OSError:
    print(0)
"""
STORY: dict[str, Any] = {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 24}


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def machines() -> Iterator[tuple[str, str]]:
    """Two namespaces with a cable between them."""
    first, second = (f"flover{os.getpid()}{end}" for end in "ab")
    cables = [f"fl{os.getpid() % 100000}{end}" for end in "ab"]
    try:
        for name in (first, second):
            ip("netns", "add", name)
        ip("link", "add", cables[0], "type", "veth", "peer", "name", cables[1])
        for name, cable, address in zip((first, second), cables, ADDRESSES, strict=True):
            ip("link", "set", cable, "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", cable)
            ip("-n", name, "link", "set", cable, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield first, second
    finally:
        for name in (first, second):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


class Server:
    """`flover serve` on both machines; `more` are flags of machine 1 alone."""

    def __init__(self, machines: tuple[str, str], *more: str) -> None:
        self.machine = machines[0]
        own = ([f"--port={PORT}"], more)
        self.nodes = [
            subprocess.Popen(
                ["ip", "netns", "exec", name, *SERVE, f"--node-rank={rank}", *own[rank]],
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank, name in enumerate(machines)
        ]

    def ask(self, path: str, body: dict[str, Any] | None = None) -> subprocess.Popen[str]:
        """Ask from machine 0, where the door listens on loopback: the status, then the lines of the answer."""
        words = [sys.executable, "-c", ASK, str(PORT), path, *([] if body is None else [json.dumps(body)])]
        return subprocess.Popen(["ip", "netns", "exec", self.machine, *words], stdout=subprocess.PIPE, text=True)

    def answer(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
        status, _, text = self.ask(path, body).communicate(timeout=60)[0].partition("\n")
        return int(status), text

    def wait_ready(self) -> None:
        deadline = time.monotonic() + 90
        while self.answer("/health")[0] != 200:
            assert time.monotonic() < deadline, [node.poll() for node in self.nodes]
            time.sleep(0.2)

    def processes(self) -> list[psutil.Process]:
        """All of both machines."""
        return [
            process
            for node in self.nodes
            if node.poll() is None
            for process in (psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True))
        ]

    def close(self) -> list[str]:
        """End what is left; what both have written to stderr."""
        for process in self.processes():
            process.kill()
        return [node.communicate(timeout=10)[1] for node in self.nodes]


@pytest.fixture
def server(machines: tuple[str, str]) -> Iterator[Server]:
    made = Server(machines)
    try:
        made.wait_ready()
        yield made
    finally:
        made.close()


@needs_namespaces
def test_two_machines_give_what_one_gives(server: Server) -> None:
    from flover import LLM, SamplingParams

    code, text = server.answer("/v1/completions", STORY)
    assert code == 200, text
    with LLM(num_threads=1, kv_cache_memory_bytes=2**25) as llm:
        (alone,) = llm.generate("Once upon a time", SamplingParams(temperature=0, max_tokens=24))
    assert json.loads(text)["choices"][0]["text"] == alone.outputs[0].text


@needs_namespaces
@pytest.mark.parametrize("whole", [False, True], ids=["a rank", "the machine"])
def test_a_machine_that_goes_ends_open_requests_with_an_error_and_leaves_nobody_behind(
    server: Server, whole: bool
) -> None:
    everybody = server.processes()
    other = psutil.Process(server.nodes[1].pid)
    ranks = [child for child in other.children(recursive=True) if "follower" in " ".join(child.cmdline())]
    assert len(ranks) == 1
    with server.ask("/v1/completions", {**STORY, "max_tokens": 400, "ignore_eos": True, "stream": True}) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "200\n"
        assert client.stdout.readline().startswith("data:")
        began = time.monotonic()
        for process in [other, *ranks] if whole else ranks:
            process.send_signal(signal.SIGKILL)
        rest = client.stdout.read()
    assert '"error"' in rest
    assert time.monotonic() - began < 10
    assert server.answer("/health")[0] != 200
    server.nodes[0].terminate()
    _, alive = psutil.wait_procs(everybody, timeout=15)
    assert not alive


@needs_namespaces
def test_settings_that_differ_are_refused(machines: tuple[str, str]) -> None:
    made = Server(machines, "--block-size=32")
    try:
        assert made.nodes[1].wait(60) == 1
    finally:
        errors = made.close()
    assert "--block-size is 32 on machine 1 and 16 on machine 0" in errors[1]


@pytest.mark.parametrize(("machines", "counts"), [("aab", [2, 2, 1]), ("aaa", [3, 3, 3]), ("aba", [2, 1, 2])])
def test_ranks_count_who_shares_their_machine(machines: str, counts: list[int]) -> None:
    store = dist.HashStore()
    with ThreadPoolExecutor(3) as threads:
        found = [threads.submit(_count_neighbours, store, rank, 3, name) for rank, name in enumerate(machines)]
        assert [one.result(10) for one in found] == counts


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"tensor_parallel_size": 3, "nnodes": 2},
            r"--tensor-parallel-size \(3\) must be a multiple of --nnodes",
        ),
        ({"tensor_parallel_size": 2, "nnodes": 2, "node_rank": 2}, "--node-rank must be from 0 to 1"),
    ],
)
def test_contradictions_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EngineConfig(**settings)
