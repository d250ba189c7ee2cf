"""The tokenizer agrees with the `tokenizers` library, and bad files end in clear errors."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import text_samples as samples
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from flover.errors import ModelError, RequestError
from flover.text.files import MAX_TEMPLATE_BYTES
from flover.text.tokenizer import Tokenizer

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
BYTE_TOKENS = range(4, 260)  # of the sentencepiece-like tokenizers


@pytest.mark.parametrize("kind", samples.KINDS)
@settings(max_examples=150, deadline=None)
@given(text=st.one_of(TEXTS, st.sampled_from(samples.SAMPLE)))
def test_ids_and_text_are_the_librarys(kind: str, text: str) -> None:
    ours, library = samples.load(kind), samples.backend(kind)
    for special in (True, False):
        ids = ours.encode(text, add_special_tokens=special)
        assert ids == library.encode(text, add_special_tokens=special).ids
        assert ours.decode(ids) == library.decode(ids)
        assert ours.decode(ids, skip_special_tokens=False) == library.decode(ids, skip_special_tokens=False)


@settings(max_examples=400, deadline=None)
@given(ids=st.lists(st.integers(0, 501), max_size=20), skip=st.booleans())
def test_any_byte_level_ids_have_the_librarys_text(ids: list[int], skip: bool) -> None:
    expected = samples.backend("byte_level").decode(ids, skip_special_tokens=skip)
    assert samples.load("byte_level").decode(ids, skip_special_tokens=skip) == expected


@pytest.mark.parametrize("kind", ["sentencepiece", "metaspace"])
@settings(max_examples=300, deadline=None)
@given(ids=st.lists(st.integers(0, 449).filter(lambda token: token not in BYTE_TOKENS), max_size=20))
def test_any_ids_without_byte_tokens_have_the_librarys_text(kind: str, ids: list[int]) -> None:
    assert samples.load(kind).decode(ids) == samples.backend(kind).decode(ids)


def test_broken_byte_tokens_do_not_spoil_their_valid_neighbours() -> None:
    tokenizer = samples.load("sentencepiece")
    ids = [tokenizer.token_id(f"<0x{byte:02X}>") for byte in "é".encode() + b"\xe2"]
    assert tokenizer.decode(ids) == "é\ufffd"


def test_facts_of_a_tokenizer() -> None:
    tokenizer = samples.load("byte_level")
    assert (tokenizer.bos_id, tokenizer.eos_id) == (0, 1)
    assert tokenizer.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}
    assert tokenizer.special_ids == {0, 1, 2, 3}
    assert tokenizer.vocab_size == samples.backend("byte_level").get_vocab_size()
    assert tokenizer.longest_token_len == 13  # <|assistant|>
    space = tokenizer.token_id("Ġ")
    assert space is not None
    assert (tokenizer.token_name(space), tokenizer.token_to_str(space)) == ("Ġ", " ")


@pytest.mark.parametrize("token", [-1, 10**6, 2**31, 2**40])
def test_ids_outside_the_vocabulary_have_no_text(token: int) -> None:
    tokenizer = samples.load("byte_level")
    assert tokenizer.token_bytes(token) == b""
    assert tokenizer.decode([token, *tokenizer.encode("hi"), token]) == "hi"


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
@pytest.mark.parametrize("add_bos", [None, False, True])
def test_the_post_processor_alone_decides_about_the_first_token(
    tmp_path: Path, kind: str, add_bos: bool | None
) -> None:
    """As in transformers 5: `add_bos_token` does not overrule a tokenizer.json."""
    samples.write_tokenizer(tmp_path, samples.backend(kind), add_bos_token=add_bos)
    expected = samples.backend(kind).encode("Hello").ids
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)("Hello").input_ids
    assert Tokenizer.load(tmp_path).encode("Hello") == expected == theirs


def test_tokens_are_special_if_any_file_says_so(tmp_path: Path) -> None:
    config = {
        "added_tokens_decoder": {"1": {"content": "<think hard>", "special": True}, "2": {"content": "東京"}},
        "additional_special_tokens": ["!", "not in the vocabulary"],
    }
    samples.write_tokenizer(tmp_path, samples.backend("byte_level"), **config)
    tokenizer = Tokenizer.load(tmp_path)
    names = {tokenizer.token_name(token) for token in tokenizer.special_ids}
    assert names == {"<s>", "</s>", "<|user|>", "<|assistant|>", "<think hard>", "!"}
    assert tokenizer.vocab_size == samples.load("byte_level").vocab_size


def test_truncation_and_padding_in_the_file_are_ignored(tmp_path: Path) -> None:
    backend = samples.byte_level()
    backend.enable_truncation(3)
    backend.enable_padding(length=50)
    tokenizer = Tokenizer.load(samples.write_tokenizer(tmp_path, backend))
    assert tokenizer.encode(samples.SAMPLE[0]) == samples.load("byte_level").encode(samples.SAMPLE[0])


def test_the_templates_own_file_wins(tmp_path: Path) -> None:
    named = [{"name": "rag", "template": "no"}, {"name": "default", "template": "listed"}]
    samples.write_tokenizer(tmp_path, samples.backend("byte_level"), chat_template=named)
    assert Tokenizer.load(tmp_path).chat_template == "listed"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "json"}))
    assert Tokenizer.load(tmp_path).chat_template == "json"
    (tmp_path / "chat_template.jinja").write_text("jinja")
    assert Tokenizer.load(tmp_path).chat_template == "jinja"


def test_only_tokenizer_json_is_read(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"it is not the directory of a model"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tekken.json").write_text("{}")
    with pytest.raises(
        ModelError, match=r"tekken\.json is there, but only tokenizer\.json, tokenizer\.model, or vocab"
    ):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_damaged_small_files_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    samples.write_tokenizer(tmp_path, samples.backend("byte_level"))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=name.replace(".", r"\.")):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("template", [7, {"a": 1}, "x" * (MAX_TEMPLATE_BYTES + 1)])
def test_templates_of_a_wrong_type_or_size_are_refused(tmp_path: Path, template: object) -> None:
    samples.write_tokenizer(tmp_path, samples.backend("byte_level"), chat_template=template)
    with pytest.raises(ModelError, match="chat template"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    "decoder",
    [
        {"type": "WordPiece", "prefix": "##", "cleanup": True},
        {"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": True},
        {"type": "Sequence", "decoders": [{"type": "ByteLevel"}, {"type": "ByteFallback"}]},
        {"type": "Sequence", "decoders": [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        {"type": "Replace", "pattern": {"Regex": "a+"}, "content": "b"},
        {"type": "Replace", "pattern": {"String": ""}, "content": "b"},
        {"type": "Unheard"},
        "ByteLevel",
        7,
    ],
)
def test_decoders_that_cannot_be_streamed_are_refused(tmp_path: Path, decoder: object) -> None:
    samples.write_tokenizer(tmp_path, samples.backend("byte_level"))
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"decoder": decoder}))
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_tokenizer_files_end_in_a_model_error(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    samples.write_tokenizer(folder, samples.backend("sentencepiece"))
    path = folder / "tokenizer.json"
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(raw) - 1))
        damage = data.draw(st.binary(min_size=0, max_size=3))
        raw[position : position + data.draw(st.integers(0, 40))] = damage
    path.write_bytes(bytes(raw))
    try:
        tokenizer = Tokenizer.load(folder)
    except ModelError:
        return
    tokenizer.decode(tokenizer.encode("a fox 🦊"))


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(RequestError, match="lone surrogate at position 2"):
        samples.load("byte_level").encode("ab\ud800")


def test_threads_may_share_a_tokenizer() -> None:
    tokenizer = samples.load("sentencepiece")
    expected = [tokenizer.encode(text) for text in samples.SAMPLE]
    failures: list[object] = []

    def work() -> None:
        for _ in range(30):
            found = [tokenizer.encode(text) for text in samples.SAMPLE]
            if found != expected or [tokenizer.decode(ids) for ids in found] != samples.SAMPLE:
                failures.append(found)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
