"""How a harness reports that a law does not hold."""

from __future__ import annotations


class LawBroken(BaseException):
    """A law was found broken.

    Not an `Exception`, so that an engine which survives the failures of its device cannot survive this one.
    """

    def __init__(self, law: str, message: str) -> None:
        super().__init__(f"{law}: {message}")
        self.law = law
        self.message = message


def require(law: str, holds: bool, message: str, *values: object) -> None:
    """Raise `LawBroken` unless the law holds. `message` is a format string for `values`: most laws hold, and
    formatting costs more than looking."""
    if not holds:
        raise LawBroken(law, message.format(*values))
