"""The kernel benchmark: its arithmetic by known answers, its measurement on tiny shapes, its command run whole."""

import json
from dataclasses import replace

import pytest
import torch
from flover_benchmarks.commands.measures import kernel_options
from flover_benchmarks.kernels.attention import GENERATING, PROMPT, AttentionBench, AttentionLoad
from flover_benchmarks.kernels.experts import ExpertBench
from flover_benchmarks.kernels.figures import MachineLimits, Measurement, floors, whole_step
from flover_benchmarks.kernels.linears import LinearBench, linear_shapes, measure_packing, num_layers
from flover_benchmarks.kernels.report import facts, floor_lines
from flover_benchmarks.kernels.run import KernelResults
from flover_benchmarks.kernels.small import measure_small
from flover_benchmarks.kernels.torch_threads import torch_threads
from flover_benchmarks.options import FORMATS, SMALL_OPS

from flover.bench.presets import PRESETS
from flover.bench.timing import best_means
from flover.cli.main import main
from flover.cli.main import make_parser as parser_of_all
from flover.errors import ConfigError
from flover.model.config import ModelConfig
from flover.model.hf_config import read_config
from flover.ops.cpu import CpuOps

LIMITS = MachineLimits(bandwidth=100.0, peak=1000.0, bfloat16_peak=2000.0)
SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "head_dim": 16,
    "vocab_size": 300,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def tiny() -> ModelConfig:
    return read_config(PRESETS["llama-213m"] | SMALL)[1]


def cell(**changes: object) -> Measurement:
    plain = Measurement(
        op="linear", name="a", kind="bfloat16", threads=1, rows=1, seconds=2.0, reads=True, flop=800.0, bytes=150.0
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_a_fraction_is_of_the_limit_that_counts() -> None:
    assert cell().fraction(LIMITS) == 0.75
    assert cell(reads=False).fraction(LIMITS) == 0.2
    assert cell(reads=False, kind="float32").fraction(LIMITS) == 0.4
    assert cell(reads=False, op="attention").fraction(LIMITS) == 0.4


def test_a_whole_step_counts_every_call_as_often_as_the_model_makes_it() -> None:
    step = whole_step([cell(times_per_step=3), cell(name="head", seconds=4.0, bytes=50.0, flop=0.0)])
    assert step is not None
    assert (step.seconds, step.bytes, step.flop) == (10.0, 500.0, 2400.0)
    assert whole_step([]) is None


def test_floors_are_held_from_the_floor_up() -> None:
    cells = [
        cell(bytes=170.0),  # 85 of 100
        cell(kind="int8", bytes=169.0),
        cell(rows=32, reads=False, flop=3000.0),  # 1500 of 2000
        cell(rows=32, reads=False, flop=2799.0, kind="int8"),
        cell(op="attention", name="16 rows", rows=16, bytes=150.0),
        cell(op="attention", name="prompt", reads=False),
        cell(op="norm", bytes=1.0),
        cell(rows=8, reads=False),
    ]
    found = {floor.what: floor for floor in floors(cells, {1: LIMITS})}
    assert [floor.held for floor in found.values()] == [True, False, True, False, True]
    assert [floor.floor for floor in found.values()] == [0.85, 0.85, 0.75, 1.4, 0.75]
    assert found["int8 linears at 32 rows: of the float32 peak"].fraction == pytest.approx(1.3995)
    assert floors(cells, {2: LIMITS}) == []


def test_floors_and_facts_are_written_out() -> None:
    worst = {1: MachineLimits(90.0, 900.0, 1900.0)}
    results = KernelResults("avx2", {1: LIMITS}, worst, [cell(bytes=160.0, torch_seconds=5.0), cell(op="pack")])
    assert list(floor_lines(results)) == [
        "bfloat16 linears at 1 row: of the read bandwidth, 1 thread: 80%, floor 85%: NOT met"
    ]
    told = facts(results)
    assert told["limits"]["1"]["worst_read_gb_s"] == 90e-9
    assert told["results"][0]["fraction"] == 0.8
    assert told["results"][0]["torch_ratio"] == 2.5
    assert told["results"][1]["fraction"] is None
    assert told["floors"][0]["held"] is False
    noisy = replace(results, worst_limits={1: MachineLimits(90.0, 500.0, 1900.0)})
    assert next(floor_lines(noisy)).startswith("there was other load on the machine: with 1 thread it read")


def test_the_best_of_two_measurements_takes_each_time_by_itself() -> None:
    best = cell(seconds=2.0, torch_seconds=5.0).best(cell(seconds=3.0, torch_seconds=4.0))
    assert (best.seconds, best.torch_seconds) == (2.0, 4.0)
    assert cell().best(cell()).torch_seconds is None


def test_the_best_pass_counts_and_in_it_the_mean() -> None:
    now = [0.0]
    spans = iter([1.0, 3.0, 10.0, 2.0, 4.0, 9.0, 0.5, 7.5, 20.0])  # a, a, b; three passes

    def work() -> None:
        now[0] += next(spans)

    best = best_means([("a", work), ("a", work), ("b", work)], 30.0, clock=lambda: now[0])
    assert best == {"a": 2.0, "b": 9.0}


def test_without_time_there_is_one_pass() -> None:
    calls: list[int] = []
    best_means([("a", lambda: calls.append(1))], 0.0)
    assert calls == [1]


def test_torch_gets_its_threads_back() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before


def test_shapes_are_those_of_the_model() -> None:
    shapes = {shape.name: shape for shape in linear_shapes(read_config(PRESETS["llama-213m"])[1])}
    assert {name: (shape.out_size, shape.in_size) for name, shape in shapes.items()} == {
        "qkv": (1536, 1024),
        "out": (1024, 1024),
        "up": (5632, 1024),
        "down": (1024, 2816),
        "head": (32000, 1024),
    }
    assert shapes["up"].gated and shapes["up"].kind == "silu" and shapes["up"].count == 16
    assert shapes["head"].count == 1 and not shapes["down"].gated


@pytest.mark.parametrize("bytes_per_weight", [4, 2, 1, 0.625])
def test_one_row_reads_more_than_a_cache_holds(bytes_per_weight: float) -> None:
    shapes = linear_shapes(read_config(PRESETS["llama-213m"])[1])
    layers = num_layers(shapes, bytes_per_weight, rows=1)
    layer = sum(shape.numbers for shape in shapes[:-1])
    assert (layers * layer + shapes[-1].numbers) * bytes_per_weight >= 2**27
    assert 1 <= num_layers(shapes, bytes_per_weight, rows=512) <= max(1, layers // 16)


@pytest.mark.parametrize("weight_format", FORMATS)
def test_linears_are_measured_in_every_format(weight_format: str) -> None:
    bench = LinearBench(linear_shapes(tiny()), weight_format, cold_bytes=2**17)  # type: ignore[arg-type]
    ops = CpuOps("auto", 1)
    cells = {each.name: each for each in bench.measure(ops, 3, 0.001)}
    assert list(cells) == ["qkv 128×64", "out 64×64", "up 192×64", "down 64×96", "head 300×64"]
    assert all(each.seconds > 0 and not each.reads for each in cells.values())
    assert cells["up 192×64"].flop == 2 * 3 * 192 * 64
    has_torch = weight_format in ("float32", "bfloat16")
    assert all((each.torch_seconds is not None) == has_torch for each in cells.values())
    assert len(bench.measure(ops, 65, 0.0)) == 4  # whole prompts get no logits


def test_experts_read_those_in_use() -> None:
    model = read_config(PRESETS["qwen3-moe-1.3b"] | SMALL | {"moe_intermediate_size": 32})[1]
    assert [shape.name for shape in linear_shapes(model)] == ["qkv", "out", "router", "head"]
    bench = ExpertBench(model, "bfloat16", cold_bytes=2**17)
    one, many = (bench.measure(CpuOps("auto", 1), rows, 0.001) for rows in (1, 600))
    assert (one.bytes, many.bytes) == (8 * 3 * 64 * 32 * 2, 64 * 3 * 64 * 32 * 2)
    assert (one.flop, many.flop) == (2 * 8 * 3 * 64 * 32, 600 * 2 * 8 * 3 * 64 * 32)
    assert one.reads and not many.reads and one.seconds > 0
    with pytest.raises(ConfigError, match="--formats q4_k: blocks of 256 inputs do not fit experts 64×32"):
        ExpertBench(model, "q4_k")


def test_attention_counts_what_it_reads_and_computes() -> None:
    assert GENERATING.pairs == 16 * 2000
    assert PROMPT.pairs == 512 * 513 // 2
    assert AttentionLoad(2, 3, 10).pairs == 2 * (8 + 9 + 10)
    bench = AttentionBench(tiny(), "int8", AttentionLoad(3, 1, 40), cold_bytes=2**16)
    measured = bench.measure(CpuOps("auto", 1), 0.001)
    assert measured.bytes == 3 * 40 * 2 * 2 * (16 + 4)  # tokens, keys and values, heads, numbers and a scale
    assert measured.flop == 3 * 40 * 4 * 16 * 4
    assert measured.reads and measured.torch_seconds is None


def in_one_piece(bench: AttentionBench) -> list[torch.Tensor]:
    """Keys and values of all rows [rows, key heads, tokens, dim] from the pages of the first layer."""
    pages, length = bench._pages[0], bench.load.context_len
    kept, written = torch.from_numpy(pages.keys), torch.from_numpy(pages.values)
    keys = [torch.cat([kept[page].mT for page in row], dim=1)[:, :length] for row in bench._table.tolist()]
    values = [torch.cat([written[page] for page in row], dim=1)[:, :length] for row in bench._table.tolist()]
    return [torch.stack(keys), torch.stack(values)]


def test_the_attention_that_is_measured_is_attention() -> None:
    """Ours on pages and torch's on the same keys give the same: neither is timed on something easier."""
    bench = AttentionBench(tiny(), "float32", AttentionLoad(2, 1, 37), cold_bytes=1)
    ours = CpuOps("auto", 1).attention(bench._queries, bench._pages[0], bench._plan(), 16**-0.5, None)
    theirs = bench._torch_call()(*in_one_piece(bench))
    torch.testing.assert_close(torch.from_numpy(ours).flatten(), theirs.flatten(), rtol=1e-4, atol=1e-5)
    assert bench.measure(CpuOps("auto", 1), 0.0).torch_seconds is not None


def test_a_prompt_is_measured_as_a_prompt() -> None:
    """The same for a prompt, of which each token sees itself and those before it."""
    bench = AttentionBench(tiny(), "float32", AttentionLoad(1, 37, 37))
    ours = CpuOps("auto", 1).attention(bench._queries, bench._pages[0], bench._plan(), 16**-0.5, None)
    keys, values = in_one_piece(bench)
    repeated = keys.repeat_interleave(2, 1), values.repeat_interleave(2, 1)
    theirs = bench._torch_call()(*repeated).transpose(1, 2)
    torch.testing.assert_close(torch.from_numpy(ours).flatten(), theirs.flatten(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", SMALL_OPS)
def test_the_ops_between_are_measured(op: str) -> None:
    measured = measure_small(op, tiny(), CpuOps("auto", 1), "bfloat16", 5, 0.0)
    assert measured.seconds > 0 and measured.bytes > 5 * 16


def test_packing_is_measured() -> None:
    measured = measure_packing(linear_shapes(tiny())[0], "int4", 0.0)
    assert measured.bytes == 128 * 64 * 4 and measured.seconds > 0


def test_blocks_of_a_file_are_measured_where_they_fit() -> None:
    shapes = linear_shapes(tiny())  # 64 inputs
    cells = LinearBench(shapes, "q4_0", cold_bytes=1).measure(CpuOps("auto", 1), 2, 0.0)
    assert {cell.kind for cell in cells} == {"q4_0"} and all(cell.seconds > 0 for cell in cells)
    assert measure_packing(shapes[0], "q4_0", 0.0).bytes == 128 * 64 * 18 // 32
    with pytest.raises(ConfigError, match="--formats q4_k: blocks of 256 inputs do not fit"):
        LinearBench(shapes, "q4_k", cold_bytes=1)


def test_quick_leaves_what_was_asked_for() -> None:
    parse = parser_of_all("bench").parse_args
    quick = kernel_options(parse(["bench", "kernels", "--quick", "--rows", "5", "--threads", "1"]))
    assert (quick.rows, quick.threads, quick.seconds) == ((5,), (1,), 0.04)
    assert kernel_options(parse(["bench", "kernels"])).rows[-1] == 512
    for words in (["--seconds=0"], ["--seconds=inf"], ["--rows", "0"], ["--threads", "0"]):
        with pytest.raises(ConfigError, match=words[0].split("=")[0]):
            kernel_options(parse(["bench", "kernels", *words]))


def test_the_command(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "config.json").write_text(json.dumps(PRESETS["llama-213m"] | {"vocab_size": 3000}))
    words = ["--ops", "linear", "norm", "pack", "--formats", "int8", "bfloat16", "--rows", "1", "32", "--threads", "1"]
    assert main(["bench", "kernels", str(tmp_path), *words, "--seconds", "0.001"]) == 0
    out = capsys.readouterr().out
    line = json.loads(out.splitlines()[-1])
    assert line["benchmark"] == "kernels" and line["machine"]["torch"] and line["options"]["rows"] == [1, 32]
    assert line["limits"]["1"]["read_gb_s"] > 0
    assert len(line["results"]) == 2 * 2 * 5 + 2 + 2
    assert [floor["floor"] for floor in line["floors"]] == [0.85, 0.85, 0.75, 1.4]
    assert "linear, int8, 1 thread" in out and "floor 140%" in out
