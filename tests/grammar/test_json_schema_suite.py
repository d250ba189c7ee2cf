"""The public JSON-Schema-Test-Suite (draft 2020-12, with its optional parts): every schema is refused with a reason, or
compiled into a grammar that takes none of its invalid documents and whose every finished answer is valid.

`suite/draft2020-12.json` has, for each of the suite's files, [description, schema, valid documents, invalid ones].
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
from support.constraints import EOS, VOCABULARY, compiler

from flover.errors import RequestError
from flover.grammar.state import Words, ids_of
from flover.structured_outputs import StructuredOutputsParams

SUITE = json.loads((Path(__file__).parent / "suite" / "draft2020-12.json").read_text())
REFUSAL = "structured_outputs.json cannot be compiled: "
DIALECT = ("ECMA 262 \\S matches everything but whitespace", "ECMA 262 \\s matches whitespace")
"""What is whitespace besides ASCII's: ECMAScript has U+FEFF and not U+0085, Unicode the other way round."""
NUM_ACCEPTED = 202
MOST_TOKENS = 250
BYTES = {token[0]: i for i, token in reversed([*enumerate(VOCABULARY.tokens)]) if len(token) == 1}
LARGEST = sys.float_info.max


def accepted(
    refused: Counter[str],
) -> Iterator[tuple[str, dict[str, Any], StructuredOutputsParams, list[Any], list[Any]]]:
    """The schemas that compile, with their documents; the others are counted by reason."""
    for file, cases in SUITE.items():
        for description, schema, valid, invalid in cases:
            if not isinstance(schema, dict) or description in DIALECT:
                continue  # true and false are no objects, which a request's schema must be
            params = StructuredOutputsParams(json=schema)
            try:
                compiler().try_out(params)
            except RequestError as error:
                assert error.message.startswith(REFUSAL) and len(error.message) > len(REFUSAL)
                refused[error.message.removeprefix(REFUSAL)[:60]] += 1
                continue
            yield f"{file}: {description}", schema, params, valid, invalid


def allows(words: Words, token: int) -> bool:
    return bool(words[token // 32] >> np.uint32(token % 32) & np.uint32(1))


def takes(params: StructuredOutputsParams, document: Any) -> bool:
    state = compiler().state(params, ())
    for byte in json.dumps(document, ensure_ascii=False).encode(errors="replace"):
        if not allows(state.words(), BYTES[byte]):
            return False
        state.add(BYTES[byte])
    return allows(state.words(), EOS)


def test_no_invalid_document_is_taken() -> None:
    refused: Counter[str] = Counter()
    num_accepted = num_valid = num_taken = 0
    for name, _, params, valid, invalid in accepted(refused):
        num_accepted += 1
        assert [document for document in invalid if takes(params, document)] == [], name
        num_valid += len(valid)
        num_taken += sum(takes(params, document) for document in valid)
    assert num_accepted >= NUM_ACCEPTED, refused
    assert num_taken >= 0.9 * num_valid, "the order of members and the numbers' forms cost a few, not so many"


def finite(text: str) -> float:
    """A number of a grammar may be larger than any float, which is valid all the same."""
    return max(-LARGEST, min(LARGEST, float(text)))


@pytest.mark.long
def test_every_finished_answer_is_valid() -> None:
    """Twenty answers to each, by random logits that are biased to what closes."""
    draw = np.random.default_rng(0)
    size = len(VOCABULARY.tokens)
    closing = np.array([2.5 * any(mark in token for mark in b'"}]') for token in VOCABULARY.tokens])
    closing[EOS] = 3
    num_finished = 0
    for name, schema, params, _, _ in accepted(Counter()):
        validator = jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
        for _ in range(20):
            logits, state, answer = closing + 2 * draw.normal(size=size), compiler().state(params, ()), list[int]()
            while len(answer) < MOST_TOKENS and (not answer or answer[-1] != EOS):
                ids = ids_of(state.words(), size)
                assert len(ids), (name, answer, state.error)
                answer.append(int(ids[np.argmax(logits[ids] + draw.gumbel(size=len(ids)))]))
                state.add(answer[-1])
            if answer[-1] != EOS:
                continue
            num_finished += 1
            text = b"".join(VOCABULARY.tokens[token] for token in answer[:-1]).decode()
            document = json.loads(text, parse_float=finite)
            assert list(validator.iter_errors(document)) == [], (name, text)
    assert num_finished > 15 * NUM_ACCEPTED
