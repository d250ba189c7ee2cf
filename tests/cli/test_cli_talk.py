"""generate, chat and doctor on the bundled model, in this process; chat also against a server of the test's own."""

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from fake_http import FakeHandler, FakeServer, serving

from flover.cli.main import main
from flover.model.hf_config import read_model_directory
from flover.model.locate import BUNDLED_PATH

GREEDY = ["--temperature", "0", "--max-tokens", "12", "--num-threads", "1"]


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    code = main(words)
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def test_one_prompt_streams_and_is_the_same_fused_with_others(capsys: pytest.CaptureFixture[str]) -> None:
    alone = run(capsys, "generate", "-p", "Once upon a time", *GREEDY)
    together = run(capsys, "generate", "-p", "Once upon a time", "The cat", *GREEDY)
    first, rest = together.split("--- The cat\n")
    assert len(alone.split()) > 3
    assert first == "--- Once upon a time\n" + alone
    assert rest.strip()


def test_the_prompt_may_come_from_standard_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(capsys, "generate", "-p", "Once upon a time", *GREEDY)
    monkeypatch.setattr("sys.stdin", io.StringIO("Once upon a time\n"))
    assert run(capsys, "generate", *GREEDY) == expected


def test_a_stop_string_ends_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "generate", "-p", "Once upon a time", *GREEDY).rstrip("\n")
    word = text.split()[2]
    stopped = run(capsys, "generate", "-p", "Once upon a time", "--stop", word, *GREEDY).rstrip("\n")
    assert stopped == text[: text.index(word)]


def test_the_text_is_what_the_constraint_says(capsys: pytest.CaptureFixture[str]) -> None:
    flag = ["generate", "-p", "Once", *GREEDY, "--structured-outputs"]
    assert run(capsys, *flag, '{"regex": "[0-9]{4}"}').strip().isdigit()
    for wrong, message in (
        ('{"regex": "("}', "structured_outputs.regex cannot be compiled: "),
        ("{}", "exactly one of json, regex"),
        ('{"rgx": "a"}', "unknown field `rgx`"),
        ("{", "truncated"),
    ):
        assert main([*flag, wrong]) == 2
        assert message in capsys.readouterr().err


def test_a_prompt_that_is_too_long_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "-p", "word " * 3000, *GREEDY]) == 2
    err = capsys.readouterr().err
    assert "context" in err
    assert err.count("\n") == 1


def test_piped_lines_are_answered_and_nothing_else_is_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello.\n/reset\nHello.\n/exit\nnever read\n"))
    hello, again, rest = run(capsys, "chat", *GREEDY).split("\n")
    assert hello.strip()
    assert again == hello, "/reset forgets what came before"
    assert rest == ""


def test_quick_chat_answers_once(capsys: pytest.CaptureFixture[str]) -> None:
    answer = run(capsys, "chat", "-q", "Hello.", *GREEDY)
    assert answer.strip()
    assert run(capsys, "run", "flover-tiny", "Hello.", *GREEDY) == answer
    assert main(["run", "flover-tiny", "Hello.", "-q", "Hello."]) == 2
    assert "the message is given twice" in capsys.readouterr().err


class OpenAI(FakeHandler):
    """Answers a chat with how many messages it got."""

    def get(self) -> None:
        self.answer(200, json.dumps({"data": [{"id": "served"}]}))

    def post(self, body: Any) -> None:
        self.server.seen.append((body, self.headers.get("Authorization")))
        if body["messages"][-1]["content"] == "break":
            self.answer(400, json.dumps({"error": {"message": "no such thing"}}))
            return
        words = [f"{len(body['messages'])} ", "messages"]
        chunks = [{"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]} for word in words]
        events = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
        self.answer(200, "".join([*events, "data: [DONE]\n\n"]))


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serving(OpenAI) as made:
        yield made


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
def test_chat_with_a_server(
    server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n"))
    url = server.url + path
    out = run(capsys, "chat", "--url", url, "--api-key", "key", "--system-prompt", "Be brief.", "--top-k", "5")
    assert out == "2 messages\n4 messages\n"
    body, key = server.seen[0]
    assert key == "Bearer key"
    assert body["model"] == "served"
    assert body["top_k"] == 5
    assert "ignore_eos" not in body


def test_a_key_from_the_environment(
    server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOVER_API_KEY", "from-outside")
    run(capsys, "chat", "--url", server.url, "-q", "Hello.")
    assert server.seen[0][1] == "Bearer from-outside"


def test_what_a_server_refuses_ends_a_pipe_with_its_message(
    server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("one\nbreak\ntwo\n"))
    assert main(["chat", "--url", server.url]) == 2
    out, err = capsys.readouterr()
    assert out == "1 messages\n"
    assert err == "flover chat: error: the server says 400: no such thing\n"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:1", "cannot connect to http://127.0.0.1:1: connection refused; is the server running?"),
        ("http://no-such-host.invalid", "cannot connect to http://no-such-host.invalid: no such host"),
    ],
)
@pytest.mark.parametrize("command", [["chat", "-q", "x", "--url"], ["top", "--once"]], ids=["chat", "top"])
def test_a_server_that_is_not_there_is_one_line(
    capsys: pytest.CaptureFixture[str], command: list[str], url: str, message: str
) -> None:
    assert main([*command, url]) == 1
    assert capsys.readouterr().err == f"flover {command[0]}: error: {message}\n"


@pytest.mark.parametrize("url", ["", "localhost:8000", "http://", "http://a:b", "http://[::1", "http://a b", "ftp://a"])
def test_an_address_that_is_none_is_refused(capsys: pytest.CaptureFixture[str], url: str) -> None:
    assert main(["chat", "-q", "x", "--url", url]) == 2
    assert "--url must begin with http:// or https:// and name a host" in capsys.readouterr().err


def test_doctor_says_what_fits(capsys: pytest.CaptureFixture[str]) -> None:
    _, model = read_model_directory(BUNDLED_PATH)
    token_bytes = 2 * model.num_layers * model.num_kv_heads * model.head_dim * 4
    pages = 2**20 // (16 * token_bytes) - 1
    out = run(capsys, "doctor", "--kv-cache-memory-bytes", "1MiB", "--num-threads", "1")
    assert f"{token_bytes / 2**10:.1f} KiB per token" in out
    assert f"{16 * pages} tokens in pages of 16" in out
    assert "GB/s" in out
    assert "The model fits." in out


def test_doctor_says_what_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--kv-cache-memory-bytes", "1000G"]) == 1
    assert "The model does not fit" in capsys.readouterr().out
    assert main(["doctor", "/no/such/model"]) == 1
    assert "The model cannot be used." in capsys.readouterr().out
