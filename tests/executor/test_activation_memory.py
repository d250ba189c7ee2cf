"""What an iteration takes beside weights and pages is planned as it is measured."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flover.config import EngineConfig
from flover.errors import ConfigError
from flover.memory.machine import Machine
from flover.model.describe import Description, describe_model
from flover.model.shard import Shard

TOKENS = 2048
DENSE: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 3072,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
MIXTURE = DENSE | {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "num_experts": 16,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 512,
    "norm_topk_prob": True,
}
CASES = [(MIXTURE, None), (MIXTURE, "int8"), (DENSE, None)]

MEASURE = """
import sys
from flover.executor.device_batch import dummy_batch
from flover.executor.load import load_device
from flover.config import EngineConfig

def resident(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))

tokens = int(sys.argv[1])
config = EngineConfig(
    model=sys.argv[2], quantization=sys.argv[3] or None, load_format="dummy", skip_tokenizer_init=True, num_threads=2
)
executor = load_device(config, lambda done, total: None)
before = resident("VmRSS")
executor._forward(dummy_batch(1, tokens, config.block_size))
print(resident("VmHWM") - before)
"""
"""A process of its own: what others have freed would be taken again."""


def describe(shape: dict[str, Any], quantization: str | None, directory: Path, **settings: Any) -> Description:
    (directory / "config.json").write_text(json.dumps(shape))
    config = EngineConfig(model=str(directory), load_format="dummy", skip_tokenizer_init=True, **settings)
    return describe_model(dataclasses.replace(config, quantization=quantization), Shard(0, 1))


@pytest.mark.parametrize(("shape", "quantization"), CASES, ids=["experts", "experts in int8", "dense"])
def test_a_forward_takes_what_is_counted(shape: dict[str, Any], quantization: str | None, tmp_path: Path) -> None:
    counted = describe(shape, quantization, tmp_path).activation_bytes
    command = [sys.executable, "-c", MEASURE, str(TOKENS), str(tmp_path), quantization or ""]
    measured = int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout)
    assert measured == pytest.approx(counted, rel=0.08, abs=6e6), (measured, counted)


def test_the_pool_leaves_room_for_an_iteration(tmp_path: Path) -> None:
    model = describe(MIXTURE, None, tmp_path, max_num_seqs=64)
    machine = Machine(cores=2, available_bytes=model.weight_bytes + model.activation_bytes + 2**24)
    pool = model.plan(machine, 1).pool
    assert pool.num_pages == 2**23 // pool.page_bytes
    with pytest.raises(ConfigError, match=r"an iteration of 65536 tokens needs [\d,]+ MiB.*lower --max-num-batched"):
        describe(MIXTURE, None, tmp_path, max_num_batched_tokens=2**16).plan(machine, 1)
    asked = r"--kv-offload-bytes asks for 512 MiB, and [\d,]+ MiB of this machine's memory are left beside the weights"
    with pytest.raises(ConfigError, match=asked):
        describe(MIXTURE, None, tmp_path, kv_offload_bytes=2**29).plan(machine, 1)
