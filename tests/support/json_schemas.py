"""JSON Schemas as people send them, and keywords that are refused."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "maxLength": 16}
NUMBER: Schema = {"type": "number"}
COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 999}


def an_object(required: list[str] | None = None, **properties: Any) -> Schema:
    """An object of these properties alone, all of them required unless said otherwise."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        "additionalProperties": False,
    }


def a_list(items: Schema, most: int = 3, least: int = 0) -> Schema:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


ADDRESS = an_object(street=TEXT, city=TEXT, zip={"type": "string", "pattern": "^[0-9]{5}$"})
TREE: Schema = {
    "$ref": "#/$defs/node",
    "$defs": {"node": an_object(["name"], name=TEXT, children=a_list({"$ref": "#/$defs/node"}, 2))},
}
SCHEMAS: dict[str, Schema] = {
    # single values
    "boolean": {"type": "boolean"},
    "null": {"type": "null"},
    "integer": {"type": "integer"},
    "number": NUMBER,
    "a range": {"type": "integer", "minimum": -17, "maximum": 1234},
    "an open range": {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 8},
    "a range of fractions": {"type": "number", "minimum": 0.25, "maximum": 1.75},
    "multiples": {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 100},
    "text": TEXT,
    "long text": {"type": "string", "minLength": 30, "maxLength": 60},
    "a code": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
    "part of a text": {"type": "string", "pattern": "[0-9]", "maxLength": 20},
    "a date": {"type": "string", "format": "date"},
    "a time": {"type": "string", "format": "time"},
    "date and time": {"type": "string", "format": "date-time"},
    "an address of mail": {"type": "string", "format": "email", "maxLength": 40},
    "a uuid": {"type": "string", "format": "uuid"},
    "ipv4": {"type": "string", "format": "ipv4"},
    "enum": {"enum": ["red", "green", "blue"]},
    "mixed enum": {"enum": [1, "one", None, True, [1], {"a": 1.5}]},
    "const": {"const": {"version": 1, "kind": "fixed"}},
    "escapes": {"enum": ['say "hi"', "back\\slash", "new\nline", "日本語", "😀", "/"]},
    "several types": {"type": ["integer", "null", "boolean"]},
    # lists
    "list": a_list(COUNT, 5),
    "list of texts": a_list(TEXT, 3, 1),
    "exactly two": a_list(COUNT, 2, 2),
    "pair": {"type": "array", "prefixItems": [TEXT, COUNT], "items": False, "minItems": 2},
    "pair and more": {"type": "array", "prefixItems": [TEXT], "items": COUNT, "minItems": 1, "maxItems": 3},
    "table": a_list(a_list(COUNT, 3, 3), 3, 3),
    "empty list": {"type": "array", "maxItems": 0},
    # objects
    "person": an_object(name=TEXT, age={"type": "integer", "minimum": 0, "maximum": 120}, email=TEXT),
    "optional fields": an_object(["id"], id=COUNT, note=TEXT, done={"type": "boolean"}),
    "no field required": an_object([], a=COUNT, b=TEXT),
    "nested": an_object(name=TEXT, home=ADDRESS, work=an_object(company=TEXT, address=ADDRESS)),
    "nullable": an_object(nickname={"anyOf": [TEXT, {"type": "null"}]}),
    "map": {"type": "object", "additionalProperties": COUNT, "maxProperties": 2},
    "named map": {
        "type": "object",
        "patternProperties": {"^x_[a-z]{1,4}$": COUNT},
        "additionalProperties": False,
        "maxProperties": 3,
    },
    "deep": an_object(a=an_object(b=an_object(c=an_object(d=an_object(e=an_object(f=COUNT)))))),
    "empty object": an_object(),
    "odd names": an_object(**{"a b": COUNT, 'quo"te': COUNT, "ä": COUNT, "$ref ": COUNT, "": COUNT}),
    "many fields": an_object(**{f"field_{number}": {"type": "boolean"} for number in range(20)}),
    "titles": {
        "title": "Answer",
        "description": "says nothing",
        "$comment": "x",
        "examples": [1],
        **an_object(a=COUNT),
    },
    "defaults": an_object(a={"type": "integer", "default": 5, "maximum": 9, "minimum": 0}),
    # combinations
    "any of": {"anyOf": [COUNT, TEXT, {"type": "null"}]},
    "one of objects": {
        "oneOf": [an_object(kind={"const": "circle"}, radius=COUNT), an_object(kind={"const": "box"}, side=COUNT)]
    },
    "all of": {"allOf": [{"type": "integer", "minimum": 10}, {"maximum": 20}]},
    "all of objects": {
        "allOf": [
            {"type": "object", "properties": {"a": COUNT}, "required": ["a"]},
            {"type": "object", "properties": {"b": COUNT}, "required": ["b"]},
        ],
        "additionalProperties": False,
        "properties": {"a": COUNT, "b": COUNT},
    },
    "union of lists": a_list({"anyOf": [COUNT, a_list(COUNT, 2)]}, 3),
    "reference": {"$ref": "#/$defs/person", "$defs": {"person": an_object(name=TEXT)}},
    "old reference": {"$ref": "#/definitions/a", "definitions": {"a": a_list({"$ref": "#/definitions/b"}), "b": COUNT}},
    "tree": TREE,
    "linked list": {
        "$ref": "#/$defs/cell",
        "$defs": {"cell": an_object(head=COUNT, tail={"anyOf": [{"$ref": "#/$defs/cell"}, {"type": "null"}]})},
    },
    # what tools and extractors send
    "tool call": an_object(
        name={"const": "get_weather"},
        arguments=an_object(["city"], city=TEXT, unit={"type": "string", "enum": ["celsius", "fahrenheit"]}),
    ),
    "one of two tools": {
        "anyOf": [
            an_object(tool={"const": "search"}, query=TEXT, top={"type": "integer", "minimum": 1, "maximum": 9}),
            an_object(tool={"const": "answer"}, text=TEXT, sure={"type": "boolean"}),
        ]
    },
    "classification": an_object(label={"enum": ["spam", "ham"]}, score={"type": "number", "minimum": 0, "maximum": 1}),
    "entities": an_object(entities=a_list(an_object(text=TEXT, type={"enum": ["person", "place"]}, start=COUNT), 2)),
    "recipe": an_object(title=TEXT, steps=a_list(TEXT, 3, 1), minutes=COUNT, vegan={"type": "boolean"}),
    "invoice": an_object(
        number={"type": "string", "pattern": "^INV-[0-9]{6}$"},
        date={"type": "string", "format": "date"},
        lines=a_list(an_object(item=TEXT, amount=COUNT, price=COUNT), 2, 1),
    ),
    "calendar": an_object(
        title=TEXT, start={"type": "string", "format": "date-time"}, guests=a_list(an_object(name=TEXT), 2)
    ),
    "pydantic": {
        "$defs": {"Step": {"title": "Step", **an_object(explanation=TEXT, output=TEXT)}},
        **an_object(steps=a_list({"$ref": "#/$defs/Step"}, 2), final_answer=TEXT),
        "title": "MathReasoning",
    },
    "game": an_object(
        board=a_list(a_list({"enum": ["x", "o", " "]}, 3, 3), 3, 3),
        turn={"enum": ["x", "o"]},
        winner={"anyOf": [{"enum": ["x", "o"]}, {"type": "null"}]},
    ),
}
UNSUPPORTED: dict[str, Schema] = {
    "not": {"not": {"type": "string"}},
    "uniqueItems": {"type": "array", "uniqueItems": True},
    "contains": {"type": "array", "contains": {"type": "integer"}},
    "if": {"if": {"type": "string"}, "then": {"minLength": 1}},
    "dependentRequired": {"type": "object", "dependentRequired": {"a": ["b"]}},
    "propertyNames": {"type": "object", "propertyNames": {"maxLength": 3}},
    "lookahead": {"type": "string", "pattern": "(?=a)b"},
    "a backreference": {"type": "string", "pattern": "(a)\\1"},
    "a remote reference": {"$ref": "https://example.com/schema.json"},
    "a missing reference": {"$ref": "#/$defs/missing"},
    "a circle of references": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
    "an unknown type": {"type": "text"},
    "nothing": {"type": "object", "properties": {"a": False}, "required": ["a"]},
    "an empty range": {"type": "integer", "minimum": 5, "maximum": 4},
}
