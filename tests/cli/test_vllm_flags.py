"""vLLM's settings on the command line and as keywords: accepted with a line, or refused with the reason."""

from __future__ import annotations

import dataclasses

import pytest

from flover.cli.flags import from_args
from flover.cli.main import main, make_parser
from flover.config import EngineConfig, ServerConfig, flag_name
from flover.config.vllm import VLLM_SETTINGS
from flover.errors import ConfigError
from flover.llm.settings import engine_settings

OURS = {item.name for config in (EngineConfig, ServerConfig) for item in dataclasses.fields(config)}
FOREIGN = {name: setting for name, setting in VLLM_SETTINGS.items() if name not in OURS}


@pytest.mark.parametrize("command", ["serve", "generate", "chat"])
@pytest.mark.parametrize("name", FOREIGN)
def test_every_setting_is_accepted_with_a_line_or_refused_with_its_reason(
    name: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    setting, flag = FOREIGN[name], flag_name(name)
    values = (
        [None] if setting.switch else ["something", *(str(one) for one in setting.accepts or () if one is not None)]
    )
    for value in values:
        typed: object = True if value is None else value
        refused = setting.accepts is not None and typed not in [str(one) for one in setting.accepts] + [
            one for one in setting.accepts if isinstance(one, bool)
        ]
        words = [command, flag, *([] if value is None else [value])]
        if refused:
            with pytest.raises(SystemExit) as ended:
                make_parser(command).parse_args(words)
            assert ended.value.code == 2
            err = capsys.readouterr().err
            assert err.startswith(f"flover {command}: error: {flag}: {setting.why}")
        else:
            args = make_parser(command).parse_args(words)
            assert args.model_argument is None, "its value is no MODEL"
            err = capsys.readouterr().err
            assert err == ("" if setting.same_as else f"flover {command}: {flag} changes nothing: {setting.why}\n")


def test_what_it_was_in_vllm_it_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["serve", "model", "--gpu-memory-utilization", "0.9", "--cuda-graph-sizes", "8", "--disable-log-requests"]
    words += ["--enable-chunked-prefill", "--max-num-seqs", "7", "--swap-space=4", "--device", "cpu"]
    args = make_parser("serve").parse_args(words)
    assert args.model_argument == "model"
    assert from_args(args, EngineConfig).max_num_seqs == 7
    assert args.log_requests is False
    assert capsys.readouterr().err.count("\n") == 3


def test_code_of_a_model_is_never_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "model", "--trust-remote-code"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("flover serve: error: --trust-remote-code: code from a model repository is never run")
    with pytest.raises(ConfigError, match=r"^trust_remote_code: code from a model repository is never run$"):
        engine_settings({"trust_remote_code": True})


def test_keywords_and_flags_have_one_table() -> None:
    for name, setting in FOREIGN.items():
        if setting.accepts is None:
            assert engine_settings({name: object()}) == {}
            continue
        for value in setting.accepts:
            assert engine_settings({name: value}) == {}
        with pytest.raises(ConfigError, match=f"^{name}: "):
            engine_settings({name: "something else"})
    with pytest.raises(ConfigError):
        engine_settings({"pipeline_parallel_size": True})


def test_help_shows_only_what_flover_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--cuda-graph-sizes" not in out
    assert "--trust-remote-code" not in out
