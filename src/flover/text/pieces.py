"""The bytes of a token, by the `decoder` section of a tokenizer.json.

Two kinds of decoder are supported: byte-level BPE (GPT-2 and later), whose tokens are bytes written in an alphabet of
printable characters, and SentencePiece's (LLaMA 1 and 2, Mistral), whose tokens are text with "▁" for a space, and
"<0x0A>" for a single byte. In both, the text of a sequence is its tokens' bytes, joined; only the first token may lose
a leading space. Other decoders are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from flover.errors import ModelError

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 characters stand for themselves, the other bytes for U+0100 and up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_ALPHABET = _byte_alphabet()


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceRule:
    """The conversion of a token's text to bytes.

    `replacements` are applied in order to a token's text. `joined_by_space` is the rule of a tokenizer.json without
    a decoder: tokens are words. `start` is what the first token of a text loses: nothing, one leading space ("one"), or
    all leading spaces ("all", as the tokenizers library does for Metaspace).
    """

    byte_level: bool = False
    byte_fallback: bool = False
    replacements: tuple[tuple[str, str], ...] = ()
    joined_by_space: bool = False
    start: str = "keep"

    def token_bytes(self, token: str) -> bytes:
        """The bytes of a token inside a text."""
        if self.byte_level:
            return self._alphabet_bytes(token)
        for old, new in self.replacements:
            token = token.replace(old, new)
        if self.byte_fallback and (match := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(match[1], 16)])
        return (" " + token if self.joined_by_space else token).encode(errors="replace")

    def strip_start(self, raw: bytes) -> bytes:
        """The bytes of a token that is the first of a text."""
        if self.start == "one":
            return raw.removeprefix(b" ")
        return raw.replace(b" ", b"") if self.start == "all" else raw

    @property
    def adds_spaces(self) -> bool:
        """Whether decoding adds spaces between tokens."""
        return self.joined_by_space

    @staticmethod
    def _alphabet_bytes(token: str) -> bytes:
        try:
            return bytes([_BYTE_ALPHABET[char] for char in token])
        except KeyError:
            return token.encode(errors="replace")


def read_decoder(decoder: Any) -> PieceRule:
    """The rule of a `decoder` section. Raises `ModelError` if it is not supported."""
    if decoder is None:
        return PieceRule(joined_by_space=True, start="one")
    byte_level, byte_fallback, start, fused = False, False, "keep", False
    replacements: list[tuple[str, str]] = []
    for step in _flatten(decoder):
        match step:
            case {"type": "ByteLevel"}:
                byte_level = True
            case {"type": "ByteFallback"}:
                byte_fallback = True
            case {"type": "Fuse"}:
                fused = True
            case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)} if old:
                replacements.append((old, new))
            case {"type": "Metaspace", "replacement": str(old)}:
                replacements.append((old, " "))
                prepends = step.get("prepend_scheme", "always") != "never" and step.get("add_prefix_space", True)
                start = "all" if prepends else start
            case {"type": "Strip", "content": " ", "start": 0 | 1 as count, "stop": 0} if fused:
                start = "one" if count else start
            case _:
                raise ModelError(f"tokenizer.json: decoder {_describe(step)} is not supported")
    if byte_level and (byte_fallback or replacements or start != "keep"):
        raise ModelError("tokenizer.json: a decoder that is both byte-level and SentencePiece's is not supported")
    return PieceRule(byte_level=byte_level, byte_fallback=byte_fallback, replacements=tuple(replacements), start=start)


def _flatten(decoder: Any) -> list[Any]:
    if isinstance(decoder, dict) and decoder.get("type") == "Sequence" and isinstance(decoder.get("decoders"), list):
        return [step for part in decoder["decoders"] for step in _flatten(part)]
    return [decoder]


def _describe(step: Any) -> str:
    return repr(step)[:200]
