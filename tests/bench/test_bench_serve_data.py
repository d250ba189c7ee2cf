"""Data sets of the serving benchmarks: lengths, seeds, shared prefixes, files and what is wrong with them."""

import json
from collections import Counter
from pathlib import Path

import pytest

from flover.bench.serving.choose import Data
from flover.bench.serving.datasets import (
    CustomFile,
    Draw,
    PrefixRepetition,
    RandomPrompts,
    SharedPrefix,
    TimedTrace,
)
from flover.bench.serving.prepare import draw_samples
from flover.errors import ConfigError


def write(path: Path, *lines: object) -> str:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return str(path)


def test_random_prompts_have_their_lengths_and_follow_the_seed() -> None:
    dataset = RandomPrompts(random_input_len=20, random_output_len=10, random_range_ratio=0.5, random_prefix_len=3)
    samples = dataset.samples(400, Draw(seed=5))
    assert samples == dataset.samples(400, Draw(seed=5))
    assert samples != dataset.samples(400, Draw(seed=6))
    assert {len(sample.prompt) for sample in samples} == set(range(13, 34))
    assert {sample.output_len for sample in samples} == set(range(5, 16))
    assert len({sample.prompt[:3] for sample in samples}) == 1
    assert all(sample.prompt_len == len(sample.prompt) for sample in samples)


def test_prompts_use_the_ids_they_are_given() -> None:
    (sample,) = RandomPrompts(random_input_len=50).samples(1, Draw(seed=0, ids=[7, 9]))
    assert set(sample.prompt) == {7, 9}


def test_prefixes_are_shared_by_equal_parts() -> None:
    dataset = PrefixRepetition(
        prefix_repetition_prefix_len=8,
        prefix_repetition_suffix_len=4,
        prefix_repetition_num_prefixes=3,
        prefix_repetition_output_len=2,
    )
    samples = dataset.samples(12, Draw(seed=1))
    assert sorted(Counter(sample.prompt[:8] for sample in samples).values()) == [4, 4, 4]
    assert len({sample.prompt for sample in samples}) == 12
    with pytest.raises(ConfigError, match="more than --num-prompts"):
        dataset.samples(2, Draw(seed=1))


def test_shared_prefixes_say_themselves_how_many_prompts_there_are() -> None:
    dataset = SharedPrefix(gsp_num_groups=2, gsp_prompts_per_group=5, gsp_system_prompt_len=6, gsp_question_len=3)
    samples = draw_samples(Data(dataset_name="generated-shared-prefix"), dataset, None)
    assert Counter(Counter(sample.prompt[:6] for sample in samples).values()) == {5: 2}
    with pytest.raises(ConfigError, match="is 10"):
        draw_samples(Data(dataset_name="generated-shared-prefix", num_prompts=9), dataset, None)


def test_a_file_of_prompts(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        {"prompt": "one"},
        "",
        {"prompt": [5, 6], "output_len": 3},
        {"messages": [{"role": "user", "content": "three"}], "output_tokens": 4},
    )
    samples = CustomFile(custom_output_len=9).samples(5, Draw(seed=0, path=path, shuffle=False))
    assert [sample.output_len for sample in samples] == [9, 3, 4, 9, 3]
    assert [sample.prompt_len for sample in samples[:3]] == [None, 2, None]
    assert samples[1].prompt == (5, 6)
    assert len(CustomFile().samples(5, Draw(seed=0, path=path, oversample=False))) == 3
    shuffled = [CustomFile().samples(3, Draw(seed=seed, path=path)) for seed in range(8)]
    assert len({tuple(sample.output_len for sample in samples) for samples in shuffled}) > 1


def test_a_trace_keeps_its_times_lengths_and_shared_blocks(tmp_path: Path) -> None:
    path = write(
        tmp_path / "trace.jsonl",
        {"timestamp": 3000, "input_length": 6, "output_length": 2, "hash_ids": [1, 9]},
        {"timestamp": 1000, "input_length": 7, "output_length": 5, "hash_ids": [1, 2]},
        {"timestamp": 1500, "input_length": 3, "output_length": 1},
    )
    dataset = TimedTrace(timed_trace_chunk_hash_size=4, timed_trace_sec_multiplier=0.001)
    first, second, third = dataset.samples(10, Draw(seed=0, path=path))
    assert [sample.at for sample in (first, second, third)] == [0.0, 0.5, 2.0]
    assert [len(sample.prompt) for sample in (first, second, third)] == [7, 3, 6]
    assert [sample.output_len for sample in (first, second, third)] == [5, 1, 2]
    assert first.prompt[:4] == third.prompt[:4]
    assert first.prompt[4:6] != third.prompt[4:6]
    other, _, _ = dataset.samples(10, Draw(seed=1, path=path))
    assert other.prompt != first.prompt


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: not a JSON object"),
        ({"text": "x"}, "line 2: it needs a prompt"),
        ({"prompt": "x", "output_len": 0}, "line 2: output_len must be a whole number of at least 1"),
        ({"prompt": "x", "output_len": True}, "line 2: output_len must be a whole number"),
        ({"messages": "hello"}, "line 2: messages must be a list"),
    ],
)
def test_a_line_that_is_wrong_is_named(tmp_path: Path, line: object, words: str) -> None:
    path = write(tmp_path / "a.jsonl", {"prompt": "fine"}, line)
    with pytest.raises(ConfigError, match=words):
        CustomFile().samples(2, Draw(seed=0, path=path))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"timestamp": "noon"}, "timestamp must be a number"),
        ({"input_length": 40}, "cannot hold 40 prompt tokens with --timed-trace-chunk-hash-size 16"),
        ({"output_length": None}, "output_length must be a whole number"),
    ],
)
def test_a_trace_that_would_be_replayed_wrongly_is_refused(tmp_path: Path, changes: dict, words: str) -> None:
    line = {"timestamp": 0, "input_length": 20, "output_length": 2, "hash_ids": [1, 2]}
    path = write(tmp_path / "trace.jsonl", line | changes)
    with pytest.raises(ConfigError, match=words):
        TimedTrace().samples(1, Draw(seed=0, path=path))


def test_files_that_are_not_there_or_empty_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read --dataset-path"):
        CustomFile().samples(1, Draw(seed=0, path=str(tmp_path / "none")))
    with pytest.raises(ConfigError, match="holds no lines"):
        CustomFile().samples(1, Draw(seed=0, path=write(tmp_path / "empty", "")))
