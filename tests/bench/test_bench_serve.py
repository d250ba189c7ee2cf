"""`bench serve`, pure parts: figures from ticks, arrivals, the printed block, the JSON keys, refusals."""

import itertools
import json
import math
import statistics
from pathlib import Path

import pytest

from flover.bench.metrics import RequestRecord
from flover.bench.serving.choose import Data, ServeOptions, choose_dataset
from flover.bench.serving.datasets import RandomPrompts
from flover.bench.serving.figures import Figures, make_figures, peak_concurrency, peak_throughput
from flover.bench.serving.files import result_path, save
from flover.bench.serving.options import ResultOptions, Sampling, ServerOptions, Traffic
from flover.bench.serving.report import Setup, block, details, result
from flover.bench.serving.requests import make_send, prompt_for
from flover.bench.serving.traffic import arrivals, ramp_rate
from flover.errors import ConfigError


def record(sent: float, ticks: list[float], **changes: object) -> RequestRecord:
    values = {"end": ticks[-1] if ticks else None, "prompt_tokens": 3, "output_tokens": len(ticks), **changes}
    return RequestRecord(sent=sent, ticks=ticks, **values)


# A first token after 100, 200, 300, 400 ms, then two more every 50 ms.
FOUR = [record(0.0, [ttft, ttft + 0.05, ttft + 0.1]) for ttft in (0.1, 0.2, 0.3, 0.4)]


def test_figures_of_known_ticks() -> None:
    figures = make_figures(FOUR, percentiles=(50.0, 99.0))
    ttft, tpot, itl, e2el = (figures.metrics[name] for name in ("ttft", "tpot", "itl", "e2el"))
    assert (ttft.mean, ttft.median, ttft.percentiles[50.0]) == pytest.approx((250.0, 250.0, 250.0))
    assert ttft.percentiles[99.0] == pytest.approx(397.0)
    assert ttft.std == pytest.approx(1e3 * math.sqrt(0.0125))
    assert tpot.mean == pytest.approx(50.0)
    assert (itl.mean, itl.std) == pytest.approx((50.0, 0.0), abs=1e-6)
    assert e2el.percentiles[99.0] == pytest.approx(497.0)
    assert figures.duration == pytest.approx(0.5)
    assert figures.request_throughput == pytest.approx(8.0)
    assert figures.output_throughput == pytest.approx(24.0)
    assert figures.total_throughput == pytest.approx(48.0)


@pytest.mark.parametrize(
    ("limits", "good"),
    [
        ({}, 4),
        ({"ttft": 250.0}, 2),
        ({"e2el": 410.0}, 3),
        ({"tpot": 49.0}, 0),
        ({"ttft": 350.0, "e2el": 210.0, "tpot": 51.0}, 1),
    ],
)
def test_goodput_counts_requests_that_meet_every_limit(limits: dict[str, float], good: int) -> None:
    figures = make_figures([*FOUR, record(0.0, [], error="429: full")], limits)
    assert (figures.good, figures.attainment) == (good, good / 5)
    assert figures.goodput == pytest.approx(good / 0.5)


def test_a_request_of_one_token_has_no_time_per_token_to_miss() -> None:
    figures = make_figures([record(0.0, [1.0])], {"tpot": 0.001})
    assert figures.good == 1
    assert math.isnan(figures.metrics["tpot"].mean)


def test_the_peak_is_the_best_whole_second_and_weighs_merged_chunks() -> None:
    assert peak_throughput([record(10.0, [10.1, 10.9, 11.1, 11.2, 11.3, 12.5])]) == 3.0
    assert peak_throughput([record(10.0, [10.1, 11.1, 11.2], output_tokens=6)]) == 4.0
    assert peak_throughput([]) == 0.0


def test_peak_concurrency_counts_open_requests_and_not_those_that_only_touch() -> None:
    assert peak_concurrency([record(0.0, [1.0]), record(1.0, [2.0]), record(2.0, [3.0])]) == 1
    assert peak_concurrency([record(0.0, [4.0]), record(1.0, [2.0]), record(1.5, [3.0]), record(2.5, [5.0])]) == 3


def test_nothing_served_has_figures_too() -> None:
    figures = make_figures([record(0.0, [], error="refused")], {"ttft": 1.0})
    assert (figures.completed, figures.failed, figures.output_throughput, figures.attainment) == (0, 1, 0.0, 0.0)


# Arrivals


def test_a_ramp_grows_from_its_first_to_its_last_rate() -> None:
    ends = {"ramp_up_start_rps": 2.0, "ramp_up_end_rps": 8.0}
    linear = Traffic(ramp_up_strategy="linear", burstiness=math.inf, **ends)
    exponential = Traffic(ramp_up_strategy="exponential", **ends)
    assert [ramp_rate(linear, index, 3) for index in range(3)] == [2.0, 5.0, 8.0]
    assert [ramp_rate(exponential, index, 3) for index in range(3)] == pytest.approx([2.0, 4.0, 8.0])
    assert arrivals(linear, 3, seed=0) == pytest.approx([0.0, 0.5, 0.7])


def test_rates_without_limits_and_without_chance() -> None:
    assert arrivals(Traffic(), 3, seed=0) == [0.0, 0.0, 0.0]
    assert arrivals(Traffic(request_rate=4.0, burstiness=math.inf), 3, seed=0) == [0.0, 0.25, 0.5]


@pytest.mark.parametrize(("burstiness", "spread"), [(1.0, 1.0), (0.25, 2.0), (4.0, 0.5)])
def test_gaps_spread_as_asked_for_and_their_mean_is_exact(burstiness: float, spread: float) -> None:
    times = arrivals(Traffic(request_rate=10.0, burstiness=burstiness), 5000, seed=1)
    gaps = [late - early for early, late in itertools.pairwise(times)]
    assert statistics.fmean(gaps) == pytest.approx(0.1)
    assert statistics.pstdev(gaps) == pytest.approx(0.1 * spread, rel=0.05)


def test_arrivals_follow_the_seed() -> None:
    times = arrivals(Traffic(request_rate=10.0), 5000, seed=1)
    assert times == arrivals(Traffic(request_rate=10.0), 5000, seed=1)
    assert times != arrivals(Traffic(request_rate=10.0), 5000, seed=2)


# The block and the result

SETUP = {
    "date": "20260101-120000",
    "backend": "openai",
    "label": None,
    "model_id": "owner/tiny",
    "tokenizer_id": None,
    "num_prompts": 4,
    "metrics": ("ttft", "tpot", "itl", "e2el"),
    "limits": {"ttft": 250.0},
    "metadata": {"host": "desk"},
}
FULL = """\
============ Serving Benchmark Result ============
Successful requests:                     4
Failed requests:                         0
Maximum request concurrency:             8
Request rate configured (RPS):           2.50
Benchmark duration (s):                  0.50
Total input tokens:                      12
Total generated tokens:                  12
Request throughput (req/s):              8.00
Request goodput (req/s):                 4.00
Output token throughput (tok/s):         24.00
Peak output token throughput (tok/s):    12.00
Peak concurrent requests:                4.00
Total token throughput (tok/s):          48.00
---------------Time to First Token----------------
Mean TTFT (ms):                          250.00
Median TTFT (ms):                        250.00
P99 TTFT (ms):                           397.00
-----Time per Output Token (excl. 1st token)------
Mean TPOT (ms):                          50.00
Median TPOT (ms):                        50.00
P99 TPOT (ms):                           50.00
---------------Inter-token Latency----------------
Mean ITL (ms):                           50.00
Median ITL (ms):                         50.00
P99 ITL (ms):                            50.00
----------------End-to-end Latency----------------
Mean E2EL (ms):                          350.00
Median E2EL (ms):                        350.00
P99 E2EL (ms):                           497.00
=================================================="""
KEYS = """date endpoint_type backend label model_id tokenizer_id num_prompts host
request_rate burstiness max_concurrency duration
completed failed total_input_tokens total_output_tokens total_cached_tokens request_throughput request_goodput
output_throughput total_token_throughput max_output_tokens_per_s max_concurrent_requests
mean_ttft_ms median_ttft_ms std_ttft_ms p99_ttft_ms mean_tpot_ms median_tpot_ms std_tpot_ms p99_tpot_ms
mean_itl_ms median_itl_ms std_itl_ms p99_itl_ms mean_e2el_ms median_e2el_ms std_e2el_ms p99_e2el_ms"""


def figures_and_setup(traffic: Traffic | None = None, **changes: object) -> tuple[Figures, Setup]:
    values = {**SETUP, "traffic": traffic or Traffic(request_rate=2.5, max_concurrency=8), **changes}
    return make_figures(FOUR, {"ttft": 250.0}), Setup(**values)


def test_the_block_has_the_labels_and_the_order_that_scripts_read() -> None:
    assert [line.rstrip() for line in block(*figures_and_setup())] == FULL.splitlines()


def test_lines_of_settings_that_were_not_asked_for_are_left_out() -> None:
    lines = block(*figures_and_setup(Traffic(), limits={}, metrics=("itl",)))
    text = "\n".join(lines)
    for label in ("Maximum request concurrency", "Request rate configured", "goodput", "TTFT", "E2EL"):
        assert label not in text
    assert "Mean ITL (ms):" in text


def test_the_result_has_the_keys_that_scripts_read() -> None:
    found = result(*figures_and_setup())
    assert list(found) == KEYS.split()
    assert (found["request_rate"], found["p99_ttft_ms"], found["host"]) == (2.5, pytest.approx(397.0), "desk")
    assert result(*figures_and_setup(Traffic()))["request_rate"] == "inf"
    assert result(*figures_and_setup(limits={}))["request_goodput"] is None
    ramp = Traffic(ramp_up_strategy="linear", ramp_up_start_rps=1.0, ramp_up_end_rps=2.0)
    assert result(*figures_and_setup(ramp))["ramp_up_end_rps"] == 2.0


def test_details_are_in_the_order_of_the_requests() -> None:
    failed = record(5.0, [], error="429: full", prompt_tokens=0)
    found = details([record(4.0, [4.5, 5.0], text="ab"), failed])
    assert found == {
        "input_lens": [3, 0],
        "output_lens": [2, 0],
        "ttfts": [0.5, 0.0],
        "itls": [[0.5], []],
        "start_times": [0.0, 1.0],
        "generated_texts": ["ab", ""],
        "errors": ["", "429: full"],
    }


@pytest.mark.parametrize(
    ("traffic", "label", "name"),
    [
        (Traffic(), None, "openai-infqps-tiny-20260101-120000.json"),
        (Traffic(request_rate=2.0), "mine", "mine-2.0qps-tiny-20260101-120000.json"),
        (Traffic(max_concurrency=4), None, "openai-infqps-concurrency4-tiny-20260101-120000.json"),
    ],
)
def test_results_are_named_after_label_rate_model_and_time(
    tmp_path: Path, traffic: Traffic, label: str | None, name: str
) -> None:
    results = ResultOptions(save_result=True, result_dir=str(tmp_path / "new"))
    _, setup = figures_and_setup(traffic, label=label)
    assert result_path(results, setup) == tmp_path / "new" / name


def test_a_result_replaces_the_file_or_becomes_its_last_line(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    for append in (False, False, True):
        save(path, {"duration": math.nan, "rate": math.inf}, append=append)
    assert [json.loads(line) for line in path.read_text().splitlines()] == 2 * [{"duration": None, "rate": "inf"}]


# Refusals


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Traffic(request_rate=0.0), "--request-rate must be above 0"),
        (lambda: Traffic(burstiness=-1.0), "--burstiness must be above 0"),
        (lambda: Traffic(max_concurrency=0), "--max-concurrency must be at least 1"),
        (lambda: Traffic(ramp_up_strategy="linear"), "--ramp-up-start-rps"),
        (lambda: Traffic(ramp_up_start_rps=1.0), "need --ramp-up-strategy"),
        (
            lambda: Traffic(ramp_up_strategy="linear", ramp_up_start_rps=1.0, ramp_up_end_rps=2.0, request_rate=3.0),
            "exclude each other",
        ),
        (lambda: ResultOptions(goodput=("itl:5",)), "--goodput takes"),
        (lambda: ResultOptions(goodput=("ttft:fast",)), "takes numbers"),
        (lambda: ResultOptions(percentile_metrics="ttft,foo"), "got foo"),
        (lambda: ResultOptions(metric_percentiles="101"), "between 0 and 100"),
        (lambda: ResultOptions(metadata=("nothing",)), "KEY=VALUE"),
        (lambda: ResultOptions(metadata=("command=x",)), "cannot be called command"),
        (lambda: ResultOptions(save_detailed=True), "needs --save-result"),
        (lambda: Sampling(extra_body="[1]"), "JSON object"),
        (lambda: Sampling(extra_body="{"), "not JSON"),
        (lambda: ServerOptions(endpoint="v1"), "must begin with /"),
        (lambda: Data(dataset_name="sharegpt"), "would have to be downloaded"),
        (lambda: Data(dataset_name="mine"), "must be one of random"),
        (lambda: Data(dataset_name="custom"), "needs --dataset-path"),
        (lambda: Data(dataset_path="x"), "does not take --dataset-path"),
        (lambda: Data(num_prompts=0), "--num-prompts must be at least 1"),
        (lambda: Data(self_timed=True), "--self-timed is for"),
        (lambda: choose_dataset(Data(), {"gsp_num_groups": 3}), "--gsp-num-groups is not for --dataset-name random"),
        (lambda: choose_dataset(Data(output_len=5), {"random_output_len": 6}), "the general flag says 5"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(make: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


def test_a_trace_has_times_of_its_own() -> None:
    parts = {"target": ServerOptions(), "sampling": Sampling(), "results": ResultOptions(), "dataset": RandomPrompts()}
    data = Data(dataset_name="timed_trace", dataset_path="x")
    ServeOptions(data=data, traffic=Traffic(), **parts)
    with pytest.raises(ConfigError, match="--no-self-timed"):
        ServeOptions(data=data, traffic=Traffic(request_rate=2.0), **parts)


def test_general_lengths_mean_the_data_sets_own() -> None:
    dataset = choose_dataset(Data(input_len=7, output_len=5), {})
    assert dataset == RandomPrompts(random_input_len=7, random_output_len=5)


# Requests


def test_a_request_as_each_backend_wants_it() -> None:
    (sample,) = RandomPrompts(random_input_len=4, random_output_len=9).samples(1, draw())
    completions, chats = ServerOptions(), ServerOptions(backend="openai-chat")
    send = make_send(sample, 1.5, completions, "m", {"top_p": 0.5}, prompt_for(sample, completions, None))
    assert (send.at, send.path) == (1.5, "/v1/completions")
    assert send.body == {"model": "m", "max_tokens": 9, "top_p": 0.5, "prompt": list(sample.prompt)}
    send = make_send(sample, 0.0, chats, "m", {}, "hello")
    assert (send.path, send.body["messages"]) == ("/v1/chat/completions", [{"role": "user", "content": "hello"}])
    with pytest.raises(ConfigError, match="need --tokenizer"):
        prompt_for(sample, chats, None)


def test_where_the_server_is_and_what_it_is_told() -> None:
    assert ServerOptions(host="::1", port=9).url == "http://[::1]:9"
    assert ServerOptions(base_url="https://api.example.org/").url == "https://api.example.org"
    target = ServerOptions(api_key="k", header=("x-a=b=c",))
    assert target.headers == {"Authorization": "Bearer k", "x-a": "b=c"}


def draw(seed: int = 0) -> object:
    from flover.bench.serving.datasets import Draw

    return Draw(seed=seed)
