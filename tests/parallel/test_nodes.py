"""Two machines, as two network namespaces of this one: a rank on each, and what happens when one goes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

import psutil
import pytest

from flover import LLM, SamplingParams
from flover.config import EngineConfig
from flover.errors import ConfigError
from flover.parallel.gloo import dist
from flover.parallel.rendezvous import _count_neighbours

needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and iproute2"
)
ADDRESSES = ("10.77.31.1", "10.77.31.2")
PORT = 8177
SERVE = [
    *(sys.executable, "-m", "flover", "serve", "--tensor-parallel-size=2", "--nnodes=2", "--num-threads=1"),
    *(f"--master-addr={ADDRESSES[0]}", "--kv-cache-memory-bytes=32MiB", "--distributed-timeout-seconds=10"),
]
ASK = """
import http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=30)
body = sys.argv[3] if len(sys.argv) > 3 else None
try:
    connection.request("POST" if body else "GET", sys.argv[2], body, {"Content-Type": "application/json"})
    print("sent", flush=True)
    response = connection.getresponse()
    print(response.status, flush=True)
    for line in response:
        print(line.decode().rstrip(), flush=True)
except OSError:
    print(0)
"""
WAIT = """
import http.client, sys, time
status = None
while status != int(sys.argv[2]):
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=30)
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except OSError:
        status = 0
    connection.close()
    time.sleep(0.1)
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
        self.machines = machines
        self.own = ([f"--port={PORT}"], more)
        self.nodes: list[subprocess.Popen[str]] = []
        for rank in range(len(machines)):
            self.start_machine(rank)

    def start_machine(self, rank: int) -> None:
        """`flover serve` on it, for the first time or again."""
        command = ["ip", "netns", "exec", self.machines[rank], *SERVE, f"--node-rank={rank}", *self.own[rank]]
        self.nodes[rank : rank + 1] = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True)]

    def of_machine(self, rank: int) -> list[psutil.Process]:
        """Its processes; the first one is the one that was started."""
        first = psutil.Process(self.nodes[rank].pid)
        return [first, *first.children(recursive=True)]

    def kill_machine_1(self, whole: bool) -> None:
        """kill -9 of all that runs there, or of its rank alone."""
        for process in self.of_machine(1)[0 if whole else 1 :]:
            process.send_signal(signal.SIGKILL)

    def ask(self, path: str, body: dict[str, Any] | None = None) -> subprocess.Popen[str]:
        """Ask from machine 0, where the server listens on loopback: "sent", status, lines of the answer."""
        words = [sys.executable, "-c", ASK, str(PORT), path, *([] if body is None else [json.dumps(body)])]
        return subprocess.Popen(["ip", "netns", "exec", self.machines[0], *words], stdout=subprocess.PIPE, text=True)

    def answer(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
        status, _, text = self.ask(path, body).communicate(timeout=60)[0].removeprefix("sent\n").partition("\n")
        return int(status), text

    def wait_health(self, status: int) -> None:
        """Until /health answers with this status, asked from machine 0."""
        words = [sys.executable, "-S", "-c", WAIT, str(PORT), str(status)]
        subprocess.run(["ip", "netns", "exec", self.machines[0], *words], check=True, timeout=120)

    def processes(self) -> list[psutil.Process]:
        """All of both machines."""
        return [
            process for rank, node in enumerate(self.nodes) if node.poll() is None for process in self.of_machine(rank)
        ]

    def close(self) -> list[str]:
        """End what is left; what both have written to stderr."""
        for process in self.processes():
            process.kill()
        return [node.communicate(timeout=60)[1] for node in self.nodes]


@pytest.fixture
def server(machines: tuple[str, str]) -> Iterator[Server]:
    made = Server(machines)
    try:
        made.wait_health(200)
        yield made
    finally:
        made.close()


def story_of(answer: str) -> str:
    """The text of a stream of events."""
    events = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith("data: {")]
    assert answer.rstrip().endswith("data: [DONE]"), answer[-500:]
    return "".join(event["choices"][0]["text"] for event in events)


def read_some(stdout: IO[str]) -> str:
    """The beginning of an answer: its status and ten tokens or so."""
    return "".join(stdout.readline() for _ in range(20))


@needs_namespaces
@pytest.mark.long
@pytest.mark.parametrize("whole", [False, True], ids=["a rank", "the machine"])
def test_requests_survive_the_loss_of_a_machine(
    server: Server, whole: bool, record_property: Callable[[str, object], None]
) -> None:
    """A rank is begun again by its machine, a machine by whoever runs it; clients get every token once, and what one
    machine says."""
    everybody = server.processes()
    body = {**STORY, "max_tokens": 300, "ignore_eos": True, "stream": True}
    undisturbed = story_of(server.answer("/v1/completions", body)[1])
    with LLM(num_threads=1, kv_cache_memory_bytes=2**25) as llm:
        (alone,) = llm.generate("Once upon a time", SamplingParams(temperature=0, max_tokens=300, ignore_eos=True))
    assert undisturbed == alone.outputs[0].text
    for phase in ("before the first token", "generating"):
        with server.ask("/v1/completions", body) as client:
            assert client.stdout is not None
            if phase == "before the first token":
                seen = ""
                for process in server.of_machine(1)[1:]:  # without its rank no token can come
                    process.send_signal(signal.SIGSTOP)
                assert client.stdout.readline() == "sent\n"
                server.answer("/livez")  # the server reads what came before this, too
            else:
                seen = read_some(client.stdout)
            killed = time.monotonic()
            server.kill_machine_1(whole)
            if whole:
                server.wait_health(503)
                server.start_machine(1)
            longest, last = 0.0, killed
            for line in client.stdout:
                seen += line
                longest, last = max(longest, time.monotonic() - last), time.monotonic()
        record_property(f"{'machine' if whole else 'rank'} killed {phase}: longest gap, s", longest)
        assert story_of(seen) == undisturbed, phase
        everybody += server.processes()
    server.nodes[0].terminate()
    assert [node.wait(60) for node in server.nodes] == [0, 0]
    _, alive = psutil.wait_procs(everybody, timeout=60)
    assert not alive


@needs_namespaces
@pytest.mark.long
def test_an_idle_group_notices_that_a_machine_is_gone(server: Server) -> None:
    """No request comes and no connection breaks: the machine stands still, as one does that has lost its network."""
    for process in server.of_machine(1):
        process.send_signal(signal.SIGSTOP)
    try:
        server.wait_health(503)
    finally:
        for process in server.of_machine(1):
            process.send_signal(signal.SIGCONT)
    server.wait_health(200)


@needs_namespaces
@pytest.mark.long
def test_when_machine_0_is_gone_the_others_wait_for_it_and_then_end(server: Server) -> None:
    ranks = server.of_machine(1)[1:]
    for process in server.of_machine(0):
        process.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(ranks, timeout=60)
    assert not alive, "what they had computed is of no use any more"
    assert server.nodes[1].poll() is None
    server.start_machine(0)
    server.wait_health(200)
    assert server.answer("/v1/completions", STORY)[0] == 200


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
