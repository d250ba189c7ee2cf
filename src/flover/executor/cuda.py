"""A GPU as a platform: what it refuses, its memory, pages there. Ranks of a model have one each.

It has not run on a GPU yet: tests run it on tensors of the CPU, with Triton's interpreter.
"""

from __future__ import annotations

from flover.config import EngineConfig
from flover.errors import ConfigError
from flover.executor.adapters import DeviceAdapters
from flover.executor.cuda_executor import CudaExecutor
from flover.executor.device import Captures
from flover.memory.kvcache import KVShape, PageCache
from flover.memory.machine import Machine, usable_cores
from flover.model.describe import Description
from flover.ops import DType, Group, Ops, Pages
from flover.ops.cuda.device import Gpu, find_gpu, new_pages
from flover.ops.cuda.launch import Compilations
from flover.ops.cuda.table import cuda_ops
from flover.ops.cuda.weight import FORMATS
from flover.request import ModelFacts

LEAST_CAPABILITY = 8, 0
"""Of GPUs since Ampere, which multiply bfloat16."""
LEAST_CAPABILITY_FOR_FP8 = 8, 9
_BATCH = ("token_ids", "positions", "slots", "query_starts", "context_lens", "page_table")


class CudaCache:
    """Keys and values of every layer in the memory of a GPU, all of it taken at start."""

    def __init__(self, shape: KVShape, num_pages: int, page_size: int, dtype: DType, gpu: Gpu, ops: Ops) -> None:
        """Raises `ConfigError` if there is no memory for them."""
        shapes = ops.page_shapes(num_pages, page_size, shape.num_kv_heads, shape.head_dim)
        try:
            self.layers: tuple[Pages, ...] = tuple(
                new_pages(*shapes, page_size, dtype, gpu.device) for _ in range(shape.num_layers)
            )
        except MemoryError as error:
            raise ConfigError(
                f"{gpu.name} has no memory for {num_pages} pages of keys and values: lower --gpu-memory-utilization or "
                "--kv-cache-memory-bytes"
            ) from error

    def trim(self, free_pages: list[int]) -> None:
        """Nothing: it is one tensor a layer, no part of which torch can give back."""

    def close(self) -> None:
        """Free the pages. Calling it twice is harmless."""
        self.layers = ()


class CudaPlatform:
    """One GPU, as `config` uses it: the one that torch finds for a rank of this node, or `gpu`."""

    device = "cuda"

    def __init__(self, config: EngineConfig, gpu: Gpu | None = None, local_rank: int = 0) -> None:
        """Raises `ConfigError` if there is no GPU, one that is too old, or fewer than ranks on this node."""
        self._config = config
        found = gpu or find_gpu(local_rank)
        if found is None:
            raise ConfigError("--device cuda: torch finds no GPU (is there one, with a driver that torch can use?)")
        if found.capability < LEAST_CAPABILITY:
            has, needed = (".".join(map(str, one)) for one in (found.capability, LEAST_CAPABILITY))
            raise ConfigError(f"--device cuda: {found.name} has compute capability {has}, at least {needed} is needed")
        if config.data_parallel_size > 1:
            raise ConfigError(
                f"--device cuda has one engine: --data-parallel-size is {config.data_parallel_size}, not 1"
            )
        if (ranks := config.local_ranks) > found.count:
            nodes = f" on each of --nnodes {config.nnodes} nodes" if config.nnodes > 1 else ""
            raise ConfigError(
                f"--device cuda: --tensor-parallel-size {config.tensor_parallel_size} needs {ranks} GPUs{nodes}, and "
                f"torch finds {found.count} here (CUDA_VISIBLE_DEVICES may hide some)"
            )
        self.gpu = found
        self.compilations = Compilations()

    @property
    def deterministic(self) -> bool:
        """With --batch-invariant: else the number of rows chooses cuBLAS's kernels, and with three ranks or more NCCL's
        order of a sum."""
        return self._config.batch_invariant

    @property
    def description(self) -> str:
        """Name, capability and memory of the GPU."""
        gpu, capability = self.gpu, ".".join(map(str, self.gpu.capability))
        memory, free = (f"{size / 2**30:.1f} GiB" for size in (gpu.total_bytes, gpu.free_bytes))
        return f"cuda: {gpu.name}, compute capability {capability}, {memory}, {free} available"

    def machine(self) -> Machine:
        """The memory that --gpu-memory-utilization leaves, of which pages may take all that weights do not, and what is
        outside of it for activations."""
        gpu, share = self.gpu, self._config.gpu_memory_utilization
        most = int(share * gpu.total_bytes)
        available, spare = max(0, most - (gpu.total_bytes - gpu.free_bytes)), gpu.total_bytes - most
        where = f"what --gpu-memory-utilization {share:g} leaves of {gpu.name}'s memory"
        return Machine(usable_cores(), available, pool_share=1.0, memory=where, own_memory=True, spare_bytes=spare)

    def check(self, described: Description) -> None:
        """Adapters."""
        if described.settings.enable_lora:
            raise ConfigError("--enable-lora needs --device cpu: adapters have no kernels for a GPU yet")

    def new_ops(self, num_threads: int, group: Group, described: Description) -> Ops:
        """Triton's kernels and torch's products; those of FP8 checkpoints in FP8 where tensor cores have it."""
        fp8 = described.fp8_activations and self.gpu.capability >= LEAST_CAPABILITY_FOR_FP8
        return cuda_ops(
            self.gpu.device,
            batch_invariant=self._config.batch_invariant,
            activations=FORMATS[described.dtype],
            fp8_activations=fp8,
            group=group,
        )

    def new_cache(self, shape: KVShape, num_pages: int, page_size: int, dtype: DType, ops: Ops) -> CudaCache:
        """Tensors of the GPU."""
        return CudaCache(shape, num_pages, page_size, dtype, self.gpu, ops)

    def new_executor(
        self, decoder: Captures, kv: PageCache, facts: ModelFacts, num_rows: int, adapters: DeviceAdapters | None
    ) -> CudaExecutor:
        """The one that samples on the GPU; `check` has refused adapters."""
        if self.gpu.device.type == "cuda":
            self.compilations.watch()
        eager = self._config.enforce_eager
        return CudaExecutor(decoder, kv, facts, num_rows, self.gpu, self.compilations, eager=eager)
