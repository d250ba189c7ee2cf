"""Every answer to a JSON Schema is a document that it accepts; what is not supported is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator

import jsonschema
import pytest
from support.constraints import compiler
from support.json_schemas import SCHEMAS, UNSUPPORTED

from flover import LLM, RequestError, SamplingParams, StructuredOutputsParams


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(num_threads=1, max_num_seqs=128) as loaded:
        yield loaded


def test_every_answer_is_valid(llm: LLM) -> None:
    """All schemas at once, with whitespace and without, by a model that has never seen JSON, at temperature 1."""
    params = [
        SamplingParams(
            max_tokens=900,
            seed=number,
            structured_outputs=StructuredOutputsParams(json=schema, disable_any_whitespace=compact),
        )
        for compact in (False, True)
        for number, schema in enumerate(SCHEMAS.values())
    ]
    outputs = llm.generate(["Once"] * len(params), params, use_tqdm=False)
    assert len(outputs) == 2 * len(SCHEMAS) > 120
    for (name, schema), output in zip([*SCHEMAS.items()] * 2, outputs, strict=True):
        (answer,) = output.outputs
        assert answer.finish_reason == "stop", (name, answer.text)
        validator = jsonschema.Draft202012Validator
        found = validator(schema, format_checker=validator.FORMAT_CHECKER)
        assert not list(found.iter_errors(json.loads(answer.text))), (name, answer.text)


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_supported_is_refused(name: str) -> None:
    with pytest.raises(RequestError, match=r"structured_outputs\.json cannot be compiled: "):
        compiler().try_out(StructuredOutputsParams(json=UNSUPPORTED[name]))


def test_llm_refuses_it_too_and_goes_on(llm: LLM) -> None:
    with pytest.raises(RequestError, match=r"structured_outputs\.regex cannot be compiled: invalid regex"):
        llm.generate("a", SamplingParams(structured_outputs=StructuredOutputsParams(regex="(")), use_tqdm=False)
    params = SamplingParams(structured_outputs=StructuredOutputsParams(choice=["yes", "no"]), n=4, seed=1, logprobs=2)
    (output,) = llm.generate("a", params, use_tqdm=False)
    assert {answer.text for answer in output.outputs} <= {"yes", "no"}
    # Those of the logits as they were: what the grammar leaves out is among the likeliest.
    likeliest = output.outputs[0].logprobs
    assert likeliest is not None
    assert any(len(entries) == 3 for entries in likeliest)
