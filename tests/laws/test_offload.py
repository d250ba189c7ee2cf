"""The host tier changes no token: pages that left a pool that is too small come back from a file, and whatever is wrong
with the file costs time alone."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest
from harness import Answers, alone, answer, assert_same, load, make, tokens
from support.checkpoints import make_checkpoint, random_prompt

from flover.config import EngineConfig
from flover.engine.loop import Engine
from flover.errors import ConfigError
from flover.model.describe import describe_model
from flover.model.shard import Shard
from flover.request import Request

PAGES = 30
"""Of the pool: about two of the requests fit."""
FORMATS: dict[str, dict[str, Any]] = {
    "float32": {},
    "int8 cache": {"kv_cache_dtype": "int8"},
    "asynchronous": {"async_scheduling": True},
}


def requests(number: int = 6) -> list[Request]:
    return [make(f"r{number}", random_prompt(number, 40 + number), max_tokens=9) for number in range(number)]


def crowd() -> list[tuple[int, Request]]:
    return list(enumerate(requests()))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("offload"), "llama")


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> Answers:
    return without_tier(checkpoint)


def without_tier(checkpoint: Path, **settings: Any) -> Answers:
    engine = load(checkpoint, block_size=4, **settings)
    answers = alone(engine, requests())
    engine.close()
    return answers


def small(checkpoint: Path, **settings: Any) -> Engine:
    """A pool for about two of the requests, and a tier for all."""
    kept = {name: value for name, value in settings.items() if name == "kv_cache_dtype"}
    page_bytes = describe_model(EngineConfig(model=str(checkpoint), block_size=4, **kept), Shard(0, 1)).page_bytes
    sizes = {"kv_cache_memory_bytes": page_bytes * PAGES, "kv_offload_bytes": page_bytes * 200, "block_size": 4}
    return load(checkpoint, **sizes | settings)


@pytest.mark.parametrize("settings", FORMATS.values(), ids=FORMATS)
def test_a_crowd_that_comes_back(checkpoint: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    expected = without_tier(checkpoint, **settings)
    engine = small(checkpoint, kv_offload_path=str(tmp_path / "tier"), **settings)
    assert_same(expected, answer(engine, crowd()))
    before = engine.stats()
    again = answer(engine, crowd())
    assert_same(expected, again)
    stats = engine.stats()
    assert stats.offload_loaded_bytes > before.offload_loaded_bytes and stats.offload_tokens > 100
    assert all(deltas[-1].cached_tokens >= 40 - 4 for deltas in again.values())
    (file,) = (tmp_path / "tier").iterdir()
    assert file.stat().st_size <= engine.facts.page_bytes * 200 and file.stat().st_mode & 0o777 == 0o600
    engine.close()
    assert not file.exists()


def test_a_later_turn_reuses_what_was_generated(checkpoint: Path) -> None:
    """Of all `n` sequences, from the pool and from the tier."""
    engine = small(checkpoint)
    prompt = random_prompt(50, 20)
    first = answer(engine, [(0, make("n", prompt, seed=3, temperature=1.0, n=2, max_tokens=20))])
    turns = [[*prompt, *tokens(first["n"], index), *random_prompt(60 + index, 5)] for index in range(2)]
    for disturbance, cached in (([], 36), (crowd(), 44)):
        answer(engine, disturbance)
        for turn in turns:
            # All but the last of the 40 tokens were computed: nine full pages; then those of the turn itself.
            (last, *_) = answer(engine, [(0, make("turn", turn, max_tokens=1))])["turn"]
            assert last.cached_tokens == cached
    assert engine.stats().offload_loaded_bytes
    engine.close()


def test_a_full_disk_turns_the_tier_off(
    checkpoint: Path, tmp_path: Path, expected: Answers, caplog: pytest.LogCaptureFixture
) -> None:
    engine = small(checkpoint, kv_offload_path=str(tmp_path))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (engine.facts.page_bytes * 3 + 7, limits[1]))
    try:
        assert_same(expected, answer(engine, crowd()))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [record.message for record in caplog.records if "no longer offloaded" in record.message]
    assert (engine.stats().offload_errors, engine.stats().offload_slots, engine.stats().faults) == (1, 0, 0)
    assert_same(expected, answer(engine, crowd()))
    engine.close()


def test_a_page_that_the_disk_lost_is_computed(checkpoint: Path, tmp_path: Path, expected: Answers) -> None:
    engine = small(checkpoint, kv_offload_path=str(tmp_path))
    answer(engine, crowd())
    (file,) = tmp_path.iterdir()
    with file.open("r+b") as opened:  # the same file, which the engine has open
        opened.write(bytes(file.stat().st_size))
    assert_same(expected, answer(engine, crowd()))
    assert engine.stats().faults == 1
    engine.close()


def test_a_directory_has_one_server(checkpoint: Path, tmp_path: Path) -> None:
    engine = small(checkpoint, kv_offload_path=str(tmp_path / "tier"))
    with pytest.raises(ConfigError, match="an engine uses it already"):
        small(checkpoint, kv_offload_path=str(tmp_path / "tier"))
    engine.close()
    (tmp_path / "link").symlink_to(tmp_path / "tier")
    with pytest.raises(ConfigError, match="symbolic link"):
        small(checkpoint, kv_offload_path=str(tmp_path / "link"))
    (tmp_path / "tier" / "engine-0-rank-0.pages").symlink_to(tmp_path / "other")
    with pytest.raises(ConfigError, match="cannot use"):
        small(checkpoint, kv_offload_path=str(tmp_path / "tier"))
    assert not (tmp_path / "other").exists()


def test_a_restarted_engine_has_what_the_one_before_had(
    checkpoint: Path, tmp_path: Path, expected: Answers, caplog: pytest.LogCaptureFixture
) -> None:
    """What was in the pool and in the tier; nothing after other settings, or if a byte of the file is another one."""
    kept: dict[str, Any] = {"kv_offload_path": str(tmp_path), "kv_offload_persistent": True}
    index, pages = tmp_path / "engine-0-rank-0.index", tmp_path / "engine-0-rank-0.pages"

    def run(faults: int = 0, **settings: Any) -> int:
        """Prompt tokens that were computed."""
        engine = small(checkpoint, **kept | settings)
        assert not index.exists(), "what is in the slots changes from now on"
        assert_same(expected, answer(engine, crowd()))
        computed = engine.stats().prompt_tokens
        assert engine.stats().faults == faults
        engine.close()
        return computed

    cold = run()
    assert "r0" not in index.read_bytes().decode("latin-1") and index.stat().st_mode & 0o777 == 0o600
    assert run(async_scheduling=True, kv_cache_memory_bytes=2**22) < cold / 4
    assert run(max_model_len=200) == cold
    assert "of another model, other settings" in caplog.text
    data = index.read_bytes()
    for damage in (data[:-1], data[:40], b"", b"\xc1" * 99, data + bytes(10**6)):
        index.write_bytes(damage)
        assert run(max_model_len=200) == cold
        assert "is damaged" in caplog.text
        caplog.clear()
    written = bytearray(pages.read_bytes())
    for slot in range(0, len(written), len(written) // 200):
        written[slot] ^= 1
    pages.write_bytes(written)
    run(faults=1, max_model_len=200)
    assert not index.exists()
