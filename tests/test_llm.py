"""`LLM` over a fake engine: prompts in every form, outputs in vLLM's form, clean ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import write_tokenizer
from support.fake_engine import EOS, FakeEngine

from flover.config import EngineConfig
from flover.errors import ConfigError, EngineClosedError, EngineDeadError, InvariantError, RequestError
from flover.llm.llm import LLM
from flover.llm.outputs import Logprob
from flover.llm.settings import engine_settings
from flover.progress import GenerationBar
from flover.request import SamplingParams
from flover.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return Tokenizer.load(folder)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def llm(engine: FakeEngine, tokenizer: Tokenizer) -> LLM:
    return LLM.from_engine(engine, tokenizer)


def texts(outputs: list[Any]) -> list[str]:
    return [output.outputs[0].text for output in outputs]


def test_one_prompt_has_vllms_fields(llm: LLM) -> None:
    (output,) = llm.generate("abc", SamplingParams(max_tokens=5))
    completion = output.outputs[0]
    assert (output.prompt, output.prompt_token_ids, output.finished) == ("abc", [97, 98, 99], True)
    assert (completion.index, completion.text, completion.token_ids) == (0, "abcab", [97, 98, 99, 97, 98])
    assert (completion.finish_reason, completion.stop_reason, completion.finished()) == ("length", None, True)
    assert (completion.logprobs, completion.cumulative_logprob, output.prompt_logprobs) == (None, None, None)
    metrics = output.metrics
    assert metrics is not None and metrics.first_token_time is not None and metrics.finished_time is not None
    assert metrics.arrival_time <= metrics.first_token_time <= metrics.finished_time
    assert output.num_cached_tokens == 0


def test_outputs_are_in_the_order_of_the_prompts(llm: LLM, engine: FakeEngine) -> None:
    params = [SamplingParams(max_tokens=count) for count in (9, 1, 5)]
    outputs = llm.generate(["aaa", "b", "cc"], params)
    assert texts(outputs) == ["a" * 9, "b", "c" * 5]
    assert engine.num_steps == 9, "the prompts must run together"
    assert len({output.request_id for output in outputs + llm.generate(["d"])}) == 4


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ("ab", ["abab"]),
        (["ab", "c"], ["abab", "cccc"]),
        ({"prompt": "ab"}, ["abab"]),
        ({"prompt_token_ids": [97]}, ["aaaa"]),
        ([{"prompt_token_ids": [97]}, "b", [99, 100]], ["aaaa", "bbbb", "cdcd"]),
        ([97, 98], ["abab"]),
        ([[97], [98]], ["aaaa", "bbbb"]),
        ([], []),
    ],
)
def test_every_form_of_prompts(llm: LLM, prompts: Any, expected: list[str]) -> None:
    assert texts(llm.generate(prompts, SamplingParams(max_tokens=4))) == expected


def test_token_ids_need_no_tokenizer(engine: FakeEngine) -> None:
    llm = LLM.from_engine(engine, None)
    (output,) = llm.generate([[97, 98]], SamplingParams(max_tokens=3, logprobs=1))
    assert (output.prompt, output.outputs[0].text, output.outputs[0].token_ids) == (None, "", [97, 98, 97])
    assert output.outputs[0].logprobs is not None
    assert output.outputs[0].logprobs[0][97].decoded_token is None
    with pytest.raises(RequestError, match="no tokenizer is loaded"):
        llm.generate("text")
    with pytest.raises(ConfigError, match="skip_tokenizer_init"):
        llm.get_tokenizer()


def test_several_sequences_per_prompt(llm: LLM) -> None:
    (output,) = llm.generate("abc", SamplingParams(max_tokens=2, n=3))
    assert [(one.index, one.text) for one in output.outputs] == [(0, "ab"), (1, "bc"), (2, "ca")]


def test_a_stop_string_cancels_its_sequence_only(llm: LLM, engine: FakeEngine) -> None:
    (output, other) = llm.generate(["abcd", "wxyz"], SamplingParams(max_tokens=8, n=2, stop="da"))
    first, second = output.outputs
    assert (first.text, first.finish_reason, first.stop_reason) == ("abc", "stop", "da")
    assert first.token_ids == list(b"abcda")
    assert (second.text, second.token_ids) == ("bc", list(b"bcda"))
    assert other.outputs[0].text == "wxyzwxyz"
    assert sorted(engine.cancelled) == [("0", 0), ("0", 1)]
    assert not engine.has_work


def test_end_of_sequence(llm: LLM) -> None:
    (output,) = llm.generate([[97, 98, EOS]], SamplingParams(max_tokens=9))
    assert output.outputs[0].text == "ab"
    assert output.outputs[0].token_ids == [97, 98, EOS]
    assert (output.outputs[0].finish_reason, output.outputs[0].stop_reason) == ("stop", None)


def test_log_probabilities_have_vllms_form(llm: LLM) -> None:
    (output,) = llm.generate("ab", SamplingParams(max_tokens=2, logprobs=2, prompt_logprobs=2))
    completion = output.outputs[0]
    seven = Logprob(-1.5, 2, "\x07")
    assert completion.logprobs == [{97: Logprob(-0.25, 1, "a"), 7: seven}, {98: Logprob(-0.25, 1, "b"), 7: seven}]
    assert completion.cumulative_logprob == -0.5
    assert output.prompt_logprobs == [None, {97: Logprob(-0.25, 1, "a"), 7: seven}]


def test_a_failed_sequence_says_so_and_the_others_go_on(tokenizer: Tokenizer) -> None:
    llm = LLM.from_engine(FakeEngine(error_for="0"), tokenizer)
    failed, fine = llm.generate(["a", "b"], SamplingParams(max_tokens=3))
    assert (failed.outputs[0].finish_reason, failed.outputs[0].error) == ("error", "numbers are bad")
    assert (fine.outputs[0].text, fine.outputs[0].error) == ("bbb", None)


def test_all_prompts_are_checked_before_any_is_run(llm: LLM, engine: FakeEngine) -> None:
    with pytest.raises(RequestError, match=r"prompts\[2\]: token id 300 is out of range") as caught:
        llm.generate(["a", "b", [300], "c"])
    assert caught.value.param == "prompt"
    assert not engine.submitted
    with pytest.raises(RequestError, match="maximum context length is"):
        llm.generate(["a", "a" * 250])
    assert not engine.submitted


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"sampling_params": [SamplingParams()]}, "sampling_params: 1 given for 2 prompts"),
        ({"sampling_params": []}, "sampling_params: 0 given for 2 prompts"),
        ({"sampling_params": {"temperature": 0}}, "must be SamplingParams"),
        ({"sampling_params": [SamplingParams(), 7]}, "must be SamplingParams"),
        ({"priority": 1}, "scheduling_policy='priority'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(llm: LLM, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        llm.generate(["a", "b"], **kwargs)


def test_priorities_reach_the_engine(engine: FakeEngine, tokenizer: Tokenizer) -> None:
    llm = LLM.from_engine(engine, tokenizer, by_priority=True)
    llm.generate(["a", "b"], priority=[3, -1])
    llm.generate("c", priority=5)
    assert [request.priority for request in engine.submitted] == [3, -1, 5]


def test_cache_salt_and_cached_tokens(llm: LLM, engine: FakeEngine) -> None:
    (output,) = llm.generate({"prompt": "a", "cache_salt": "tenant"})
    assert (engine.submitted[0].salt, output.num_cached_tokens) == ("tenant", 16)


def test_seeds_are_drawn_from_the_models_seed(tokenizer: Tokenizer) -> None:
    def seeds(seed: int | None) -> list[int]:
        engine = FakeEngine()
        LLM.from_engine(engine, tokenizer, seed=seed).generate(["a", "b"])
        return [request.seed for request in engine.submitted]

    assert seeds(5) == seeds(5)
    assert seeds(5) != seeds(6)
    assert len({*seeds(None), *seeds(None), *seeds(5)}) == 6


def test_defaults_are_the_models(engine: FakeEngine, tokenizer: Tokenizer) -> None:
    defaults = SamplingParams(temperature=0.3, max_tokens=2)
    llm = LLM.from_engine(engine, tokenizer, defaults=defaults)
    assert texts(llm.generate("a")) == ["aa"]
    assert engine.submitted[0].params.temperature == 0.3
    assert llm.get_default_sampling_params() == defaults
    assert LLM.from_engine(engine, tokenizer).get_default_sampling_params().max_tokens == 16


def test_chat_renders_the_models_template(llm: LLM) -> None:
    messages = [{"role": "user", "content": "hi"}]
    (output,) = llm.chat(messages, SamplingParams(max_tokens=4))
    assert (output.prompt, output.outputs[0].text) == ("user: hi\nassistant: ", "user")
    two = llm.chat([messages, [*messages, {"role": "assistant", "content": "yo"}, messages[0]]])
    assert [output.prompt for output in two] == [
        "user: hi\nassistant: ",
        "user: hi\nassistant: yo\nuser: hi\nassistant: ",
    ]
    (own,) = llm.chat(messages, chat_template="[{{ messages[0].content }}]")
    assert own.prompt == "[hi]"


def test_chat_refuses_by_index_and_name(llm: LLM, engine: FakeEngine) -> None:
    good = [{"role": "user", "content": "hi"}]
    with pytest.raises(RequestError, match=r"messages\[1\]: messages\[0\]\.role must be one of"):
        llm.chat([good, [{"role": "god", "content": "hi"}]])
    with pytest.raises(RequestError, match=r"messages must not be empty"):
        llm.chat([])
    assert not engine.submitted


def test_chat_needs_a_template(engine: FakeEngine, tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    llm = LLM.from_engine(engine, Tokenizer.load(tmp_path))
    with pytest.raises(RequestError, match="no chat template"):
        llm.chat([{"role": "user", "content": "hi"}])


@pytest.mark.parametrize("error", [EngineDeadError("gone"), RuntimeError("bug"), KeyboardInterrupt()])
def test_an_interrupted_call_leaves_nothing_in_the_engine(tokenizer: Tokenizer, error: BaseException) -> None:
    engine = FakeEngine(fail_at={3: error})
    llm = LLM.from_engine(engine, tokenizer)
    with pytest.raises(type(error)):
        llm.generate(["a", "b"], SamplingParams(max_tokens=9))
    assert not engine.has_work
    assert engine.cancelled == [("0", 0), ("1", 0)]
    assert texts(llm.generate("c", SamplingParams(max_tokens=2))) == ["cc"]


def test_ctrl_c_takes_effect_between_two_iterations(tokenizer: Tokenizer) -> None:
    class Interrupted(FakeEngine):
        whole_steps = 0

        def step(self) -> list[Any]:
            if self.num_steps == 2:
                os.kill(os.getpid(), signal.SIGINT)
            deltas = super().step()
            self.whole_steps += 1
            return deltas

    engine = Interrupted()
    llm = LLM.from_engine(engine, tokenizer)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            llm.generate(["a", "b"], SamplingParams(max_tokens=50))
        assert (engine.whole_steps, engine.has_work) == (3, False)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_that_the_caller_handles_does_not_end_a_call(tokenizer: Tokenizer) -> None:
    class Interrupted(FakeEngine):
        def step(self) -> list[Any]:
            if self.num_steps == 2:
                os.kill(os.getpid(), signal.SIGINT)
                assert not handled
            return super().step()

    handled: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: handled.append(number))
    try:
        assert texts(LLM.from_engine(Interrupted(), tokenizer).generate("c", SamplingParams(max_tokens=5))) == ["ccccc"]
        assert handled == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_engine_that_forgets_a_request_is_noticed(tokenizer: Tokenizer) -> None:
    class Forgetful(FakeEngine):
        def submit(self, request: Any) -> None:
            pass

    with pytest.raises(InvariantError, match="1 sequences have not ended"):
        LLM.from_engine(Forgetful(), tokenizer).generate("a")


def test_closing(llm: LLM, engine: FakeEngine) -> None:
    with llm:
        assert llm.get_metrics().step == 0
        llm.reset_prefix_cache()
        assert engine.num_steps == 1000
    llm.close()
    assert engine.num_closed == 1
    for call in (lambda: llm.generate("a"), llm.get_metrics, llm.reset_prefix_cache):
        with pytest.raises(EngineClosedError, match="closed"):
            call()


def test_engine_settings_pass_and_vllms_harmless_ones_are_dropped() -> None:
    settings = {"max_num_seqs": 3, "trust_remote_code": False, "pipeline_parallel_size": 1, "swap_space": 4}
    assert engine_settings(settings) == {"max_num_seqs": 3}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"trust_remote_code": True}, "code from a model repository is never run"),
        ({"pipeline_parallel_size": 2}, "only 1 is accepted"),
        ({"num_gpu_blocks_override": 9}, "--kv-cache-memory-bytes"),
        ({"quantization": "awq"}, "quantization must be one of int8, int4"),
        ({"enable_chunked_prefill": False}, "always join in chunks"),
    ],
)
def test_vllm_settings_that_cannot_be_honoured_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LLM(**setting)


def test_unknown_settings_are_refused_with_near_names() -> None:
    with pytest.raises(TypeError, match=r"no setting 'max_num_seq'; did you mean max_num_seqs"):
        LLM(max_num_seq=3)
    with pytest.raises(TypeError, match="known are async_scheduling, batch_invariant"):
        LLM(zzz=1)


def test_bad_values_of_settings_are_config_errors() -> None:
    with pytest.raises(ConfigError, match="max-num-seqs"):
        LLM(max_num_seqs=0)
    with pytest.raises(ConfigError, match="dtype"):
        LLM(dtype="float8")
    assert EngineConfig().target_itl_ms > 0


def test_import_flover_is_cheap_and_offers_the_names() -> None:
    code = (
        "import sys, flover; assert 'torch' not in sys.modules and 'jinja2' not in sys.modules;"
        "from flover import LLM, SamplingParams, RequestError, __version__; assert 'torch' not in sys.modules;"
        "assert set(flover.__all__) <= set(dir(flover));"
        "[getattr(flover, name) for name in flover.__all__]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_bar_appears_only_when_a_batch_takes_long(capfd: pytest.CaptureFixture[str]) -> None:
    for enabled, total, seconds, shown in [
        (True, 9, 2.0, True),
        (True, 9, 0.5, False),
        (True, 1, 2.0, False),
        (False, 9, 2.0, False),
    ]:
        with GenerationBar(enabled=enabled, total=total) as bar:
            bar.advance(100.0, 10)
            bar.finished = 4
            bar.advance(100.0 + seconds, 10)
        out, err = capfd.readouterr()
        assert out == ""
        assert ("4/9" in err and "10 tok/s" in err) == shown
        assert bool(err.strip()) == shown
