"""Names of models on a hub, and the files that they mean."""

import pytest

from flover.errors import ModelError
from flover.hub.names import HubName, choose_files, gguf_models, parse_hub_name, wanted_files

FILES = [
    "README.md",
    "gemma-3-Q4_K_M.gguf",
    "gemma-3-Q8_0.gguf",
    "gemma-3-UD-Q4_K_XL.gguf",
    "gemma-3.IQ4_XS.gguf",
    "BF16/gemma-3-BF16-00001-of-00002.gguf",
    "BF16/gemma-3-BF16-00002-of-00002.gguf",
    "Q6_K/model-00001-of-00002.gguf",
    "Q6_K/model-00002-of-00002.gguf",
    "gemma-3-Q2_K-00001-of-00003.gguf",
    "mmproj-F16.gguf",
    "imatrix_unsloth.gguf",
]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("gpt2", HubName("gpt2")),
        ("org/repo", HubName("org/repo")),
        ("org/repo:Q4_K_M", HubName("org/repo", quantization="Q4_K_M")),
        ("org/repo@v1.0", HubName("org/repo", "v1.0")),
        ("org/repo@v1:q8_0", HubName("org/repo", "v1", quantization="q8_0")),
        ("org/repo/a/b-Q8_0.gguf", HubName("org/repo", file="a/b-Q8_0.gguf")),
        ("org/repo@main/b.gguf", HubName("org/repo", "main", "b.gguf")),
        ("a/b/c", None),
        ("models/model.gguf", None),
        ("model.gguf", None),
        ("gpt2:Q8_0", None),
        ("org/repo/b.gguf:Q8_0", None),
        ("../up", None),
        ("/etc/passwd", None),
        (".hidden/model", None),
        ("-x/y", None),
        ("org/re po", None),
        ("org/repo:", None),
        ("", None),
        ("x" * 5000, None),
    ],
)
def test_names_people_type(text: str, name: HubName | None) -> None:
    assert parse_hub_name(text) == name
    if name is not None:
        assert str(name) == text


def test_the_quantization_is_the_last_in_a_files_name_or_its_folders() -> None:
    assert {model.label: model.files for model in gguf_models(FILES)} == {
        "Q4_K_M": (FILES[1],),
        "Q8_0": (FILES[2],),
        "UD-Q4_K_XL": (FILES[3],),
        "IQ4_XS": (FILES[4],),
        "BF16": (FILES[5], FILES[6]),
        "Q6_K": (FILES[7], FILES[8]),
    }
    (model,) = gguf_models(["Model-Q8-Chat.gguf"])
    assert model.label == "Q8"
    (model,) = gguf_models(["chat.gguf"])
    assert model.label == ""


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ("o/r:q4_k_m", (FILES[1],)),
        ("o/r:ud-q4_k_xl", (FILES[3],)),
        ("o/r:BF16", (FILES[5], FILES[6])),
        ("o/r/gemma-3-Q8_0.gguf", (FILES[2],)),
        ("o/r/Q6_K/model-00002-of-00002.gguf", (FILES[7], FILES[8])),
        ("o/r", (FILES[1],)),
    ],
)
def test_a_name_means_these_files(text: str, files: tuple[str, ...]) -> None:
    name = parse_hub_name(text)
    assert name is not None
    assert choose_files(name, FILES) == files
    assert wanted_files(name, FILES, weights=False) == list(files)


@pytest.mark.parametrize(
    ("text", "files", "message"),
    [
        ("o/r:Q4_K_S", FILES, r"no GGUF file .* Q4_K_S; did you mean Q4_K_M.* It has o/r:BF16, .*o/r:IQ4_XS$"),
        ("o/r:Q2_K", FILES, "no GGUF file of the quantization Q2_K"),
        ("o/r/gemma-Q8_0.gguf", FILES, "did you mean gemma-3-Q8_0.gguf"),
        ("o/r:Q8_0", ["config.json", "model.safetensors"], "It has no GGUF file"),
        ("o/r:Q8_0", ["a-Q8_0.gguf", "b-Q8_0.gguf"], "several .* name one of o/r/a-Q8_0.gguf, o/r/b-Q8_0.gguf"),
        ("o/r", ["a-Q8_0.gguf", "a-Q5_0.gguf"], "several GGUF files: o/r:Q5_0, o/r:Q8_0"),
        ("o/r", ["a-Q4_K_M.gguf", "b-Q4_K_M.gguf"], "several GGUF files: o/r/a-Q4_K_M.gguf, o/r/b"),
    ],
)
def test_none_or_several_are_an_error_that_lists_what_there_is(text: str, files: list[str], message: str) -> None:
    name = parse_hub_name(text)
    assert name is not None
    with pytest.raises(ModelError, match=message):
        choose_files(name, files)


def test_of_a_repository_of_safetensors_only_data_is_fetched() -> None:
    data = ["config.json", "merges.txt", "chat_template.jinja", "model.safetensors", "tokenizer.model"]
    others = ["pytorch_model.bin", "modeling.py", "consolidated.safetensors", "onnx/model.onnx", "original/params.json"]
    name = HubName("o/r")
    assert wanted_files(name, [*data, *others, "extra-Q4_K_M.gguf"], weights=True) == data
    assert "model.safetensors" not in wanted_files(name, data, weights=False)
