"""What a GPU has and a CPU has not, for engines on tensors of the CPU: captured graphs, and kernels that are compiled.

A graph is the list of its launches, Triton's and torch's, with the tensors that they had; it runs them again on the
same tensors. All other memory of graphs is overwritten before. So an argument that lies elsewhere in the next iteration
is noticed, and so is a result that is read too late. A kernel counts as compiled when it is launched with arguments for
which Triton would compile it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.runtime.interpreter import InterpretedFunction

import support.triton_interpreter  # noqa: F401  # before any kernel runs
from flover.ops.cuda.launch import Compilations

_ONE_AT_A_TIME = threading.Lock()
"""The interpreter has its state in globals."""
_HOST = ("_local_scalar_dense", "lift_fresh", "nonzero")
"""Operations of torch that wait for the device, or copy from memory that is gone when a graph runs."""


class Launches:
    """Sees every launch of a kernel, in the place of `InterpretedFunction.run`."""

    def __init__(self, compilations: Compilations) -> None:
        self._compilations = compilations
        self._compiled: set[Any] = set()
        self.late: list[str] = []
        """Kernels that were compiled since this was emptied."""
        self._threads = threading.local()  # ranks may be threads
        self._run = InterpretedFunction.run

    @property
    def recorder(self) -> Recorder | None:
        """That of the graph that this thread captures."""
        return getattr(self._threads, "recorder", None)

    @recorder.setter
    def recorder(self, recorder: Recorder | None) -> None:
        self._threads.recorder = recorder

    def launch(self, step: Callable[[], Any]) -> Any:
        """Do this now, and again whenever the graph runs that is captured meanwhile."""
        if self.recorder is None:
            return step()
        self.recorder.steps.append(step)
        with self.recorder.paused():
            return step()

    def run(self, function: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        if (key := _specialization(function, args, options)) not in self._compiled:
            self._compiled.add(key)
            self._compilations.count += 1
            self.late.append(f"{function.fn.__name__}{key[1:]}")
            if self.recorder is not None:
                raise AssertionError(f"{function.fn.__name__} is compiled while a graph is captured")

        def interpret() -> Any:
            with _ONE_AT_A_TIME:
                return self._run(function, *args, grid=grid, warmup=warmup, **options)

        return self.launch(interpret)


def _specialization(function: Any, args: Sequence[Any], options: dict[str, Any]) -> tuple[Any, ...]:
    """What tells one compiled kernel from another (triton/runtime/jit.py)."""
    plain = set(function.kwargs.get("do_not_specialize") or ())
    given = dict(zip(function.arg_names, args, strict=False)) | options
    constants = {name for name, kind in function.fn.__annotations__.items() if "constexpr" in str(kind)}
    found: list[Any] = [function.fn]
    for name, value in sorted(given.items()):
        if isinstance(value, Tensor):
            found.append((name, value.dtype, value.data_ptr() % 16 == 0))
        elif name in constants or name not in function.arg_names or value is None:
            found.append((name, value))
        elif isinstance(value, int):
            wide = -(2**31) <= value < 2**31
            found.append((name, wide, None if name in plain else value == 1 or (value % 16 == 0 and "aligned")))
        else:
            found.append((name, type(value)))
    return tuple(found)


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Everything that is launched meanwhile, and the memory that is taken for it."""

    def __init__(self, launches: Launches) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._launches = launches
        self.steps: list[Callable[[], Any]] = []
        self.memory: list[Tensor] = []

    def __enter__(self) -> Recorder:
        self._launches.recorder = self
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._launches.recorder = None

    def paused(self) -> Any:
        return torch.utils._python_dispatch._disable_current_modes()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name in _HOST:
            raise AssertionError(f"{name} while a graph is captured")
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        known = {tensor.untyped_storage().data_ptr() for tensor in tree_leaves((args, kwargs)) if _is_tensor(tensor)}
        new = [one for one in tree_leaves(result) if _is_tensor(one) and one.untyped_storage().data_ptr() not in known]
        self.memory += new
        if function._schema.is_mutable:
            self.steps.append(lambda: function(*args, **kwargs))
        elif new and not name.startswith("empty"):

            def again() -> None:
                for old, one in zip(tree_leaves(result), tree_leaves(function(*args, **kwargs)), strict=True):
                    old.copy_(one)

            self.steps.append(again)
        return result


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _no_number(dtype: torch.dtype) -> float:
    """What no computation gives: not a number, or far out of the way."""
    if dtype.is_floating_point:
        return math.nan
    return True if dtype == torch.bool else min(2**30, torch.iinfo(dtype).max)


class FakeGraphs:
    """The slot `capture`."""

    def __init__(self, launches: Launches) -> None:
        self._launches = launches
        self._memory: list[Tensor] = []
        self.runs: list[int] = []
        """The rows of every run."""

    def __call__(self, compute: Callable[[], Tensor], example: Any, constants: Any) -> Callable[[Any], Tensor]:
        with Recorder(self._launches) as recorder:
            result = compute()
        self._memory += recorder.memory

        def run(batch: Any) -> Tensor:
            assert batch.num_rows == example.num_rows
            for tensor in self._memory:
                tensor.fill_(_no_number(tensor.dtype))
            for step in recorder.steps:
                step()
            self.runs.append(example.num_rows)
            return result

        return run
