"""Adapters of a server: by name in requests, loaded and unloaded while it runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.adapters import make_adapter
from support.checkpoints import make_checkpoint
from support.servers import ServerProcess, refused

from flover.config import EngineConfig, ServerConfig
from flover.errors import ConfigError
from flover.server.adapters import ServedAdapters

PROMPT = list(range(3, 60))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    base = make_checkpoint(folder / "base", hidden_size=32, num_hidden_layers=1)
    for seed, name in enumerate(("first", "allowed/second", "allowed/third", "outside")):
        make_adapter(folder / name, base, seed=seed)
    make_adapter(folder / "allowed" / "large", base, rank=32)
    (folder / "allowed" / "link").symlink_to(folder / "outside")
    return folder


@pytest.fixture(scope="module")
def adapted(folders: Path) -> Iterator[ServerProcess]:
    flags = ["--skip-tokenizer-init", "--port", "0", "--num-threads", "1", "--kv-cache-memory-bytes", "16MiB"]
    lora = ["--enable-lora", "--max-loras", "2", "--lora-modules", f"first={folders / 'first'}"]
    lora += ["--allowed-lora-path", str(folders / "allowed"), "--served-model-name", "base"]
    command = [sys.executable, "-m", "flover", "serve", "--model", str(folders / "base"), *flags, *lora]
    process = ServerProcess(folders, command=command)
    yield process
    assert process.stop() == 0


def complete(adapted: ServerProcess, model: str, **fields: Any) -> Any:
    body = {"model": model, "prompt": PROMPT, "max_tokens": 8, "temperature": 0, "return_token_ids": True}
    answer = adapted.post("/v1/completions", body | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(answer: Any) -> list[int]:
    found: list[int] = answer["choices"][0]["token_ids"]
    return found


def cached(answer: Any) -> int:
    found: int = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    return found


def load(adapted: ServerProcess, name: str, path: object) -> Any:
    return adapted.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(path)})


def unload(adapted: ServerProcess, name: str) -> Any:
    return adapted.post("/v1/unload_lora_adapter", {"lora_name": name})


def test_models_and_prefixes(adapted: ServerProcess, folders: Path) -> None:
    """An adapter is a model whose parent is the base; what one has cached is nothing to the other."""
    listed = adapted.http.get("/v1/models").json()["data"]
    assert [(one["id"], one["parent"]) for one in listed] == [("base", None), ("first", "base")]
    assert listed[1]["root"] == str(folders / "first")
    for name in ("base", "first"):
        cold, warm = complete(adapted, name), complete(adapted, name)
        assert (cold["model"], cached(cold)) == (name, 0) and cached(warm) > 0
        assert ids(cold) == ids(warm)
    assert ids(complete(adapted, "base")) != ids(complete(adapted, "first"))
    assert adapted.http.get("/v1/models/first").json()["parent"] == "base"
    assert (
        "there is base, first"
        in refused(adapted.post("/v1/completions", {"model": "x", "prompt": "a"}), 404, "not_found_error")["message"]
    )


def test_loading_while_it_runs(adapted: ServerProcess, folders: Path) -> None:
    """A name that is loaded again, from another directory, has nothing of the one before; the same after the engine
    died and was started again."""
    allowed = folders / "allowed"
    assert load(adapted, "more", allowed / "second").status_code == 200
    second = complete(adapted, "more")
    assert "served already" in refused(load(adapted, "more", "third"))["message"]
    assert "the most (--max-loras)" in refused(load(adapted, "other", "third"))["message"]
    assert unload(adapted, "more").status_code == 200
    assert (
        "not served here"
        in refused(adapted.post("/v1/completions", {"model": "more", "prompt": [1]}), 404, "not_found_error")["message"]
    )
    assert refused(unload(adapted, "more"), 404, "not_found_error")["param"] == "lora_name"
    assert load(adapted, "more", "third").status_code == 200
    third = complete(adapted, "more")
    assert cached(third) == 0 and ids(third) != ids(second)
    adapted.engine.kill()
    adapted.until(lambda: adapted.http.get("/health").status_code == 503)
    adapted.until(lambda: adapted.http.get("/health").status_code == 200)
    assert ids(complete(adapted, "more")) == ids(third)
    assert unload(adapted, "more").status_code == 200


def test_a_running_request_keeps_its_adapter(adapted: ServerProcess) -> None:
    assert load(adapted, "gone", "second").status_code == 200
    expected = ids(complete(adapted, "gone", max_tokens=400, ignore_eos=True, cache_salt="a"))
    body = {"model": "gone", "prompt": PROMPT, "max_tokens": 400, "temperature": 0, "ignore_eos": True, "stream": True}
    found: list[int] = []
    with adapted.http.stream("POST", "/v1/completions", json=body | {"return_token_ids": True}) as answer:
        for place, line in enumerate(line for line in answer.iter_lines() if line.startswith("data: {")):
            found += json.loads(line[6:])["choices"][0]["token_ids"]
            if place == 0:
                assert unload(adapted, "gone").status_code == 200
                assert load(adapted, "gone", "third").status_code == 200
    assert found == expected
    assert unload(adapted, "gone").status_code == 200


def test_what_is_refused(adapted: ServerProcess, folders: Path) -> None:
    for path in (folders / "outside", "link", "../outside", "", ".", "a\0b"):
        error = refused(load(adapted, "x", path))
        assert error["param"] == "lora_path", error
    error = refused(load(adapted, "x", "large"))
    assert "rank 32, more than --max-lora-rank 16" in error["message"]
    assert refused(load(adapted, "", "third"))["param"] == "lora_name"
    assert refused(load(adapted, "base", "third"))["param"] == "lora_name"
    assert adapted.http.get("/v1/models").json()["data"][1:][0]["id"] == "first"


def test_without_the_flag_nothing_is_loaded(server: ServerProcess) -> None:
    assert "--allowed-lora-path" in refused(load(server, "x", "y"), 403, "permission_error")["message"]
    assert "--allowed-lora-path" in refused(unload(server, "x"), 403, "permission_error")["message"]


@pytest.mark.parametrize(
    ("modules", "engine", "said"),
    [
        (("a=b",), {}, "need --enable-lora"),
        (("a=b", "b=c"), {"enable_lora": True, "max_loras": 1}, "2 adapters, more than --max-loras 1"),
        (("m=b",), {"enable_lora": True}, "'m' is the name of the model"),
        (("a=b", '{"name": "a", "path": "c"}'), {}, "names 'a' twice"),
        (("a",), {}, "'a' is not name=directory"),
        (('{"name": "a"}',), {}, 'must have "name" and "path"'),
        (("{",), {}, "is not JSON"),
    ],
)
def test_modules_that_are_refused(modules: tuple[str, ...], engine: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ServedAdapters(EngineConfig(model="m", **engine), ServerConfig(lora_modules=modules), ["m"])
