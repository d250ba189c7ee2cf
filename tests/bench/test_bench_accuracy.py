"""The accuracy benchmark: perplexity and divergence by known answers, documents, and an error that must show."""

import json
import math
from pathlib import Path

import pytest
import torch
from flover_benchmarks import accuracy
from flover_benchmarks.accuracy import STORED_VARIANTS, VARIANTS, Accuracy, Variant, measure_accuracy, score
from flover_benchmarks.accuracy_report import accuracy_facts, limit_lines
from flover_benchmarks.documents import find_documents, random_documents, split_documents
from flover_benchmarks.options import AccuracyOptions
from flover_benchmarks.recast import Recast
from gguf_files import write_gguf
from support.checkpoints import make_checkpoint

from flover.cli.main import main
from flover.config import EngineConfig
from flover.errors import ConfigError
from flover.memory.kvcache import KVCache
from flover.model.load import load_model
from flover.model.locate import BUNDLED_PATH
from flover.ops import HostArray, reference
from flover.ops.cpu import cpu_ops
from flover.ops.cpu_weight import PackedWeight
from flover.source import open_source

BUNDLED = EngineConfig(num_threads=1)


def logits_of(*probabilities: list[float]) -> torch.Tensor:
    """Logits of these distributions, shifted: a softmax must not see it."""
    return torch.tensor(probabilities).log() + torch.arange(len(probabilities))[:, None]


def silent(what: str, done: int, total: int) -> None:
    """No progress."""


def test_perplexity_and_divergence_by_hand() -> None:
    found = Accuracy()
    expected = logits_of([0.5, 0.25, 0.25], [0.1, 0.8, 0.1])
    found.add(logits_of([0.25, 0.5, 0.25], [0.1, 0.8, 0.1]), expected, torch.tensor([0, 1]))
    assert found.tokens == 2
    assert found.perplexity == pytest.approx((0.25 * 0.8) ** -0.5)
    assert found.change == pytest.approx((0.5 / 0.25) ** 0.5 - 1)
    divergence = 0.5 * math.log(2) + 0.25 * math.log(0.5)
    assert found.mean_kl == pytest.approx(divergence / 2)
    assert found.max_kl == pytest.approx(divergence)
    assert found.agreement == 0.5


def test_sums_do_not_depend_on_the_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "_ROWS_AT_ONCE", 3)
    logits, expected = torch.randn(2, 10, 7)
    targets = torch.randint(7, (10,))
    whole, parts = Accuracy(), Accuracy()
    whole.add(logits, expected, targets)
    for first in range(0, 10, 4):
        rows = slice(first, first + 4)
        parts.add(logits[rows], expected[rows], targets[rows])
    assert parts.perplexity == pytest.approx(whole.perplexity)
    assert parts.mean_kl == pytest.approx(whole.mean_kl)
    assert parts.max_kl == whole.max_kl
    assert whole.perplexity == pytest.approx(float(torch.nn.functional.cross_entropy(logits, targets).exp()), rel=1e-5)


def test_without_targets_there_is_no_perplexity() -> None:
    found = Accuracy()
    found.add(logits_of([0.5, 0.5]), logits_of([0.5, 0.5]), None)
    assert math.isnan(found.perplexity) and math.isnan(found.change)
    assert found.mean_kl == pytest.approx(0, abs=1e-12)
    assert list(limit_lines({"int8": found})) == []


def test_not_a_number_is_not_hidden() -> None:
    found = Accuracy()
    found.add(torch.tensor([[math.nan, 0.0]]), torch.zeros(1, 2), torch.tensor([0]))
    assert math.isnan(found.max_kl) and math.isnan(found.mean_kl) and math.isnan(found.perplexity)
    assert math.isnan(accuracy_facts({"int4": found})["int4"]["change"])


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        Accuracy().add(torch.zeros(2, 3), torch.zeros(3, 3), None)
    with pytest.raises(ValueError, match="do not fit"):
        Accuracy().add(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0]))


def test_a_limit_is_held_or_not() -> None:
    found = {}
    for name, worse in (("int8", 0.496), ("int4", 0.47)):  # half the probability, lowered by 0.8 % and 6 %
        found[name] = Accuracy()
        found[name].add(logits_of([worse, 1 - worse]), logits_of([0.5, 0.5]), torch.tensor([0]))
    assert [line.rsplit(": ")[-1] for line in limit_lines(found)] == ["NOT met", "NOT met"]
    assert [line.rsplit(": ")[-1] for line in limit_lines({"int8": found["int4"], "int4": found["int8"]})] == [
        "NOT met",
        "met",
    ]


def test_documents_are_split_where_a_line_says_so() -> None:
    assert split_documents("a\nb\n<end>\nc <end> d\n", "<end>") == ["a\nb", "c <end> d"]
    assert split_documents("a\n", None) == ["a"]
    assert split_documents("\n", "<end>") == []


def test_held_out_text_is_cut_to_size() -> None:
    whole = find_documents(BUNDLED_PATH, AccuracyOptions(), 2048, 1024, dummy=False)
    assert whole.is_text and len(whole.ids) == 200
    assert whole.source == "its heldout.txt"
    assert all(ids[0] == 0 and ids[-1] == 1 for ids in whole.ids)
    cut = find_documents(BUNDLED_PATH, AccuracyOptions(max_tokens=100, context_len=40), 2048, 1024, dummy=False)
    assert cut.num_tokens == 100 and max(map(len, cut.ids)) == 40
    assert cut.ids[0][-1] == cut.ids[1][0]  # the pieces overlap by one: each token is a target once
    assert [*cut.ids[0], *cut.ids[1][1:]] == whole.ids[0][:79]


def test_random_weights_get_random_ids() -> None:
    found = find_documents(BUNDLED_PATH, AccuracyOptions(max_tokens=600), 2048, 1024, dummy=True)
    assert not found.is_text and found.ids == random_documents(2048, 600, 256).ids
    assert [len(ids) for ids in found.ids] == [256, 256]
    assert find_documents(BUNDLED_PATH, AccuracyOptions(max_tokens=7), 2048, 1024, dummy=True).num_tokens == 7


def test_a_text_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--text: cannot read"):
        find_documents(BUNDLED_PATH, AccuracyOptions(text=str(tmp_path / "none")), 2048, 1024, dummy=False)
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ConfigError, match="no text"):
        find_documents(BUNDLED_PATH, AccuracyOptions(text=str(tmp_path / "empty")), 2048, 1024, dummy=False)
    with pytest.raises(ConfigError, match="--context-len"):
        find_documents(BUNDLED_PATH, AccuracyOptions(context_len=1), 2048, 1024, dummy=False)


def test_chunks_and_pages_left_by_others_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    loaded = load_model(BUNDLED, cpu_ops("auto", 1), lambda done, total: None)
    kv = KVCache(loaded.config, 6, 16, "float32", loaded.decoder.ops.page_shapes)
    first, second = list(range(20, 90)), list(range(300, 340))
    whole = score(loaded.decoder, kv, first)
    score(loaded.decoder, kv, second)
    monkeypatch.setattr(accuracy, "CHUNK", 17)
    assert torch.equal(score(loaded.decoder, kv, first), whole)


def test_formats_of_the_bundled_model() -> None:
    """The first of its stories: float32 is the reference, int4 is further away than int8, both within their limits."""
    documents = find_documents(BUNDLED_PATH, AccuracyOptions(max_tokens=1500), 2048, 1024, dummy=False).ids
    found = measure_accuracy(BUNDLED, documents, 1, silent, is_text=True)
    assert found["float32"].max_kl < 1e-8 and found["float32"].agreement == 1
    assert found["float32"].tokens == 1500 - len(documents)
    assert found["bfloat16"].max_kl < 1e-3
    assert found["bfloat16"].mean_kl < found["int8"].mean_kl < 1e-3
    assert found["int8"].mean_kl < found["int4"].mean_kl < 1e-2
    assert found["bfloat16, int8 cache"].mean_kl < 1e-4
    assert found["int8"].change < 0.005 and found["int4"].change < 0.04
    assert 1.4 < found["float32"].perplexity < 1.7


def test_an_error_in_one_weight_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = random_documents(2048, 64, 64).ids
    variants = [Variant("float32", "float32")]

    def divergence() -> float:
        return measure_accuracy(BUNDLED, documents, 1, silent, is_text=False, variants=variants)["float32"].mean_kl

    assert divergence() < 1e-8
    store = PackedWeight.store

    def planted(weight: PackedWeight, first: int, rows: HostArray) -> None:
        broken = rows.copy()
        if weight.shape == (256, 512):  # one input of the down projections
            broken[:, 3] = -broken[:, 3]
        store(weight, first, broken)

    monkeypatch.setattr(PackedWeight, "store", planted)
    assert divergence() > 1e-4


def test_the_reference_is_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the reference's weights shows as well: the two are not the same code."""
    new_weight = reference.PlainWeight.store

    def planted(weight: reference.PlainWeight, first: int, rows: HostArray) -> None:
        new_weight(weight, first, 1.1 * rows)

    monkeypatch.setattr(reference.PlainWeight, "store", planted)
    variants = [Variant("float32", "float32")]
    documents = random_documents(2048, 32, 32).ids
    found = measure_accuracy(BUNDLED, documents, 1, silent, is_text=False, variants=variants)
    assert found["float32"].mean_kl > 1e-4


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "accuracy", "--max-tokens", "300", "--num-threads", "1"]) == 0
    out = capsys.readouterr().out
    line = json.loads(out.splitlines()[-1])
    assert line["benchmark"] == "accuracy" and line["options"]["max_tokens"] == 300
    assert line["results"]["int8"]["held"] is True and line["results"]["bfloat16"]["held"] is None
    assert line["results"]["bfloat16"]["mean_kl"] > 0  # small figures keep their digits
    assert "int4: perplexity" in out and "300 tokens of its heldout.txt" in out


def test_a_file_with_blocks_is_measured_as_it_is_and_from_its_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_checkpoint(tmp_path / "made", "llama", hidden_size=256, intermediate_size=512, head_dim=64)
    file = write_gguf(made, tmp_path / "m.gguf", "llama", "Q5_0")
    source = open_source(file)
    ids = random_documents(100, 90, 30).ids
    config = EngineConfig(model=str(file))
    found = measure_accuracy(config, ids, 1, silent, is_text=False, variants=(*STORED_VARIANTS, *VARIANTS))
    assert found["float32"].max_kl < 1e-8
    assert 1e-8 < found["as stored"].mean_kl <= found["as stored, int8 cache"].mean_kl < 3e-3
    assert found["bfloat16"].mean_kl < found["q8_0"].mean_kl < found["q4_0"].mean_kl
    recast = {info.name: info.dtype for info in Recast(source, "q8_0").tensors()}
    assert {recast["blk.0.attn_q.weight"], recast["output_norm.weight"]} == {"q8_0", "F32"}
    command = ["bench", "accuracy", str(file), "--formats", "as stored", "--max-tokens", "60"]
    assert main(command) == 0
    assert list(json.loads(capsys.readouterr().out.splitlines()[-1])["results"]) == ["as stored"]
    assert main([*command[:3], "--formats", "q9"]) == 2
    assert "there is no q9 of this model; there are 'as stored'" in capsys.readouterr().err
