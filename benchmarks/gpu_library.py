"""What :mod:`benchmarks.gpu` asks of a library: seconds, memory, its device.

Times are between CUDA events in the stream that computes.  JAX has streams of its own: its times
are the host's, until the result is there.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Work = Callable[[], Any]


class Library:
    """The process of a library on the CPU, and what others have in common with it."""

    module: Any = None

    def __init__(self, rehearse: bool) -> None:
        self.rehearse = rehearse

    def put(self, array: Any) -> Any:
        return array

    def host(self, array: Any) -> Any:
        return np.asarray(array)

    def seconds(self, work: Work) -> tuple[float, Any]:
        start = time.perf_counter()
        result = self.wait(work())
        return time.perf_counter() - start, result

    def wait(self, result: Any) -> Any:
        return result

    def free(self) -> float:
        """Bytes of memory."""
        return float("inf")

    def forget_peak(self) -> int:
        """Count the peak from here; the bytes that are held."""
        return 0

    def peak(self) -> int | None:
        """The most bytes that were held; None if that is not known."""
        return None

    def clear(self) -> None:
        gc.collect()

    def about(self) -> dict[str, Any]:
        return {"version": self.module.__version__}


class CuPy(Library):
    """opflow's process."""

    def __init__(self, rehearse: bool) -> None:
        super().__init__(rehearse)
        os.environ.pop("CUPY_PYLOPS", None)
        if rehearse:
            from tests.device import standin

            standin.install()
        import cupy

        self.module, self.pool = cupy, cupy.get_default_memory_pool()

    def put(self, array: Any) -> Any:
        return self.module.asarray(array)

    def host(self, array: Any) -> Any:
        return self.module.asnumpy(array)

    def seconds(self, work: Work) -> tuple[float, Any]:
        cuda = self.module.cuda
        start, end = cuda.Event(), cuda.Event()
        start.record()
        result = work()
        end.record()
        end.synchronize()
        return cuda.get_elapsed_time(start, end) / 1e3, result

    def forget_peak(self) -> int:
        self.clear()
        return self.pool.used_bytes()

    def peak(self) -> int:
        return self.pool.total_bytes()

    def clear(self) -> None:
        gc.collect()
        self.pool.free_all_blocks()

    def about(self) -> dict[str, Any]:
        cuda = self.module.cuda
        device = cuda.runtime.getDeviceProperties(0)
        name = {"name": device["name"].decode(), "memory": cuda.Device().mem_info[1]}
        versions = {"driver": cuda.runtime.driverGetVersion()}
        return super().about() | name | versions | {"runtime": cuda.runtime.runtimeGetVersion()}


class Torch(Library):
    def __init__(self, rehearse: bool) -> None:
        super().__init__(rehearse)
        import torch

        torch.set_float32_matmul_precision("highest")  # no TF32
        self.module = torch

    def host(self, array: Any) -> Any:
        if isinstance(array, self.module.Tensor):
            return array.detach().cpu().numpy()
        return array.get() if hasattr(array, "get") else array

    def seconds(self, work: Work) -> tuple[float, Any]:
        if self.rehearse:
            return super().seconds(work)
        cuda = self.module.cuda
        start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        start.record()
        result = work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3, result

    def free(self) -> float:
        return super().free() if self.rehearse else float(self.module.cuda.mem_get_info()[0])

    def forget_peak(self) -> int:
        self.clear()
        if self.rehearse:
            return 0
        self.module.cuda.reset_peak_memory_stats()
        return self.module.cuda.memory_allocated()

    def peak(self) -> int | None:
        return None if self.rehearse else self.module.cuda.max_memory_reserved()

    def clear(self) -> None:
        gc.collect()
        if not self.rehearse:
            self.module.cuda.empty_cache()


class JAX(Library):
    def __init__(self, rehearse: bool) -> None:
        super().__init__(rehearse)
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = "0.4"  # others need memory too
        if rehearse:
            os.environ["JAX_PLATFORMS"] = "cpu"
        import jax

        if not rehearse and jax.default_backend() != "gpu":
            raise RuntimeError("JAX finds no GPU")
        jax.config.update("jax_default_matmul_precision", "highest")  # no TF32
        self.module, self._known = jax, 0

    def wait(self, result: Any) -> Any:
        return self.module.block_until_ready(result)

    def _memory(self) -> dict[str, int]:
        return self.module.local_devices()[0].memory_stats() or {}

    def forget_peak(self) -> int:
        self.clear()
        memory = self._memory()
        self._known = memory.get("peak_bytes_in_use", 0)
        return memory.get("bytes_in_use", 0)

    def peak(self) -> int | None:
        """Known if it is higher than ever before: JAX cannot forget one."""
        peak = self._memory().get("peak_bytes_in_use", 0)
        return peak if peak > self._known else None

    def clear(self) -> None:
        self.module.clear_caches()
        gc.collect()


LIBRARIES = {"opflow": CuPy, "torch": Torch, "JAX": JAX}
