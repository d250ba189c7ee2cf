"""The settings of an engine: model, scheduler, cache and parallelism."""

from __future__ import annotations

from dataclasses import dataclass

from flover.config.offload import check_offload
from flover.config.setting import at_least, at_most, check_choices, check_types, setting
from flover.config.speculative import read_speculation
from flover.errors import ConfigError

BUNDLED_MODEL = "flover-tiny"
"""The model inside the package, used when no model is named."""

_THREADS = "threads beyond the number of cores only slow each other down"
_ROWS = "memory for the columns of every row is allocated at start"
_PROCESSES = "each is a separate process"
_MOST: dict[str, tuple[int, str]] = {
    "num_threads": (1024, _THREADS),
    "max_num_seqs": (2**16, _ROWS),
    "max_num_batched_tokens": (2**24, "an iteration keeps the activations of all its tokens"),
    "max_model_len": (2**24, "each row has a page table for the longest context"),
    "block_size": (2**16, "a sequence owns whole pages"),
    "tensor_parallel_size": (1024, _PROCESSES),
    "data_parallel_size": (1024, _PROCESSES),
    "nnodes": (1024, _PROCESSES),
    "master_port": (65535, "it is a port"),
    "max_loras": (1024, "each is in memory"),
    "max_lora_rank": (4096, "adapters are small beside the matrices that they change"),
}
"""Upper limits and their reasons; larger values would fail later, with a less clear error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Settings of one engine. Flag names are vLLM's where vLLM has the flag."""

    model: str = setting(
        BUNDLED_MODEL, "Hugging Face directory, GGUF file or hub name; the bundled model by default", group="model"
    )
    tokenizer: str | None = setting(
        None, "tokenizer directory, GGUF file or hub name; the model's by default", group="model"
    )
    skip_tokenizer_init: bool = setting(
        False, "load no tokenizer: prompts are token ids and no text is made", group="model"
    )
    revision: str | None = setting(None, "branch, tag or commit of a hub model", group="model")
    download_dir: str | None = setting(None, "where hub models are kept; the hub's cache by default", group="model")
    load_format: str = setting(
        "auto",
        "'dummy' makes random weights from config.json alone",
        group="model",
        choices=("auto", "dummy"),
    )
    dtype: str = setting(
        "auto",
        "type of the weights; auto is the checkpoint's own, bfloat16, float16 or float32. On a CPU sums and "
        "activations are float32; the latter are rounded to bfloat16 where they are multiplied with it",
        group="model",
        choices=("auto", "float32", "float", "bfloat16", "float16", "half"),
    )
    quantization: str | None = setting(
        None,
        "keep the weights of linears in int8 (a scale per output) or int4 (a scale and an offset per 32 inputs), "
        "quantized while loading",
        group="model",
        choices=(None, "int8", "int4"),
    )
    max_model_len: int | None = setting(
        None, "tokens of prompt and output together; the model's own limit by default", group="model"
    )
    seed: int | None = setting(
        None, "seed from which requests without one get theirs, in order of arrival; random by default", group="model"
    )
    max_num_seqs: int = setting(64, "most sequences that run at once", group="scheduler")
    max_num_batched_tokens: int = setting(2048, "hard cap on the tokens of one iteration", group="scheduler")
    target_itl_ms: float = setting(
        200.0,
        "inter-token latency to keep while prompts are computed, in milliseconds; 0 switches the time budget off",
        group="scheduler",
    )
    scheduling_policy: str = setting(
        "fcfs",
        "order of the queue: arrival, or priority then arrival",
        group="scheduler",
        choices=("fcfs", "priority"),
    )
    strategy: str = setting(
        "fusion",
        "batching of requests; all but fusion are baselines of the Flover paper: one request at a time, static "
        "batches, static batches that wait for more requests",
        group="scheduler",
        choices=("fusion", "serial", "static", "dynamic-batching"),
    )
    batch_window_ms: float = setting(
        100.0, "milliseconds that a batch waits for more requests; dynamic-batching only", group="scheduler"
    )
    reorder: bool = setting(
        True,
        "buffer reordering: keep running rows dense (off is the baseline of the Flover paper)",
        group="scheduler",
    )
    async_scheduling: bool | None = setting(
        None,
        "plan and start the next iteration while this one runs; a sequence that ends is then computed once too often, "
        "unless it ends by its max_tokens; by default on a GPU",
        group="scheduler",
    )
    speculative_config: str | None = setting(
        None,
        "tokens proposed for each row and verified in one iteration, as JSON with vLLM's keys: "
        '{"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_min": 2, "prompt_lookup_max": 5} proposes '
        "what came after the same 2 to 5 tokens before, in prompt or output; "
        '{"model": "ORG/SMALL", "num_speculative_tokens": 4, "quantization": "int8"} takes a smaller model of the same '
        "tokens; answers keep their bits, and rows for which it would cost time are left out",
        group="scheduler",
    )
    enable_lora: bool = setting(
        False, "compute LoRA adapters that requests name (CPU, one rank; see docs/lora.md)", group="lora"
    )
    max_loras: int = setting(8, "most adapters that are served, and kept in memory", group="lora")
    max_lora_rank: int = setting(16, "largest rank of an adapter", group="lora")
    block_size: int = setting(16, "tokens per page of keys and values", group="cache")
    kv_cache_memory_bytes: int | None = setting(
        None,
        "size of the key/value pool in bytes (accepts 512MiB, 2GiB); by default what max_num_seqs can use, "
        "at most half of the free memory, on a GPU all of --gpu-memory-utilization",
        group="cache",
    )
    kv_cache_dtype: str = setting(
        "auto",
        "type of keys and values; auto is bfloat16 if --dtype or --quantization asks for weights of 16 bits or less, "
        "else float32",
        group="cache",
        choices=("auto", "float32", "bfloat16", "int8"),
    )
    enable_prefix_caching: bool = setting(True, "reuse the pages of equal prompt prefixes", group="cache")
    kv_offload_bytes: int | None = setting(
        None,
        "size of a host tier behind the key/value pool in bytes (accepts 20GiB): cached pages that the pool has no "
        "room for are stored there and loaded when a prompt begins with them (CPU; see docs/kv-offload.md)",
        group="cache",
    )
    kv_offload_path: str | None = setting(
        None, "directory of the host tier's files; by default it is in memory", group="cache"
    )
    kv_offload_persistent: bool = setting(
        False, "keep the host tier when the server stops, and find it again at the next start", group="cache"
    )
    device: str = setting(
        "auto",
        "where the model is computed; auto is a GPU if there is one that torch can use (no GPU has been at hand to try "
        "it on: see docs/cuda.md)",
        group="device",
        choices=("auto", "cpu", "cuda"),
    )
    gpu_memory_utilization: float = setting(
        0.9,
        "part of a GPU's memory for weights, keys and values; activations need the rest",
        group="device",
    )
    enforce_eager: bool = setting(
        False,
        "launch every kernel by itself: no forward is captured as a CUDA graph at start",
        group="device",
    )
    batch_invariant: bool = setting(
        False,
        "on a GPU: multiply in one order whatever the number of rows, so that a request gets the same tokens alone and "
        "in any batch (slower); a CPU always does",
        group="device",
    )
    cpu_isa: str = setting(
        "auto",
        "instruction set of the kernels; auto is the fastest this machine has, the results are the same",
        group="cpu",
        choices=("auto", "avx512_bf16", "avx512", "avx2", "neon_dotprod", "neon", "portable"),
    )
    num_threads: int | None = setting(None, "compute threads; the cores this process may use by default", group="cpu")
    tensor_parallel_size: int = setting(
        1, "ranks that share the model, each with a shard of every weight", group="parallel", short="-tp"
    )
    data_parallel_size: int = setting(
        1,
        "engines behind one server, each with the whole model; a request goes to one of them",
        group="parallel",
        short="-dp",
    )
    distributed_executor_backend: str = setting(
        "mp",
        "how ranks are started: mp, as processes on this node and those of --nnodes; ray, in a Ray cluster (the one at "
        "RAY_ADDRESS, else the one this machine is in, else a new local one), each with --num-threads (else 1) CPUs; "
        "paths must then exist on every node",
        group="parallel",
        choices=("mp", "ray"),
    )
    nnodes: int = setting(1, "nodes that share the model, with equally many ranks on each", group="parallel")
    node_rank: int = setting(0, "number of this node; only node 0 answers HTTP", group="parallel")
    master_addr: str = setting(
        "127.0.0.1",
        "address of node 0 for the other nodes; the network must be private: connections are not authenticated and "
        "prompts not encrypted",
        group="parallel",
    )
    master_port: int = setting(29501, "rendezvous port on node 0", group="parallel")
    distributed_timeout_seconds: float = setting(
        60.0, "time after which a rank that does not answer is treated as failed", group="parallel"
    )
    trace: str | None = setting(
        None,
        "write the schedule to this file, for ui.perfetto.dev, and the input of flover replay, with the prompts and "
        "tokens of all requests, to a second one with the ending .replay",
        group="trace",
    )

    def __post_init__(self) -> None:
        check_types(self)
        check_choices(self)
        for name, (most, why) in _MOST.items():
            at_most(self, name, most, why)
        for name in ("max_num_seqs", "max_num_batched_tokens", "block_size", "max_loras", "max_lora_rank"):
            at_least(self, name, 1)
        for name in ("tensor_parallel_size", "data_parallel_size", "nnodes"):
            at_least(self, name, 1)
        for name in ("max_model_len", "kv_cache_memory_bytes", "kv_offload_bytes", "num_threads"):
            if getattr(self, name) is not None:
                at_least(self, name, 1)
        for name in ("target_itl_ms", "batch_window_ms", "distributed_timeout_seconds"):
            at_least(self, name, 0)
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ConfigError(
                f"--gpu-memory-utilization must be above 0 and at most 1, got {self.gpu_memory_utilization}"
            )
        if self.tensor_parallel_size % self.nnodes:
            raise ConfigError(
                f"--tensor-parallel-size ({self.tensor_parallel_size}) must be a multiple of --nnodes ({self.nnodes})"
            )
        if self.speculative_config is not None:
            read_speculation(self.speculative_config)
            if self.async_scheduling:
                raise ConfigError(
                    "--speculative-config excludes --async-scheduling: proposals follow the newest token, which is not "
                    "known while its iteration runs"
                )
        if self.enable_lora and self.tensor_parallel_size > 1:
            raise ConfigError(
                f"--enable-lora excludes --tensor-parallel-size {self.tensor_parallel_size}: adapters are not cut into "
                "shards"
            )
        if self.data_parallel_size > 1:
            _only_one(self)
        check_offload(self)
        if self.distributed_executor_backend == "ray" and self.nnodes > 1:
            raise ConfigError(
                f"--distributed-executor-backend ray chooses the nodes itself: leave --nnodes ({self.nnodes}) out"
            )
        if self.distributed_executor_backend == "ray" and self.device == "cuda":
            raise ConfigError(
                "--distributed-executor-backend ray gives ranks CPUs and no GPU: use mp for --device cuda"
            )
        if not 0 <= self.node_rank < self.nnodes:
            raise ConfigError(f"--node-rank must be from 0 to {self.nnodes - 1} (--nnodes), got {self.node_rank}")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ConfigError(
                f"--max-num-batched-tokens ({self.max_num_batched_tokens}) must be at least "
                f"--max-num-seqs ({self.max_num_seqs}): every row advances in every iteration"
            )

    @property
    def local_ranks(self) -> int:
        """Ranks on each node."""
        return self.tensor_parallel_size // self.nnodes

    def local_rank(self, rank: int) -> int:
        """The number of a rank among those of its node."""
        return rank % self.local_ranks


def one_engine(config: EngineConfig) -> None:
    """Check that `config` asks for one engine, as commands without a server need. Raises `ConfigError`."""
    if config.data_parallel_size > 1:
        raise ConfigError(f"--data-parallel-size {config.data_parallel_size}: several engines need a server in front")


def _only_one(config: EngineConfig) -> None:
    size = f"--data-parallel-size {config.data_parallel_size}"
    if config.trace is not None:
        raise ConfigError(f"--trace records one engine, and {size} asks for several")
    if config.nnodes > 1:
        raise ConfigError(f"{size} runs its engines on one machine, and --nnodes is {config.nnodes}")
