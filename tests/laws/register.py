"""The laws that hold in every Flover, whoever asks and whatever fails, and the tests that hold each of them.

`test_register.py` sees to it that none is without a test. Bugs that the laws of the simulation have to find are in
`plants.py`, `async_plants.py` and `text_plants.py` of `tests/simulation`.
"""

from __future__ import annotations

from dataclasses import dataclass

SIMULATION = "simulation/test_simulation.py::test_the_laws_hold"


@dataclass(frozen=True, slots=True)
class Law:
    """One law, and tests (`file::function`, below `tests`) that go red when it is broken."""

    statement: str
    tests: tuple[str, ...]


LAWS: dict[str, Law] = {
    "L1": Law(
        "Every admitted request ends exactly once, with one reason of a closed set; nothing comes after the end.",
        (
            SIMULATION,
            "server/test_engine_process.py::test_death_ends_every_stream_exactly_once_and_refuses_later_requests",
            "server/test_supervisor.py::test_what_ended_or_was_cancelled_before_a_death_stays_so",
        ),
    ),
    "L2": Law(
        "Admitted = ended + in flight, after every iteration, and the counters agree with what was seen.",
        (SIMULATION, "server/test_supervisor.py::test_streams_go_on_where_a_dead_engine_stopped"),
    ),
    "L3": Law(
        "Free, cached and owned pages are the pool; no page has two owners that do not share a prefix.",
        (SIMULATION, "laws/test_laws.py::test_a_pool_too_small_for_all"),
    ),
    "L4": Law(
        "When idle, nothing of any request is left: rows, queues, pages, tasks, descriptors.",
        (SIMULATION, "server/test_leaks.py::test_nothing_grows"),
    ),
    "L5": Law(
        "Progress: with work pending, within a bounded number of iterations a token is computed or a request ends.",
        (SIMULATION,),
    ),
    "L6": Law("Bounded wait: no request is admitted past one that came earlier and waits.", (SIMULATION,)),
    "L7": Law(
        "Tokens are those of the same request alone, in any crowd, order, chunking and after any preemption.",
        (
            SIMULATION,
            "laws/test_laws.py::test_any_crowd_and_order",
            "laws/test_laws.py::test_forced_preemption",
            "laws/test_laws.py::test_asynchronous_scheduling_gives_the_same_tokens",
            "laws/test_cuda.py::test_tokens_are_those_of_the_cpu",
            "laws/test_cuda_quantized_crowds.py::test_a_crowd_changes_no_bit",
            "laws/test_parity.py::test_in_a_crowd",
        ),
    ),
    "fair shares": Law(
        "A client that comes with nothing here gets a row within a few iterations while another client has several; "
        "how much each was served is what arrivals, cancellations and plans come to.",
        (
            SIMULATION,
            "engine/test_fairness.py::test_ten_times_the_load_of_another_does_not_delay_a_light_client",
            "engine/test_fairness.py::test_a_light_client_waits_for_the_running_iteration_and_its_own",
            "engine/test_fairness.py::test_a_first_token_does_not_wait_for_a_long_prompt_of_another",
        ),
    ),
    "deadlines": Law(
        "At twice the load that the rows can serve, requests that are let in make their deadline; first come, first "
        "served, nearly none would.",
        ("server/test_deadlines_and_rates.py::test_under_twice_the_load_requests_that_are_let_in_make_their_deadline",),
    ),
    "speculation": Law(
        "Tokens and log-probabilities are the same with and without speculation, to the last bit.",
        (
            "laws/test_speculation.py::test_the_same_bits_with_and_without",
            "laws/test_constrained.py::test_with_speculation",
            "laws/test_speculation.py::test_replayed_from_a_record",
            "laws/test_speculation.py::test_a_planted_bug_is_found",
        ),
    ),
    "L8": Law(
        "Joined deltas = the whole text = the text of all tokens, cut at the first stop string.",
        (
            SIMULATION,
            "text/test_stream.py::test_pieces_add_up_to_the_text_cut_at_the_stop_string",
            "text/test_stops.py::test_pieces_give_what_the_whole_text_gives",
        ),
    ),
    "L9": Law(
        "Budgets of tokens, sequences, context and max_tokens are never exceeded; usage is exact.", (SIMULATION,)
    ),
    "L10": Law(
        "Isolation: a bad, aborted or slow request changes no byte of another's answer.",
        (
            SIMULATION,
            "server/test_large_answers.py::test_an_answer_too_long_for_a_frame_ends_its_request_and_no_other",
            "server/test_large_answers.py::test_a_request_that_cannot_be_read_is_refused_and_the_next_one_is_taken",
            "server/test_engine_process.py::test_a_failing_row_ends_with_an_error_and_the_others_go_on",
        ),
    ),
    "L11": Law(
        "Memory does not grow with the number of requests served.",
        ("server/test_leaks.py::test_nothing_grows",),
    ),
    "L12": Law(
        "All ranks carry out the same plans on the same tokens.",
        (
            "parallel/test_ranks.py::test_no_rank_ever_runs_another_plan",
            "parallel/test_ranks.py::test_a_rank_that_decides_for_itself_is_caught",
        ),
    ),
    "ranks": Law(
        "On the CPU, 1, 2, 4 and 8 ranks give the same tokens and log-probabilities, to the last bit.",
        (
            "parallel/test_tensor_parallel.py::test_two_ranks_give_what_one_gives",
            "parallel/test_tensor_parallel.py::test_a_request_gets_the_same_bits_alone_and_in_a_crowd_of_four_ranks",
            "ops/test_cpu_parts.py::test_any_number_of_ranks_gives_the_bits_of_one",
            "parallel/test_tensor_parallel.py::test_segments_that_follow_the_ranks_show",
            "selftest/test_selftest.py::test_a_sum_that_is_cut_where_ranks_are_is_found",
        ),
    ),
    "L13": Law(
        "Health truth: 503 within 2 s of a death and within the limit of a stall; never while idle, in a long "
        "iteration or with a full queue.",
        (
            "server/test_health.py::test_503_within_two_seconds_of_a_death_and_200_when_the_engine_is_there_again",
            "server/test_health.py::test_503_within_the_limit_of_a_stall_and_200_after_it",
            "server/test_health.py::test_never_503_while_idle",
            "server/test_health.py::test_never_503_in_a_long_iteration_or_with_a_full_queue",
            "server/test_health.py::test_loading_is_not_ready_and_answers",
        ),
    ),
    "L14": Law(
        "Exit truth: after any member is ended no process, port or file of ours is left, and no client saw success "
        "that was none.",
        (
            "server/test_exit_truth.py::test_nothing_is_left_and_no_answer_looks_finished",
            "server/test_chaos.py::test_a_fault_in_each_phase",
            "parallel/test_kills.py::test_requests_survive_the_death_of_a_rank_in_each_phase",
        ),
    ),
    "L15": Law(
        "Secrets: no key, prompt or output in logs, metrics and the bodies of errors.",
        (
            "server/test_secrets.py::test_no_canary_comes_out",
            "server/test_log.py::test_an_unexpected_exception_is_told_without_what_a_client_wrote",
        ),
    ),
    "event loop": Law(
        "Whatever one client sends within the limits, the event loop stays free: nobody else notices.",
        (
            "server/test_event_loop.py::test_nobody_else_notices",
            "server/test_log.py::test_a_pipe_that_nobody_reads_does_not_hold_up_the_server",
        ),
    ),
    "structured outputs": Law(
        "A constrained answer that ends by itself satisfies its constraint, and is that of the same request alone; a "
        "constraint is honoured or refused, and holds up no other request.",
        (
            "grammar/test_json_schemas.py::test_every_answer_is_valid",
            "grammar/test_json_schemas.py::test_what_is_not_supported_is_refused",
            "laws/test_constrained.py::test_in_a_crowd_with_preemption",
            "laws/test_constrained.py::test_continued_by_another_engine",
            "laws/test_constrained.py::test_replayed_from_a_record",
            "laws/test_constrained.py::test_planted_bugs_are_found",
            "parallel/test_kills.py::test_requests_survive_the_death_of_a_rank_in_each_phase",
            "server/test_structured_outputs.py::test_others_notice_nothing_of_a_hostile_constraint",
            "service/test_grammar_check.py::test_hostile_constraints_get_a_verdict_and_nobody_else_is_held_up",
        ),
    ),
    "health": Law(
        "/health is answered whatever the engine does.",
        (
            "server/test_health.py::test_never_503_in_a_long_iteration_or_with_a_full_queue",
            "server/test_health.py::test_loading_is_not_ready_and_answers",
            "server/test_event_loop.py::test_nobody_else_notices",
        ),
    ),
    "renderings": Law(
        "Rendering a chat template has a bound in time and memory, whatever template and messages.",
        ("text/test_rendering_bound.py::test_a_template_that_grows_is_refused_soon",),
    ),
    "restarts": Law(
        "An engine that dies is started again; what the machine refuses for a while ends no server.",
        (
            "server/test_descriptors.py::test_connections_that_take_all_descriptors_do_not_keep_an_engine_from_starting",
            "server/test_engine_restarts.py::test_a_machine_that_refuses_for_a_while_costs_no_restart",
            "server/test_chaos.py::test_a_fault_in_each_phase",
            "server/test_chaos.py::test_a_full_disk_ends_no_server",
        ),
    ),
    "parts": Law(
        "Reasoning, content and tool calls are the same streamed and whole, however the text is cut.",
        (
            "text/test_output_parts.py::test_parts_are_the_same_at_every_split",
            "server/test_tools.py::test_calls_reasoning_and_content",
            "server/test_anthropic.py::test_tools_and_thinking",
        ),
    ),
    "files and frames": Law(
        "Whatever bytes come as a model, a tokenizer, a template, a request or a frame are taken, or refused in words.",
        (
            "fuzz/test_fuzz_files.py::test_gguf",
            "fuzz/test_fuzz_files.py::test_safetensors",
            "fuzz/test_fuzz_files.py::test_tokenizer",
            "fuzz/test_fuzz_files.py::test_chat_template",
            "fuzz/test_fuzz_frames.py::test_frames",
            "server/test_http_fuzz.py::test_mutated_requests",
        ),
    ),
}
