"""The output text of one sequence: engine deltas in, text pieces and the finish reason out.

A `TextStream` combines the detokenizer and the stop strings of one sequence. Its owner cancels the sequence in the
engine when a piece asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flover.request import Delta, FinishReason, SamplingParams, TokenLogprobs
from flover.text.detokenizer import Detokenizer, PromptEnd, prompt_end, token_texts
from flover.text.stops import StopMatcher, StopTable
from flover.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPiece:
    """The output that one delta added to a sequence.

    `text` may be empty while a character or a possible stop string is incomplete; the last piece has any text held
    back. `logprobs` has one entry per token id, or is None when none were requested; with them, `token_texts` has the
    text that each token added: a character belongs to the token that completes it. `finish_reason` is set on exactly
    one piece of a stream, the last. `stop_reason` is the matched stop string or stop token id. `cancel` is True when a
    stop string ended a sequence that the engine still runs: the caller must then cancel (request id, index).
    """

    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] | None = None
    token_texts: tuple[str, ...] = ()
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    cancel: bool = False


@dataclass(frozen=True, slots=True)
class TextStart:
    """Text state shared by the sequences of one prompt: the end of the prompt and the stop strings."""

    prompt: PromptEnd
    stops: StopTable
    special_stops: bool
    """Whether a stop string contains the text of a special token, which is then searched even if not shown."""
    prompt_texts: tuple[str, ...] = ()
    """The text that each prompt token adds, if the response repeats the prompt."""


def text_start(
    tokenizer: Tokenizer | None,
    params: SamplingParams,
    prompt_ids: Sequence[int],
    *,
    echo: bool = False,
    stops: StopTable | None = None,
) -> TextStart:
    """Make the shared state of a prompt, off the event loop: its cost grows with the prompt and the stop strings.
    `echo`: responses repeat the prompt. `stops`: the table of the stop strings, if several prompts share it."""
    stops = stops or StopTable(params.stop_strings)
    if tokenizer is None or not params.detokenize:
        return TextStart(PromptEnd(False, b""), stops, False)
    skip = params.skip_special_tokens
    end = prompt_end(tokenizer, prompt_ids, skip_special_tokens=skip)
    hidden = skip and any(map(tokenizer.holds_special, stops.strings))
    texts = token_texts(tokenizer, prompt_ids, skip_special_tokens=skip) if echo else []
    return TextStart(end, stops, hidden, tuple(texts))


class TextStream:
    """The output text of one sequence, from its first delta to its last.

    `text`, `token_ids` and `logprobs` accumulate the pieces. Without a tokenizer, or with `params.detokenize` off, the
    text stays empty.

    When a stop string matches, `token_ids` keep the token that completed it and drop all later ones; the finish
    reason is "stop" and the stop reason is the string, even if the delta has another finish reason. As in vLLM, the
    text of an end-of-sequence or stop token that ended the sequence is left out unless
    `include_stop_str_in_output` is set; its id stays in `token_ids`.
    """

    def __init__(self, tokenizer: Tokenizer | None, params: SamplingParams, start: TextStart) -> None:
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprobs] | None = None if params.logprobs is None else []
        self.token_texts: list[str] = []
        """The text that each token added, if log-probabilities were requested."""
        self.finish_reason: FinishReason | None = None
        self.stop_reason: int | str | None = None
        self._params = params
        self._tokenizer = tokenizer
        self._special_stops = start.special_stops
        self._pieces: list[str] = []
        self._detokenizer: Detokenizer | None = None
        if tokenizer is not None and params.detokenize:
            self._detokenizer = Detokenizer(tokenizer, start.prompt, skip_special_tokens=params.skip_special_tokens)
        self._stops = StopMatcher(start.stops, include=params.include_stop_str_in_output)

    @property
    def finished(self) -> bool:
        """True once a piece had a finish reason; later deltas are ignored."""
        return self.finish_reason is not None

    @property
    def text(self) -> str:
        """All text so far."""
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""

    def feed(self, delta: Delta) -> TextPiece:
        """Take the delta of one iteration and return the output it adds. Never raises on a delta of its sequence."""
        if self.finished:
            return TextPiece()
        texts: list[str] = []
        num_kept = len(delta.token_ids)
        for position, token in enumerate(delta.token_ids):
            self.token_ids.append(token)
            texts.append(self._advance(token, self._ends_silently(delta, position)))
            if self._stops.matched is not None:
                num_kept = position + 1
                break
        if delta.finish_reason is not None and self._stops.matched is None:
            texts.append(self._flush())
        return self._piece(delta, "".join(texts), num_kept)

    def _ends_silently(self, delta: Delta, position: int) -> bool:
        """Whether this token ended the sequence and its text is left out."""
        last = position == len(delta.token_ids) - 1
        return last and delta.finish_reason is FinishReason.STOP and not self._params.include_stop_str_in_output

    def _advance(self, token: int, silent: bool) -> str:
        text = "" if self._detokenizer is None or silent else self._detokenizer.feed(token)
        if self.logprobs is not None:
            self.token_texts.append(text)
        armed = len(self.token_ids) > self._params.min_tokens
        if self._special_stops and self._tokenizer is not None and self._tokenizer.is_special(token):
            return self._stops.feed(self._tokenizer.token_to_str(token), armed=armed, hidden=True)
        return self._stops.feed(text, armed=armed) if text else ""

    def _flush(self) -> str:
        """The remaining text of an ended sequence: an incomplete character and text held back for a stop string."""
        if self._detokenizer is None:
            return ""
        armed = len(self.token_ids) > self._params.min_tokens
        rest = self._detokenizer.finish()
        if rest and self.token_texts:
            self.token_texts[-1] += rest
        return self._stops.feed(rest, armed=armed) + self._stops.finish()

    def _piece(self, delta: Delta, text: str, num_kept: int) -> TextPiece:
        matched = self._stops.matched
        if matched is not None:
            self.finish_reason, self.stop_reason = FinishReason.STOP, matched
        else:
            self.finish_reason, self.stop_reason = delta.finish_reason, delta.stop_reason
        logprobs: tuple[TokenLogprobs, ...] | None = None
        texts: tuple[str, ...] = ()
        if self.logprobs is not None:
            logprobs = tuple((delta.logprobs or [])[:num_kept])
            self.logprobs.extend(logprobs)
            texts = tuple(self.token_texts[len(self.token_texts) - num_kept :]) if num_kept else ()
        if text:
            self._pieces.append(text)
        return TextPiece(
            text=text,
            token_ids=tuple(delta.token_ids[:num_kept]),
            logprobs=logprobs,
            token_texts=texts,
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
            cancel=matched is not None and delta.finish_reason is None,
        )
