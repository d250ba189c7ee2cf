"""Two and four ranks on Gloo give the bits of one: every family, several formats, requests coming and going."""

from __future__ import annotations

import itertools
import multiprocessing
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

import psutil
import pytest
import torch
from model.driver import load, logits_of_ranks, whole_logits
from quantized_files import WAYS, write_quantized
from quantized_files import WIDE as STORED
from rank_processes import FOLLOWER, processes
from support.checkpoints import FAMILIES, VOCAB_SIZE, make_checkpoint, random_prompt
from support.constraints import VOCABULARY

from flover.config import BUNDLED_MODEL, EngineConfig
from flover.engine.loop import Engine
from flover.errors import ConfigError, EngineDeadError
from flover.ops import cpu_weight
from flover.request import Request, SamplingParams
from flover.service.build import build_engine
from flover.structured_outputs import StructuredOutputsParams

SMALL: dict[str, Any] = {
    "num_threads": 1,
    "kv_cache_memory_bytes": 2**22,
    "skip_tokenizer_init": True,
    "block_size": 4,
    "max_num_seqs": 8,
    "distributed_timeout_seconds": 30.0,
}
WIDE = {"hidden_size": 64, "head_dim": 128, "intermediate_size": 512}
"""Enough for four ranks in int8 and int4, which are cut at multiples of 128 inputs."""


def sizes_of(family: str, kind: str, ranks: int) -> dict[str, int]:
    """Changes to the family's recipe, wide enough for so many ranks."""
    if kind not in ("int8", "int4"):
        return {}
    width = 128 * ranks
    if family in ("gpt2", "gptj"):
        return {"n_embd": width}
    more = {"head_dim": width // 4} if family in ("mistral", "qwen3") else {}
    if family == "qwen2_moe":
        more = {"moe_intermediate_size": width, "shared_expert_intermediate_size": width}
    return {"hidden_size": width, "intermediate_size": width, **more}


@contextmanager
def engine_of(path: Path, ranks: int, **settings: Any) -> Iterator[Engine]:
    config = EngineConfig(model=str(path), tensor_parallel_size=ranks, **{**SMALL, **settings})
    engine = build_engine(config, lambda done, total: None)
    try:
        yield engine
    finally:
        engine.close()


def request(number: int, **params: Any) -> Request:
    fields: dict[str, Any] = {"temperature": 0.0, "max_tokens": 8, "ignore_eos": True, "logprobs": 20}
    return Request(
        id=f"r{number}",
        prompt_ids=random_prompt(number, 5 + 7 * number),
        params=SamplingParams(**{**fields, **params}),
        seed=number,
    )


News: TypeAlias = dict[str, list[tuple[int, dict[int, float]]]]
"""Tokens and log-probabilities of each request."""


def serve(engine: Engine) -> News:
    """Requests that come and go while others generate."""
    news: News = {}
    arrivals = {0: (0, 1), 3: (2,), 5: (3, 4), 9: (5,)}
    for step in range(60):
        for number in arrivals.get(step, ()):
            engine.submit(request(number, **({"prompt_logprobs": 0} if number == 3 else {})))
        if step == 7:
            engine.cancel("r1")
        if not engine.has_work:
            break
        collect(engine, news)
    assert not engine.has_work
    return news


def collect(engine: Engine, news: News) -> None:
    """One step of everybody's."""
    for delta in engine.step():
        for token, entry in zip(delta.token_ids, delta.logprobs or [], strict=False):
            values = dict(zip(entry.token_ids, entry.logprobs, strict=True))
            news.setdefault(delta.request_id, []).append((token, values))


def settings_of(kind: str) -> dict[str, Any]:
    if kind == "quantized":
        return {}
    return {"quantization": kind} if kind in ("int8", "int4") else {"dtype": kind}


def compare(path: Path, ranks: int, kind: str) -> None:
    """The same tokens and log-probabilities, bit for bit."""
    with engine_of(path, ranks, **settings_of(kind)) as engine:
        compare_with_one(engine, path, kind)


def compare_with_one(engine: Engine, path: Path, kind: str) -> News:
    """`compare` on an engine that runs already; gives what it has said."""
    with engine_of(path, 1, **settings_of(kind)) as single:
        alone = serve(single)
    together = serve(engine)
    assert together == alone and len(alone["r5"]) == 8
    return together


@pytest.fixture(scope="module")
def wide_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("wide"), "llama", **WIDE)


@pytest.mark.parametrize(
    ("family", "kind"), [("llama", "float32"), ("gpt2", "int8"), ("gptj", "float32"), ("qwen2_moe", "int8")]
)
def test_two_ranks_give_what_one_gives(tmp_path: Path, family: str, kind: str) -> None:
    """One of each way to cut and to sum: the wiring of the others is tested with threads as ranks."""
    compare(make_checkpoint(tmp_path, family, seed=1, **sizes_of(family, kind, 2)), 2, kind)


@pytest.mark.parametrize("kind", ["int8", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_cut_right_in_every_kind_of_format(tmp_path: Path, family: str, kind: str) -> None:
    """In float32: tests/model/test_families.py."""
    ranks = 4 if (family, kind) == ("gpt2", "int8") else 2  # whose columns and rows lie the other way round
    compare_threads(make_checkpoint(tmp_path, family, seed=1, **sizes_of(family, kind, ranks)), ranks, kind)


def compare_threads(path: Path, ranks: int, kind: str) -> None:
    """`compare` of the logits of one prompt, with threads as ranks."""
    prompt, settings = random_prompt(5, 40), settings_of(kind)
    alone = whole_logits(load(path, **settings), prompt)
    assert torch.equal(logits_of_ranks(path, prompt, ranks, **settings), alone)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8", "int4"])
def test_segments_that_follow_the_ranks_show(wide_llama: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one rank, two and four give is compared bit for bit: a sum that is cut where ranks are is found."""
    prompt, settings = random_prompt(5, 40), settings_of(kind)
    alone = whole_logits(load(wide_llama, **settings), prompt)
    for ranks in (2, 4):
        assert torch.equal(logits_of_ranks(wide_llama, prompt, ranks, **settings), alone)
    monkeypatch.setattr(cpu_weight, "segments_of", lambda weight_format, whole, inputs: 1)
    found = [logits_of_ranks(wide_llama, prompt, ranks, **settings) for ranks in (1, 2, 4)]
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(found, 2))


@pytest.mark.parametrize(("kind", "scales"), [("float32", 0), ("int8", 2), ("int4", 2)])
def test_two_ranks_divide_weights_and_work(wide_llama: Path, kind: str, scales: int) -> None:
    """Each holds half of the weights. A step has two sums a layer, one for the embedding, and a gather; in quantized
    formats, before each of the layers' sums, the largest input of each token: the scale of its integers is that of all
    ranks' columns. Rank 0 alone draws. Ranks listen on loopback only."""
    with engine_of(wide_llama, 2, **settings_of(kind)) as engine:
        check_sockets([psutil.Process(), *processes(FOLLOWER)])
        engine.submit(request(0))
        engine.step()
        leader: Any = engine._executor
        calls, sent = leader.group.calls, leader.group.num_bytes
        engine.step()
        hidden, layers = WIDE["hidden_size"], 2
        assert leader.group.calls - calls == (2 + scales) * layers + 2
        sums = (2 * layers + 1) * hidden + scales * layers + VOCAB_SIZE // 2 + 1
        assert leader.group.num_bytes - sent == 4 * sums
        while engine.has_work:
            engine.step()
        compare_with_one(engine, wide_llama, kind)
        with engine_of(wide_llama, 1, **settings_of(kind)) as single:
            assert packed(leader._own) < 0.6 * packed(single._executor)
            assert draws(engine) == draws(single)


def check_sockets(ranks: list[psutil.Process]) -> None:
    assert len(ranks) == 2
    connections = [connection for process in ranks for connection in process.net_connections("inet")]
    listening = [found.laddr.ip for found in connections if found.status == psutil.CONN_LISTEN]
    assert listening and set(listening) == {"127.0.0.1"}


def packed(executor: Any) -> int:
    return sum(weight.num_bytes for weight in executor._decoder.weights.matrices.values())


def draws(engine: Engine) -> list[int]:
    """Tokens of a request with random draws and penalties."""
    engine.submit(request(4, temperature=0.9, repetition_penalty=1.2, top_p=0.9, max_tokens=20))
    found = [token for _ in range(30) for delta in engine.step() for token in delta.token_ids]
    assert len(found) == 20
    return found


@pytest.mark.parametrize("name", ["fp8 blocks", "gptq 128 asymmetric", "awq 32", "int-quantized"])
def test_two_ranks_share_a_quantized_checkpoint(tmp_path: Path, name: str) -> None:
    quantized, _ = write_quantized(make_checkpoint(tmp_path / "model", **STORED), tmp_path, WAYS[name])
    compare_threads(quantized, 2, "quantized")
    if name == "gptq 128 asymmetric":
        compare(quantized, 2, "quantized")


def test_the_bundled_model_says_the_same_on_two_ranks() -> None:
    found = []
    for ranks in (1, 2):
        with engine_of(Path(BUNDLED_MODEL), ranks, dtype="bfloat16") as engine:
            for number in range(4):
                engine.submit(request(number, max_tokens=24))
            constraint = StructuredOutputsParams(regex="[a-z ]{20,}")
            constrained = {"structured_outputs": constraint, "ignore_eos": False, "temperature": 1.0}
            engine.submit(request(4, max_tokens=24, **constrained), VOCABULARY)
            news: dict[str, list[int]] = {}
            while engine.has_work:
                for delta in engine.step():
                    news.setdefault(delta.request_id, []).extend(delta.token_ids)
            found.append(news)
    assert found[0] == found[1]


def test_a_request_gets_the_same_bits_alone_and_in_a_crowd_of_four_ranks(wide_llama: Path) -> None:
    """The ranks share two key heads. In int8, whose layers have the sums of float32 and the largest input before
    them."""
    with engine_of(wide_llama, 4, enable_prefix_caching=False, quantization="int8") as engine:
        crowd = compare_with_one(engine, wide_llama, "int8")
        for number in (0, 2, 5):
            engine.submit(request(number))
            alone: News = {}
            while engine.has_work:
                collect(engine, alone)
            assert alone == {f"r{number}": crowd[f"r{number}"]}


def test_what_cannot_be_cut_is_refused_before_anything_starts(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, "llama")
    with pytest.raises(ConfigError, match="--tensor-parallel-size 3 does not divide the model's attention heads: 4"):
        build_engine(EngineConfig(model=str(path), tensor_parallel_size=3, **SMALL), lambda done, total: None)
    assert not processes(FOLLOWER)


def test_a_rank_that_is_killed_ends_the_engine_at_once(tmp_path: Path) -> None:
    with engine_of(make_checkpoint(tmp_path, "llama"), 2) as engine:
        engine.submit(request(0, max_tokens=400))
        engine.step()
        (follower,) = processes(FOLLOWER)
        follower.send_signal(signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(EngineDeadError, match="rank"):
            for _ in range(1000):
                engine.step()
        assert time.monotonic() - began < SMALL["distributed_timeout_seconds"] / 2


def test_an_idle_engine_notices_too(tmp_path: Path) -> None:
    with engine_of(make_checkpoint(tmp_path, "llama"), 2) as engine:
        (follower,) = processes(FOLLOWER)
        follower.kill()
        with pytest.raises(EngineDeadError, match="rank 1 was killed by signal 9"):
            for _ in range(50):
                engine.wait(0.1)


def test_a_rank_that_stands_still_ends_the_engine_after_the_timeout(tmp_path: Path) -> None:
    with engine_of(make_checkpoint(tmp_path, "llama"), 2, distributed_timeout_seconds=2.0) as engine:
        engine.submit(request(0, max_tokens=400))
        engine.step()
        (follower,) = processes(FOLLOWER)
        follower.suspend()
        began = time.monotonic()
        with pytest.raises(EngineDeadError, match="does not answer"):
            for _ in range(1000):
                engine.step()
        assert 1 < time.monotonic() - began < 30
    assert not psutil.pid_exists(follower.pid)


def lead(path: Path, told: Connection) -> None:
    with engine_of(path, 2):
        told.send("ready")
        time.sleep(60)


def test_followers_do_not_outlive_rank_0(tmp_path: Path) -> None:
    """Rank 0 in a process of its own, killed without a chance to say anything. Not a fork of this one: what its threads
    hold would stay held."""
    spawned = multiprocessing.get_context("spawn")
    told, tell = spawned.Pipe(duplex=False)
    process = spawned.Process(target=lead, args=(make_checkpoint(tmp_path, "llama"), tell), daemon=True)
    process.start()
    try:
        assert told.poll(60)
        assert told.recv() == "ready"
        followers = psutil.Process(process.pid).children()
        assert any("follower" in " ".join(child.cmdline()) for child in followers)
        process.kill()
        process.join(5)
        _, alive = psutil.wait_procs(followers, timeout=10)
        assert not alive
    finally:
        process.kill()
        process.join()
