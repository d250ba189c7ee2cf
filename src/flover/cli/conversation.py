"""A chat at the terminal: messages, answers and slash commands."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flover.cli.messages import line_reader, read_message
from flover.cli.sampling import changed, described
from flover.cli.wrapping import WordWrap
from flover.errors import EngineDeadError, FloverError, RequestError
from flover.request import SamplingParams

Message = dict[str, str]
Answer = Callable[[Sequence[Message], SamplingParams], Generator[tuple[str, int], None, None]]
"""Maps a conversation to the pieces of the answer: text and number of tokens."""


@dataclass(slots=True)
class AnswerStats:
    """Statistics of the last answer: tokens (0 if unknown), seconds to the first text and to the end."""

    tokens: int
    first: float
    seconds: float

    def __str__(self) -> str:
        rate = f" ({self.tokens / self.seconds:.1f} per second)" if self.tokens and self.seconds > 0 else ""
        tokens = f"{self.tokens} tokens{rate}" if self.tokens else "number of tokens unknown"
        return f"{tokens}; first text after {self.first:.2f} s, total {self.seconds:.2f} s"


class Conversation:
    """Reads messages and prints answers until the input ends.

    At a terminal the error of a request is shown and the conversation continues. With piped input only answers are
    printed, and an error ends it.
    """

    def __init__(self, answer: Answer, params: SamplingParams, system: str | None) -> None:
        self._answer = answer
        self._params = params
        self._system = system
        self._messages: list[Message] = []
        self._stats: AnswerStats | None = None
        self._interactive = sys.stdin.isatty()
        self._commands: dict[str, tuple[str, Callable[[str], None]]] = {
            "/help": ("these commands", self._help),
            "/set": ("NAME VALUE: another sampling parameter, or system TEXT; alone it shows them", self._set),
            "/regen": ("another answer to the last message", self._regenerate),
            "/clear": ("forget the conversation (also /reset)", self._clear),
            "/save": ("FILE: write the conversation as JSON", self._save),
            "/stats": ("tokens and times of the last answer", self._show_stats),
        }

    def run(self) -> None:
        """Run until the input ends or `/exit`. Raises `FloverError` if the conversation cannot continue."""
        read_line = line_reader()
        self._note("/help lists the commands, /exit or Ctrl-D ends the conversation.")
        while True:
            try:
                text = read_message(read_line)
            except EOFError:
                if self._interactive:
                    print()
                return
            except KeyboardInterrupt:
                if not self._interactive:
                    raise
                print()
                continue
            if text in ("/exit", "/quit", "/bye"):
                return
            self._take(text)

    def _take(self, text: str) -> None:
        """Handle one message or command."""
        try:
            name, _, rest = text.partition(" ")
            name = "/clear" if name == "/reset" else name
            if name in self._commands or (text.startswith("/") and self._interactive):
                self._command(name, rest.strip())
            elif text:
                self.ask(text)
        except EngineDeadError:
            raise
        except FloverError as error:
            if not self._interactive:
                raise
            self._note(f"({error})")

    def ask(self, text: str) -> None:
        """Send one message and print the answer. A refused message is not kept; an interrupted answer is kept as far as
        it was generated."""
        self._messages.append({"role": "user", "content": text})
        answered = ""
        try:
            answered = self._print_answer()
        finally:
            if not answered and self._messages[-1]["role"] == "user":
                self._messages.pop()

    def _print_answer(self) -> str:
        """Print the answer to the messages as it is generated, keep it and return it."""
        pieces: list[str] = []
        start = [{"role": "system", "content": self._system}] if self._system else []
        wrap = WordWrap() if sys.stdout.isatty() else None
        began, first, tokens = time.perf_counter(), 0.0, 0
        interrupted = False
        try:
            with contextlib.closing(self._answer([*start, *self._messages], self._params)) as answer:
                for text, count in answer:
                    tokens += count
                    if text:
                        first = first or time.perf_counter() - began
                        pieces.append(text)
                        width = shutil.get_terminal_size().columns
                        print(text if wrap is None else wrap.feed(text, width), end="", flush=True)
        except KeyboardInterrupt:
            if not self._interactive:
                raise
            interrupted = True
        finally:
            if pieces:
                self._messages.append({"role": "assistant", "content": "".join(pieces)})
                print()
        self._stats = AnswerStats(tokens, first, time.perf_counter() - began)
        if interrupted:
            self._note("(interrupted; the partial answer is kept)" if pieces else "(interrupted before an answer)")
        elif not pieces:
            self._note("(the answer is empty)")
        return "".join(pieces)

    # Commands

    def _command(self, name: str, rest: str) -> None:
        if name not in self._commands:
            raise RequestError(f"There is no {name}; there are {', '.join([*self._commands, '/exit'])}.")
        self._commands[name][1](rest)

    def _help(self, rest: str) -> None:
        lines = [f"  {name:8}{what}" for name, (what, _) in self._commands.items()]
        lines += ["  /exit   end the conversation (also Ctrl-D)"]
        lines += ['A line that ends with \\ goes on in the next; """ begins and ends a message of several lines.']
        self._note("\n".join([*lines, "Ctrl-C ends an answer, or clears the line."]))

    def _set(self, rest: str) -> None:
        name, _, value = rest.partition(" ")
        if name == "system":
            self._system = value.strip() or None
        elif name:
            self._params = changed(self._params, name, value.strip())
        else:
            self._note(f"  system {json.dumps(self._system)}\n{described(self._params)}")

    def _regenerate(self, rest: str) -> None:
        if not self._messages:
            raise RequestError("There is no answer yet.")
        before = self._messages
        self._messages = before[:-1]
        said = ""
        try:
            said = self._print_answer()
        finally:
            if not said:
                self._messages = before

    def _clear(self, rest: str) -> None:
        self._messages = []
        self._note("(forgotten)")

    def _save(self, rest: str) -> None:
        if not rest:
            raise RequestError("/save needs the name of a file.")
        start = [{"role": "system", "content": self._system}] if self._system else []
        try:
            text = json.dumps([*start, *self._messages], ensure_ascii=False, indent=2) + "\n"
            Path(rest).expanduser().write_text(text, encoding="utf-8", errors="replace")
        except (OSError, RuntimeError, ValueError) as error:
            raise RequestError(f"/save {rest}: {getattr(error, 'strerror', None) or error}") from error
        self._note(f"({len(self._messages)} messages written to {rest})")

    def _show_stats(self, rest: str) -> None:
        self._note("There is no answer yet." if self._stats is None else str(self._stats))

    def _note(self, text: str) -> None:
        """Print a note, at a terminal only."""
        if self._interactive:
            print(text, file=sys.stdout if sys.stdout.isatty() else sys.stderr)
