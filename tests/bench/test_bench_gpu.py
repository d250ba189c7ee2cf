"""`flover bench gpu`: floors that can be computed by hand."""

import pytest
from flover_benchmarks.gpu.floor import model_bytes, step_floor
from flover_benchmarks.gpu.machines import Gpu, gpu_named

from flover.bench.presets import PRESETS
from flover.cli.main import main
from flover.errors import ConfigError
from flover.model.hf_config import read_config

ROUND = Gpu("round", bandwidth=1e12, peak=1e14, memory=80e9)


def test_one_sequence_is_bound_by_memory_and_many_by_arithmetic() -> None:
    _, config = read_config(PRESETS["llama-3-8b"])
    embedding = 128256 * 4096
    assert model_bytes(config) == pytest.approx(2 * 8.03e9, rel=0.01)
    one = step_floor(config, ROUND, 1, 512)
    assert one.weight_bytes == model_bytes(config) - 2 * embedding
    assert one.kv_bytes == 2 * 2 * 32 * 512 * 8 * 128
    assert one.seconds == (one.weight_bytes + one.kv_bytes) / 1e12
    many = step_floor(config, ROUND, 1024, 1)
    assert many.linear_seconds == pytest.approx(2 * 1024 * one.weight_bytes / 2 / 1e14)


def test_tied_embeddings_are_read_as_the_head() -> None:
    _, config = read_config(PRESETS["llama-3.2-1b"])
    assert step_floor(config, ROUND, 1, 1).weight_bytes == model_bytes(config)


def test_a_gpu_that_is_not_known_is_refused_with_those_that_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_named("h200").name == "H200"
    with pytest.raises(ConfigError, match=r"--gpu knows .*H100.*, not 'V100'"):
        gpu_named("V100")
    assert main(["bench", "gpu", "--gpu", "L4", "--models", "gpt-j-6b", "--rows", "4", "--contexts", "512"]) == 0
    assert "gpt-j-6b: 12.1 GB on L4, estimated from its data sheet" in capsys.readouterr().out
