"""Engines that Ray places: two nodes of one core each, and what happens when one goes."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from ray_cluster import ENGINE, FOLLOWER, RELAY, Nodes, processes, two_nodes, wait_for_nobody

from flover import LLM, SamplingParams
from flover.config import EngineConfig
from flover.engine.build import build_engine
from flover.engine.spawn import engine_command
from flover.errors import ConfigError

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
]
STORY: dict[str, Any] = {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 24}
LONG = {**STORY, "max_tokens": 800, "ignore_eos": True, "stream": True}
SERVE = [
    *(sys.executable, "-m", "flover", "serve", "--port=0", "--distributed-executor-backend=ray", "--num-threads=1"),
    *("--kv-cache-memory-bytes=32MiB", "--distributed-timeout-seconds=5"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    with two_nodes() as nodes:
        yield nodes


class Server:
    """`flover serve` in the cluster, ready."""

    def __init__(self, cluster: Nodes, *flags: str) -> None:
        environment = {**os.environ, "RAY_ADDRESS": cluster.address}
        self.process = subprocess.Popen([*SERVE, *flags], stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            if found := re.match(r"ready: (http://\S+)", line):
                self.http = httpx.Client(base_url=found[1], timeout=30)
                return
        raise AssertionError(said)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.http.close()


@pytest.fixture
def server(cluster: Nodes) -> Iterator[Server]:
    made = Server(cluster, "--tensor-parallel-size=2")
    yield made
    made.close()
    wait_for_nobody()


def test_two_nodes_give_what_one_process_gives_and_nobody_outlives_the_door(server: Server) -> None:
    answer = server.http.post("/v1/completions", json=STORY).json()
    with LLM(num_threads=1, kv_cache_memory_bytes=2**25) as llm:
        (alone,) = llm.generate("Once upon a time", SamplingParams(temperature=0, max_tokens=24))
    assert answer["choices"][0]["text"] == alone.outputs[0].text
    ranks = processes(ENGINE) + processes(FOLLOWER)
    assert len(ranks) == 2
    raylets = {next(one for one in rank.parents() if "raylet" in one.name()).pid for rank in ranks}
    assert len(raylets) == 2, "a core each, so a node each"
    server.process.kill()
    wait_for_nobody()


@pytest.mark.parametrize("victim", ["rank", "relay", "node"])
def test_who_waits_when_a_part_goes_gets_an_error_and_nobody_stays(cluster: Nodes, server: Server, victim: str) -> None:
    with server.http.stream("POST", "/v1/completions", json=LONG) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data:")
        began = time.monotonic()
        if victim == "node":
            cluster.kill(cluster.second)
        else:
            (process,) = processes(FOLLOWER if victim == "rank" else RELAY)
            process.kill()
        rest = "\n".join(lines)
    assert '"error"' in rest and "[DONE]" not in rest
    assert time.monotonic() - began < 10
    assert server.http.get("/health").status_code == 503
    wait_for_nobody()
    if victim == "node":
        cluster.second = cluster.add()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "there is no Ray cluster at RAY_ADDRESS 127.0.0.1:1"),
        ("ray://there:10001", "RAY_ADDRESS must be HOST:PORT"),
    ],
)
def test_a_cluster_that_is_not_there_is_an_error(address: str, message: str) -> None:
    environment = {**os.environ, "RAY_ADDRESS": address}
    done = subprocess.run(SERVE, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 2
    assert message in done.stderr


def test_without_ray_the_flag_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'flover\[ray\]'"):
        engine_command("ray")


def test_an_engine_in_the_callers_process_cannot_be_placed() -> None:
    with pytest.raises(ConfigError, match="is for flover serve"):
        build_engine(EngineConfig(distributed_executor_backend="ray"), lambda done, total: None)


def test_ray_finds_the_machines_itself() -> None:
    with pytest.raises(ConfigError, match=r"leave --nnodes \(2\) out"):
        EngineConfig(distributed_executor_backend="ray", tensor_parallel_size=2, nnodes=2)
