"""The budget of reasoning in the tokens of one model."""

from __future__ import annotations

from flover.errors import RequestError
from flover.sampling_checks import THINKING
from flover.text.output_format import OutputFormat
from flover.text.tokenizer import Tokenizer
from flover.thinking import ThinkingBudget

_SPACES = (" ", "\n", "\n\n")
"""Whitespace around the start marker."""


def thinking_budget(tokens: int, form: OutputFormat, tokenizer: Tokenizer) -> ThinkingBudget:
    """What the engine has to know of a budget of so many tokens. Raises `RequestError` if it cannot be kept."""
    markers = form.thinking_markers
    if markers is None:
        raise RequestError(
            f"{THINKING}: the model's chat template has no markers around reasoning, so nothing says where it ends; "
            "--reasoning-parser can name them",
            param=THINKING,
        )
    start, end = (tokenizer.encode(marker, add_special_tokens=False) for marker in markers)
    if len(end) != 1:
        raise RequestError(f"{THINKING}: {markers[1]} is not one token of the model's tokenizer", param=THINKING)
    spaces = (tokenizer.encode(space, add_special_tokens=False) for space in _SPACES)
    return ThinkingBudget(
        tokens=tokens,
        start_ids=start,
        end_id=end[0],
        space_ids=[ids[0] for ids in spaces if len(ids) == 1],
        again=form.is_harmony,
    )
