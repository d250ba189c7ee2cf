"""Follows JSON text as it arrives: where a value ends, and the first character that cannot be JSON."""

from __future__ import annotations

import re

MAX_DEPTH = 128
"""Objects and lists of a value in each other; a deeper one counts as broken."""
MAX_SCALAR_CHARS = 1024
_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_SCALAR = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null", re.ASCII)
_SCALAR_BEGIN = re.compile(
    r"-?(?:(?:0|[1-9]\d*)(?:\.\d*)?(?:(?<=\d)[eE][+-]?\d*)?)?|t(?:r(?:ue?)?)?|f(?:a(?:l(?:se?)?)?)?|n(?:u(?:ll?)?)?",
    re.ASCII,
)
_CLOSING = {"{": "}", "[": "]"}


class JsonScanner:
    """Begins before a value that `depth` objects contain."""

    def __init__(self, depth: int = 0) -> None:
        self._open = ["{"] * depth
        self._state = "value"
        self._scalar = ""
        self._is_key = False
        self.broken = False
        """Whether the last character that `feed` left out cannot be JSON."""

    @property
    def depth(self) -> int:
        """Objects and lists that are open."""
        return len(self._open)

    def feed(self, text: str, depth: int) -> int:
        """How many characters belong to the JSON, up to the bracket that closes the value at this depth."""
        i = 0
        while i < len(text):
            if self._state == "string" and (plain := _PLAIN.match(text, i)):
                i = plain.end()
                continue
            if not self._take(text[i]):
                self.broken = True
                return i
            i += 1
            if self._state == "after" and len(self._open) == depth and text[i - 1] in "}]":
                return i
        return i

    def _take(self, char: str) -> bool:
        """Take one character; whether it can be JSON."""
        match self._state:
            case "string":
                return self._in_string(char)
            case "escape":
                self._state = "string" if char in '"\\/bfnrt' else "hex4"
                return char in '"\\/bfnrtu'
            case "hex4" | "hex3" | "hex2" | "hex1":
                left = int(self._state[3]) - 1
                self._state = f"hex{left}" if left else "string"
                return char in "0123456789abcdefABCDEF"
            case "scalar":
                if char not in " \t\r\n,}]":
                    self._scalar += char
                    return len(self._scalar) <= MAX_SCALAR_CHARS and bool(_SCALAR_BEGIN.fullmatch(self._scalar))
                if not _SCALAR.fullmatch(self._scalar):
                    return False
                self._state = "after"
        return char in " \t\r\n" or self._between(char)

    def _in_string(self, char: str) -> bool:
        if char == '"':
            self._state = "colon" if self._is_key else "after"
        elif char == "\\":
            self._state = "escape"
        return char in '"\\'

    def _between(self, char: str) -> bool:
        """Take a character that is outside strings and scalars, and no whitespace."""
        state = self._state
        if state == "after" and char == "," and self._open:
            self._state = "key" if self._open[-1] == "{" else "value"
        elif (state == "after" or state.startswith("first")) and self._open and char == _CLOSING[self._open[-1]]:
            self._open.pop()
            self._state = "after"
        elif state == "colon":
            self._state = "value"
            return char == ":"
        elif state in ("key", "first key"):
            self._state, self._is_key = "string", True
            return char == '"'
        elif state in ("value", "first value"):
            return self._begin(char)
        else:
            return False
        return True

    def _begin(self, char: str) -> bool:
        if char in "{[":
            self._open.append(char)
            self._state = "first key" if char == "{" else "first value"
            return len(self._open) <= MAX_DEPTH
        if char == '"':
            self._state, self._is_key = "string", False
            return True
        self._state, self._scalar = "scalar", char
        return char in "-0123456789tfn"
