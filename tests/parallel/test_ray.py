"""Two Ray nodes of one core each: an engine whose ranks Ray places, and replicas of engines under Ray Serve."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from rank_processes import ENGINE, FOLLOWER, processes
from ray_cluster import RELAY, Nodes, two_nodes, wait_for_nobody

from flover import LLM, SamplingParams
from flover.config import EngineConfig
from flover.errors import ConfigError
from flover.ipc.spawn import engine_command
from flover.service.build import build_engine

pytestmark = [
    pytest.mark.long,
    pytest.mark.alone,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
]
STORY: dict[str, Any] = {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 24}
LONG = {**STORY, "max_tokens": 150, "ignore_eos": True}
REPLICA = {"num_threads": 1, "kv_cache_memory_bytes": "32MiB", "served_model_name": "tiny"}
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


@pytest.fixture(scope="module")
def server(cluster: Nodes) -> Iterator[Server]:
    made = Server(cluster, "--tensor-parallel-size=2")
    yield made
    made.close()


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for a condition to come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.1)


def test_two_nodes_give_what_one_process_gives(server: Server) -> None:
    answer = server.http.post("/v1/completions", json=STORY).json()
    with LLM(num_threads=1, kv_cache_memory_bytes=2**25) as llm:
        (alone,) = llm.generate("Once upon a time", SamplingParams(temperature=0, max_tokens=24))
    assert answer["choices"][0]["text"] == alone.outputs[0].text
    ranks = processes(ENGINE) + processes(FOLLOWER)
    assert len(ranks) == 2
    raylets = {next(one for one in rank.parents() if "raylet" in one.name()).pid for rank in ranks}
    assert len(raylets) == 2, "a core each, so a node each"


@pytest.mark.parametrize("victim", ["relay", "node"])
def test_who_waits_when_a_part_goes_gets_the_rest_from_the_next_engine(
    cluster: Nodes, server: Server, victim: str, record_property: Callable[[str, object], None]
) -> None:
    whole = server.http.post("/v1/completions", json=LONG).json()["choices"][0]["text"]
    everybody = processes(ENGINE) + processes(FOLLOWER) + processes(RELAY)
    assert len(everybody) == 3
    with server.http.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as answer:
        lines = (line.removeprefix("data: ") for line in answer.iter_lines() if line)
        events = [next(lines)]
        if victim == "node":
            cluster.kill(cluster.second)
            cluster.second = cluster.add()
        else:
            everybody[2].kill()
        longest, last = 0.0, time.monotonic()
        for line in lines:
            events.append(line)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
    record_property(f"Ray: {victim} killed while generating: longest gap, s", longest)
    assert events.pop() == "[DONE]"
    assert "".join(json.loads(one)["choices"][0]["text"] for one in events) == whole
    _, alive = psutil.wait_procs(everybody, timeout=10)
    assert not alive
    # An answer that was whole before its node was gone has waited for no next engine.
    until(lambda: server.http.get("/health").status_code == 200 and len(processes(FOLLOWER)) == 1, seconds=60.0)


def test_a_rank_that_dies_while_nobody_asks_is_replaced(server: Server) -> None:
    (follower,) = processes(FOLLOWER)
    follower.kill()
    until(lambda: server.http.get("/health").status_code == 503)
    until(lambda: server.http.get("/health").status_code == 200)
    assert server.http.post("/v1/completions", json=STORY).status_code == 200


def test_nobody_outlives_the_door(server: Server) -> None:
    assert processes(ENGINE) and processes(FOLLOWER) and processes(RELAY)
    server.process.kill()
    wait_for_nobody()


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


class Application:
    """The application in a cluster, two replicas of it."""

    def __init__(self, nodes: Nodes) -> None:
        import ray
        from ray import serve

        from flover.ray.serve import Arguments, app

        ray.init(address=nodes.address, log_to_driver=False, configure_logging=False)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        self.url = f"http://127.0.0.1:{port}"
        self.http = httpx.Client(base_url=self.url, timeout=60)
        serve.run(app(Arguments(min_replicas="2", max_replicas="2", **REPLICA)))
        self.wait_for(2)

    def wait_for(self, replicas: int) -> None:
        """Until so many have an engine and take requests."""
        from ray import serve

        def running() -> int:
            (application,) = serve.status().applications.values()
            return application.deployments["Engine"].replica_states.get("RUNNING", 0)

        deadline = time.monotonic() + 60
        while len(processes(ENGINE)) != replicas or running() != replicas:
            assert time.monotonic() < deadline, (processes(ENGINE), serve.status())
            time.sleep(0.1)

    def close(self) -> None:
        import ray

        self.http.close()
        ray.shutdown()


@pytest.fixture(scope="module")
def application(cluster: Nodes) -> Iterator[Application]:
    made = Application(cluster)
    yield made
    made.close()


async def load(
    url: str, count: int, *, streamed: bool, tokens: int, begun: asyncio.Event | None = None
) -> list[tuple[bool, str]]:
    """That many requests at once: whether the answer was a 200, and the whole of it. `begun` is set once some of it
    has come."""

    async def one(number: int) -> tuple[bool, str]:
        body = {**STORY, "prompt": f"{number} times", "max_tokens": tokens, "ignore_eos": True, "stream": streamed}
        text = ""
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            async for piece in answer.aiter_text():
                text += piece
                if begun is not None:
                    begun.set()
        return answer.status_code == 200, text

    limits = httpx.Limits(max_connections=count)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
        return list(await asyncio.gather(*(one(number) for number in range(count))))


def test_requests_are_answered_as_our_own_door_answers_them(application: Application) -> None:
    http = application.http
    whole = http.post("/v1/completions", json=STORY, headers={"X-Request-Id": "mine"})
    assert whole.status_code == 200 and whole.headers.get_list("x-request-id") == ["mine"]
    with http.stream("POST", "/v1/completions", json={**STORY, "stream": True}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        *events, done = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert done == "[DONE]" and len(events) > 1
    text = "".join(json.loads(one)["choices"][0]["text"] for one in events)
    assert text == whole.json()["choices"][0]["text"]
    assert http.get("/v1/models").json()["data"][0]["id"] == "tiny"
    assert http.post("/v1/completions", json={**STORY, "model": "other"}).status_code == 404
    assert http.post("/v1/completions", json={**STORY, "prompt": "x" * 3_000_000}).status_code == 413


def test_a_prompt_goes_where_its_beginning_is_known(application: Application) -> None:
    """Without affinity, replica after replica is idle and the first of them gets everything."""
    beginnings = [
        f"{name} went to the market, where there was all that one could think of, and more: " for name in "AB"
    ]
    asyncio.run(_both_at_once(application.url, beginnings))
    for beginning in beginnings:
        answer = application.http.post("/v1/completions", json={**STORY, "prompt": beginning + "she"}).json()
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


async def _both_at_once(url: str, beginnings: list[str]) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        bodies = [{**STORY, "prompt": one + "he", "max_tokens": 300, "ignore_eos": True} for one in beginnings]
        await asyncio.gather(*(client.post("/v1/completions", json=body) for body in bodies))


def test_an_engine_that_dies_under_load_costs_nobody_an_answer(application: Application) -> None:
    """What had begun goes on with the engine that its replica begins; what had not is asked of the other one."""

    async def run() -> list[tuple[bool, str]]:
        begun = asyncio.Event()
        waiting = [
            load(application.url, 12, streamed=False, tokens=300),
            load(application.url, 12, streamed=True, tokens=300, begun=begun),
        ]
        tasks = [asyncio.create_task(one) for one in waiting]
        await begun.wait()
        assert not any(task.done() for task in tasks)
        processes(ENGINE)[0].kill()
        late = await load(application.url, 12, streamed=False, tokens=8)
        whole, streams = await asyncio.gather(*tasks)
        assert all(text.endswith("data: [DONE]\n\n") for _, text in streams)
        return whole + streams + late

    assert all(good for good, _ in asyncio.run(run()))
    application.wait_for(2)


def test_a_replica_that_dies_costs_only_what_had_begun(application: Application) -> None:
    """The whole actor goes: nobody is there to say what happened."""

    async def run() -> list[tuple[bool, str]]:
        begun = asyncio.Event()
        whole = asyncio.create_task(load(application.url, 12, streamed=False, tokens=400))
        streams = asyncio.create_task(load(application.url, 12, streamed=True, tokens=400, begun=begun))
        await begun.wait()
        assert not whole.done()
        processes(ENGINE)[0].parent().kill()
        assert all(good for good, _ in await whole)
        return await streams

    for good, text in asyncio.run(run()):
        assert good and (text.endswith("data: [DONE]\n\n") or '"service_unavailable"' in text)


def test_how_a_prompt_begins() -> None:
    from flover.ray.serve import prefix_key

    chat = '{"temperature": 0, "messages": [{"role": "system", "content": "Be brief."}, {"role": "user"'
    first, second = (prefix_key((chat + f', "content": "{word}"}}]}}').encode()) for word in ("Hello", "Help"))
    assert first[: first.index("Hel") + 3] == second[: second.index("Hel") + 3]
    assert prefix_key(b'{"prompt": ["one", "two"]}') == prefix_key(b'{"prompt": "one"}') == "|one"
    assert prefix_key(b'{"prompt": [[1, 2], [3]]}') == prefix_key(b'{"prompt": [1, 2]}') == "|[1,2]"
    assert prefix_key(b'{"prompt": "one", "cache_salt": "mine"}') == "mine|one"
    assert [prefix_key(body) for body in (b"", b"{", b"[1]", b"{}", b'{"prompt": 3, "cache_salt": 4}')] == [""] * 5


def test_arguments_are_the_engines_settings() -> None:
    from flover.ray.serve import Arguments

    engine = Arguments(tensor_parallel_size="2", kv_cache_memory_bytes="1MiB", reorder="false").engine()
    assert (engine.tensor_parallel_size, engine.kv_cache_memory_bytes, engine.reorder) == (2, 2**20, False)
    assert Arguments(allowed_hosts="a.example, b.example c.example").allowed_hosts == tuple(
        f"{x}.example" for x in "abc"
    )
    for wrong, message in [
        ({"min_replicas": 2}, r"min_replicas \(2\) is more than max_replicas \(1\)"),
        ({"threads": 2}, "there is no setting threads"),
        ({"block_size": 0}, "--block-size must be at least 1"),
        ({"block_size": "many"}, "block_size"),
    ]:
        with pytest.raises(Exception, match=message):
            Arguments(**wrong)


def test_the_application_of_the_manifest_takes_its_arguments() -> None:
    from flover.ray.serve import Arguments

    manifest = Path(__file__).resolve().parents[2] / "deploy/kuberay.yaml"
    config = yaml.safe_load(manifest.read_text())["spec"]["serveConfigV2"]
    (application,) = yaml.safe_load(config)["applications"]
    assert application["import_path"] == "flover.ray.serve:app"
    assert Arguments(**application["args"]).max_replicas == 4
