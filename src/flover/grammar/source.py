"""A constraint as a grammar in the Lark syntax of llguidance.

A grammar accepts bytes and does not say in which tokens they come (`no_forcing`): where only one text can follow, the
model still chooses how it is cut into tokens. So a mask depends on the bytes before it alone, and the engine needs no
tokenizer.
"""

from __future__ import annotations

import llguidance
from llguidance.gbnf_to_lark import any_to_lark

from flover.errors import RequestError
from flover.structured_outputs import FIELD, StructuredOutputsParams, json_rule

_BEGIN = '%llguidance {"no_forcing": true}\n'


def grammar_of(params: StructuredOutputsParams) -> str:
    """The grammar of a constraint. Raises `RequestError`."""
    if params.regex is not None:
        rule = _regex(params.regex)
    elif params.choice is not None:
        rule = f"/{'|'.join(map(_literal, params.choice))}/"
    elif params.grammar is not None:
        return _BEGIN + _lark(params.grammar)
    else:
        rule = json_rule(params)
    return f"{_BEGIN}start: {rule}"


def _regex(regex: str) -> str:
    """With the ASCII meaning of \\d and \\w, as in JSON Schema."""
    return f"/{llguidance.regex_to_lark(regex, 'dw')}/"


def _literal(text: str) -> str:
    """A regular expression that matches this text alone."""
    return "".join(one if one.isascii() and one.isalnum() else f"\\x{{{ord(one):X}}}" for one in text)


def _lark(grammar: str) -> str:
    try:
        lark: str = any_to_lark(grammar)
    except Exception as error:  # its own type of error and those of bugs in it
        raise RequestError(f"{FIELD}.grammar cannot be read as GBNF: {error}", param=FIELD) from None
    return lark
