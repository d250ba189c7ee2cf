"""Formats of strings in JSON Schemas that llguidance's own expressions take too much for: February has 29 days in leap
years alone, a minute 60 seconds, what is before the @ of an address at most 64 characters, and a name at most 253."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_LEAP = "(([0-9]{2}(0[48]|[2468][048]|[13579][26]))|([2468][048]|[13579][26]|0[48])00)-02-29"
_DAY = (
    "([0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)-"
    "((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
)
_DATE = f"({_DAY}|{_LEAP})"
_TIME = "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_ATOM = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_LOCAL = f"({_ATOM}{{1,64}}|{_ATOM}{{1,31}}\\.{_ATOM}{{1,32}}|{_ATOM}{{1,16}}(\\.{_ATOM}{{1,15}}){{2,3}})"
_LABEL = "([A-Za-z0-9]{1,41}|[A-Za-z0-9]{1,9}(-[A-Za-z0-9]{1,7}){1,4})"
EXACT: Mapping[str, str] = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "email": f"{_LOCAL}@({_LABEL}\\.){{1,3}}[A-Za-z]{{2,24}}",
    "hostname": f"{_LABEL}(\\.{_LABEL}){{0,5}}",
}
"""Regular expressions: of RFC 3339 from the year 1 on, without leap seconds; of addresses with a domain's name; of
names that are short enough for DNS in any case."""
_VALUES = frozenset(("const", "default", "enum", "examples"))
"""What holds values and no schemas."""


def with_exact_formats(schema: str) -> str:
    """The text of a schema whose strings of these formats match the expressions here as well."""
    if '"format"' not in schema:
        return schema
    return json.dumps(_rewritten("", json.loads(schema)), ensure_ascii=False)


def _rewritten(key: str, value: Any) -> Any:
    if key in _VALUES:
        return value
    if isinstance(value, list):
        return [_rewritten("", one) for one in value]
    if not isinstance(value, dict):
        return value
    found = {name: _rewritten(name, inner) for name, inner in value.items()}
    exact = EXACT.get(found["format"]) if isinstance(found.get("format"), str) else None
    if exact is None:
        return found
    pattern = f"^{exact}$"
    del found["format"]
    if "pattern" not in found:
        return found | {"pattern": pattern}
    return found | {"allOf": [*found.get("allOf", []), {"pattern": pattern}]}
