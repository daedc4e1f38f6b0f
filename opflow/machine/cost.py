"""What this machine can do: the rates that turn flops and bytes into seconds.

Measured once, on first need, in well under a second; kept in the process and in a file of the
user's cache folder.  ``OPFLOW_PROFILE`` names a JSON file to use instead, or ``default`` for
the fixed numbers of ``MachineProfile()``.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from opflow.machine import gate_tables
from opflow.operators.operator import Cost


@dataclasses.dataclass(frozen=True)
class MachineProfile:
    """Rates of a machine; the defaults are those of no machine in particular.

    Parameters
    ----------
    float32, float64 : float
        Flops a second of a large matrix product.
    bandwidth : float
        Bytes a second that a matrix-vector product reads.
    sparse : float
        Flops a second of a sparse matrix times a block of vectors.
    gates : float
        How much faster than a matrix product of the same flops a product of gates through tables
        is (see :func:`gate_engines`).
    fresh : float
        Bytes a second of memory that is written to for the first time, as a matrix is that is
        formed to be kept: the system hands it out page by page.

    Examples
    --------
    >>> import opflow as of
    >>> profile = of.MachineProfile(float64=1e9, bandwidth=1e9)
    >>> profile.seconds(of.Cost(flops=2e9, bytes=1e9), "float64")
    3.0

    Notes
    -----
    Times of computing and moving are added: a matrix product hides what it moves, but that is
    little beside its flops, and what moves much (entry-wise passes, dense matrices times few
    vectors) hides nothing.
    """

    float32: float = 100e9
    float64: float = 50e9
    bandwidth: float = 20e9
    sparse: float = 1e9
    gates: float = 2.3
    fresh: float = 4e9

    def __post_init__(self) -> None:
        for name, rate in dataclasses.asdict(self).items():
            number = isinstance(rate, int | float) and not isinstance(rate, bool)
            if not (number and math.isfinite(rate) and rate > 0):
                raise ValueError(f"{name} must be a positive number, not {rate!r}")

    def seconds(self, cost: Cost, dtype: Any) -> float:
        """Time that `cost` takes in `dtype`."""
        rate = self.float32 if np.dtype(dtype).itemsize == 4 else self.float64
        multiplied = cost.flops - cost.sparse - cost.gates + cost.gates / self.gates
        computing = multiplied / rate + cost.sparse / self.sparse
        return computing + cost.bytes / self.bandwidth


_RATES = [field.name for field in dataclasses.fields(MachineProfile)]


def machine_profile() -> MachineProfile:
    """The profile of this machine, measured on the first call.

    Returns
    -------
    MachineProfile

    Raises
    ------
    ValueError
        If ``OPFLOW_PROFILE`` names a file that holds no profile.

    Notes
    -----
    Kept in ``$XDG_CACHE_HOME/opflow/profile.json`` (``~/.cache`` by default), one entry for each
    processor model, number of threads and version of NumPy; a file that cannot be read or
    written is passed over.  The rates are those of the host: give ``profile=`` to
    :func:`materialise` for a device.

    Examples
    --------
    >>> import opflow as of
    >>> of.machine_profile().bandwidth > 0
    True
    """
    return _profile(os.environ.get("OPFLOW_PROFILE", ""))


@functools.cache
def _profile(wanted: str) -> MachineProfile:
    if wanted == "default":
        return MachineProfile()
    if wanted:
        try:
            return MachineProfile(**json.loads(Path(wanted).read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"OPFLOW_PROFILE={wanted} holds no profile: {error}") from None
    kept = _read(path := cache_file())
    key = _key()
    try:
        return MachineProfile(**{name: kept[key][name] for name in _RATES})
    except (KeyError, TypeError, ValueError):
        profile = measure()
    _write(path, kept | {key: dataclasses.asdict(profile)})
    return profile


def cache_file() -> Path:
    """Where measured profiles are kept."""
    folder = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(folder)) / "opflow" / "profile.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        kept = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _write(path: Path, profiles: dict[str, Any]) -> None:
    """Atomically, so that no process reads half a file; a profile not kept is measured again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        try:
            with open(handle, "w") as file:
                json.dump(profiles, file, indent=1)
            os.replace(name, path)
        except OSError:
            os.unlink(name)
    except OSError:
        pass


def _key() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            model = next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    names = ("OPFLOW_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    limits = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    engine = f"gates {gate_tables.gate_engine()}"
    return ", ".join([model, f"{cores} cores", *limits, f"numpy {np.__version__}", engine])


def measure() -> MachineProfile:
    """Time the six primitives that products are made of; half a second in all."""
    rng = np.random.default_rng(0)
    rates = {}
    n = 640
    for dtype in (np.float32, np.float64):
        A, B = rng.random((2, n, n)).astype(dtype)
        out = np.empty_like(A)
        rates[np.dtype(dtype).name] = 2.0 * n**3 / _best(functools.partial(np.matmul, A, B, out))
    long = np.ones((4096, 4096), dtype=np.float32)  # 64 MB: beyond most caches
    x = np.ones(4096, dtype=np.float32)
    rates["bandwidth"] = long.nbytes / _best(lambda: long @ x)
    m, width, each, columns = 5_000, 200_000, 20, 32  # V, too, is larger than most caches
    index = rng.integers(0, width, m * each, dtype=np.int32)
    S = sp.csr_matrix(
        (np.ones(m * each, dtype=np.float32), index, np.arange(m + 1) * each), shape=(m, width)
    )
    V = np.ones((width, columns), dtype=np.float32)
    rates["sparse"] = 2.0 * S.nnz * columns / _best(lambda: S @ V)
    rates["gates"] = _gates_over_gemm(rng) or MachineProfile.gates
    new = 48 << 20  # more than an allocator keeps for reuse
    rates["fresh"] = new / _best(lambda: np.empty(new, dtype=np.uint8).fill(1))
    return MachineProfile(**rates)


def _gates_over_gemm(rng: np.random.Generator) -> float | None:
    """How much faster tables are than BLAS on one product of gates; None without an engine."""
    N, n, c = 1024, 512, 512
    bits = rng.integers(0, 256, (N, n // 8), dtype=np.uint8)
    M = rng.random((n, c), dtype=np.float32)
    if not gate_tables.tabulated(M.dtype, bits, M):
        return None
    dense, out = np.unpackbits(bits, axis=1).astype(np.float32), np.empty((N, c), np.float32)
    tables = _best(lambda: gate_tables.times(bits, n, M))
    return _best(lambda: np.matmul(dense, M, out=out)) / tables


def _best(work: Callable[[], Any], budget: float = 0.08) -> float:
    """The shortest of the times that fit the budget: what disturbs a timing only adds to it."""
    work()
    times: list[float] = []
    end = time.perf_counter() + budget
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
