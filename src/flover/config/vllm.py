"""Settings of vLLM that Flover does not have: those that are accepted without effect, and those that are refused.

One table for the keywords of `LLM` and for flags. Settings that Flover has under the same name are not in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flover.errors import ConfigError


@dataclass(frozen=True, slots=True)
class VllmSetting:
    """A setting of vLLM: `why` is shown when it is accepted or refused.

    `accepts` are the values without effect, None if all are. `switch` marks a flag without a value. `same_as` is the
    Flover field, and its value, that a switch sets.
    """

    why: str
    accepts: tuple[Any, ...] | None = ()
    switch: bool = False
    same_as: tuple[str, bool] | None = None

    def check(self, name: str, value: Any) -> None:
        """Raises `ConfigError` if `value` asks for an unsupported feature. `name` is the keyword or flag to show."""
        if self.accepts is None or any(_equal(value, one) for one in self.accepts):
            return
        others = [repr(one) for one in self.accepts if one is not None and not isinstance(one, bool)]
        raise ConfigError(f"{name}: {self.why}" + (f"; only {' or '.join(others)} is accepted" if others else ""))


def _equal(value: Any, other: Any) -> bool:
    return value is other or (isinstance(value, bool) == isinstance(other, bool) and bool(value == other))


def _changes_nothing(why: str) -> VllmSetting:
    return VllmSetting(why, accepts=None)


def _switch_without_effect(why: str) -> VllmSetting:
    return VllmSetting(why, accepts=None, switch=True)


def _no(why: str, *accepts: Any) -> VllmSetting:
    return VllmSetting(why, accepts=(None, *accepts))


def _no_switch(why: str) -> VllmSetting:
    return VllmSetting(why, accepts=(None, False), switch=True)


_NO_CLIENT_CERTIFICATES = "clients have keys, not certificates: put a reverse proxy in front"
_GUIDANCE = "structured outputs are enforced by llguidance; requests say what else they want"
_NO_GPU = "a model is in the memory of one device"
_TEXT_ONLY = "only text is supported"
_GRAPHS = "forwards of up to --max-num-seqs rows and 8192 tokens of context are captured; --enforce-eager: none"
_POOL = "--kv-cache-memory-bytes is the size of the key/value pool"

VLLM_SETTINGS: dict[str, VllmSetting] = {
    # Without effect on outputs
    "cuda_graph_sizes": _changes_nothing(_GRAPHS),
    "max_seq_len_to_capture": _changes_nothing(_GRAPHS),
    "compilation_config": _changes_nothing("there is nothing to compile"),
    "disable_custom_all_reduce": _switch_without_effect(_NO_GPU),
    "disable_cascade_attn": _switch_without_effect("there is no cascade attention"),
    "disable_frontend_multiprocessing": _switch_without_effect("engines always run in processes of their own"),
    "swap_space": _changes_nothing(f"{_NO_GPU}; {_POOL}"),
    "max_parallel_loading_workers": _changes_nothing("one process loads the weights"),
    "prefix_caching_hash_algo": _changes_nothing("it does not change outputs"),
    "disable_uvicorn_access_log": _switch_without_effect("uvicorn writes no access log"),
    "uvicorn_log_level": _changes_nothing("uvicorn writes no log; --log-level is the server's"),
    "enable_chunked_prefill": VllmSetting("prompts always join in chunks", accepts=(True, None), switch=True),
    "disable_log_stats": VllmSetting("--no-log-stats is the same", None, True, ("log_stats", False)),
    "disable_log_requests": VllmSetting("--no-log-requests is the same", None, True, ("log_requests", False)),
    "enable_log_requests": VllmSetting("--log-requests is the same", None, True, ("log_requests", True)),
    # Accepted at the values that Flover implements
    "pipeline_parallel_size": _no("a model is divided by --tensor-parallel-size alone", 1),
    "api_server_count": _no("one process answers HTTP", 1),
    "num_scheduler_steps": _no("every iteration is planned", 1),
    "tokenizer_mode": _no("there is one kind of tokenizer", "auto", "fast", "hf"),
    "cpu_offload_gb": _no(_NO_GPU, 0),
    "config_format": _no("models have a config.json of Hugging Face", "auto", "hf"),
    "generation_config": _no("the model's own is always read", "auto"),
    "model_impl": _no("there is one implementation of each model", "auto"),
    "runner": _no("only text is generated", "auto", "generate"),
    "task": _no("only text is generated", "auto", "generate"),
    "response_role": _no("responses have the role assistant", "assistant"),
    "chat_template_content_format": _no("content reaches a template as a string", "auto", "string"),
    "scheduler_delay_factor": _no("requests join as soon as there is room", 0),
    # Not supported
    "trust_remote_code": _no_switch("code from a model repository is never run"),
    "tokenizer_revision": _no("--revision is that of the tokenizer too"),
    "code_revision": _no("code from a model repository is never run"),
    "hf_overrides": _no("the model's config.json is taken as it is"),
    "override_generation_config": _no("defaults of sampling come from the model's generation_config.json"),
    "rope_scaling": _no("the model's config.json says how positions are scaled"),
    "rope_theta": _no("the model's config.json says how positions are scaled"),
    "disable_sliding_window": _no_switch("the model's config.json says how far attention reaches"),
    "num_gpu_blocks_override": _no(_POOL),
    "calculate_kv_scales": _no_switch("keys and values have a scale of their own for each token"),
    "limit_mm_per_prompt": _no(_TEXT_ONLY),
    "mm_processor_kwargs": _no(_TEXT_ONLY),
    "allowed_local_media_path": _no(_TEXT_ONLY, ""),
    "enable_auto_tool_choice": _switch_without_effect("the model may always choose a tool"),
    "tool_parser_plugin": _no("code is not loaded by name"),
    "enable_reasoning": _switch_without_effect("reasoning is always split off; --reasoning-parser none leaves it in"),
    "guided_decoding_backend": _no(_GUIDANCE, "auto", "guidance"),
    "structured_outputs_config": _no(_GUIDANCE, '{"backend": "auto"}', '{"backend": "guidance"}'),
    "logits_processors": _no("code is not loaded by name"),
    "middleware": _no("code is not loaded by name"),
    "kv_offloading_size": _no("--kv-offload-bytes is the size of the host tier"),
    "kv_offloading_backend": _no("--kv-offload-path says where the host tier is"),
    "kv_transfer_config": _no("keys and values stay in their engine"),
    "enable_expert_parallel": _no_switch("experts are shared as every weight is, by --tensor-parallel-size"),
    "enable_sleep_mode": _no_switch("a server does not give its memory back while it runs"),
    "otlp_traces_endpoint": _no("spans are those of a server's requests"),
    "ssl_ca_certs": _no(_NO_CLIENT_CERTIFICATES),
    "ssl_cert_reqs": _no(_NO_CLIENT_CERTIFICATES, 0),
    "root_path": _no("routes begin at /: let the proxy take the path away", ""),
    "allowed_origins": _no("there is no CORS: pages of other origins cannot ask this server"),
    "allowed_methods": _no("there is no CORS: pages of other origins cannot ask this server"),
    "allowed_headers": _no("there is no CORS: pages of other origins cannot ask this server"),
    "allow_credentials": _no_switch("there is no CORS: pages of other origins cannot ask this server"),
    "uds": _no("the server listens on --host and --port"),
    "headless": _no_switch("every server answers HTTP; the other nodes of a model are started with --node-rank"),
}
