"""The rows of a device as a plan changes them: who leaves, moves, enters and gets pages."""

from __future__ import annotations

from dataclasses import dataclass

from flover.engine.plan import Admission, Grant, StepPlan
from flover.errors import InvariantError
from flover.executor.adapters import DeviceAdapters
from flover.executor.device_grammars import DeviceGrammars
from flover.executor.pooling import Pooled
from flover.grammar.thinking import ThinkingState
from flover.memory.buffers import RowBuffers
from flover.memory.columns import Feature
from flover.model.sampling import sampling_values
from flover.ops import Array
from flover.request import ModelFacts, is_long


@dataclass(slots=True)
class PromptTail:
    """Column `prompt_hidden`: a row reports on its prompt, `num_top` alternatives for each token. `hidden` [1, H]
    is the last token of the chunk before, from which the next chunk's first token is predicted."""

    num_top: int
    hidden: Array | None = None


def change_rows(
    buffers: RowBuffers,
    plan: StepPlan,
    facts: ModelFacts,
    grammars: DeviceGrammars | None,
    adapters: DeviceAdapters | None = None,
) -> None:
    """Apply the plan to the rows; a rank that chooses no tokens has no grammars."""
    buffers.clear(plan.evictions)
    buffers.move([move.src for move in plan.moves], [move.dst for move in plan.moves])
    for admission in plan.admissions:
        _admit(buffers, admission, facts, grammars)
        if adapters is not None:
            column = buffers["adapter"]
            column[admission.row] = adapters.slot(admission.params.lora, column)
        elif admission.params.lora is not None:
            raise InvariantError(f"row {admission.row} has an adapter, and this device computes none")
    for grant in plan.grants:
        _grant(buffers, grant)


def _admit(buffers: RowBuffers, admission: Admission, facts: ModelFacts, grammars: DeviceGrammars | None) -> None:
    params, constraint = admission.params, admission.params.structured_outputs
    values = sampling_values(
        params,
        prompt_ids=admission.prompt_ids,
        output_ids=admission.output_ids,
        seed=admission.seed,
        bad_words_ids=admission.bad_words_ids,
        eos_ids=facts.eos_ids,
    )
    if constraint is not None and grammars is not None:
        values["grammar"] = grammars.state(constraint, admission.output_ids)
        values["features"] |= int(Feature.GRAMMAR)
    if params.thinking is not None and grammars is not None:
        values["grammar"] = ThinkingState(params.thinking, facts.vocab_size, admission.prompt_ids, admission.output_ids)
        values["features"] |= int(Feature.GRAMMAR)
    if params.prompt_logprobs is not None and not admission.output_ids:
        if admission.computed:
            raise InvariantError(
                f"row {admission.row} reports on its prompt, but {admission.computed} tokens of it are not computed"
            )
        values["prompt_hidden"] = PromptTail(params.prompt_logprobs)
    if params.pooling is not None:
        values["pooled"] = Pooled(params.pooling)
    short = facts.switch_len is not None and not is_long(len(admission.prompt_ids), params, facts.switch_len)
    buffers.insert(
        admission.row,
        rotary_start=facts.max_model_len if short else 0,
        page_table=admission.pages,
        num_pages=len(admission.pages),
        context_len=admission.computed,
        **values,
    )


def _grant(buffers: RowBuffers, grant: Grant) -> None:
    table, used = buffers["page_table"], buffers["num_pages"]
    first = int(used[grant.row])
    if first + len(grant.pages) > table.shape[1]:
        raise InvariantError(f"row {grant.row} would have {first + len(grant.pages)} pages of {table.shape[1]}")
    table[grant.row, first : first + len(grant.pages)] = grant.pages
    used[grant.row] = first + len(grant.pages)
