"""``Cost``, in flops and bytes that add up, and rates of a machine that turn them into seconds.

The rates are nominal, those of ``MachineProfile()``, unless ``profile=`` or a JSON file named by
``OPFLOW_PROFILE`` gives others: choices between forms of an operator need ratios of rates, which
differ little between machines.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import operator
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike


class Cost(NamedTuple):
    """The cost of one product: floating-point operations, and bytes read and written.

    Parameters
    ----------
    flops, bytes : float
    sparse : float, default 0
        Flops on sparse data, which is far slower than a matrix product.
    gates : float, default 0
        Flops that go through the tables of gate products, which is faster.

    See Also
    --------
    opflow.Operator.cost : The cost of a product with an operator.
    opflow.MachineProfile : Turns costs into seconds.
    opflow.describe : Costs of all parts of an operator.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.Gram(np.ones((4, 3))).cost(columns=2)
    Cost(flops=96.0, bytes=416.0, sparse=0.0, gates=0.0)
    """

    flops: float
    bytes: float
    sparse: float = 0.0
    gates: float = 0.0

    def __add__(self, other: tuple[Any, ...]) -> Cost:
        return Cost(*map(operator.add, self, Cost(*other)))

    def times(self, count: float) -> Cost:
        """The cost of `count` such products."""
        return Cost(*(count * number for number in self))


@dataclasses.dataclass(frozen=True)
class MachineProfile:
    """The rates of a machine; the defaults are near those of two cores with AVX2.

    Parameters
    ----------
    float32, float64 : float
        Flops per second of a large matrix product.
    bandwidth : float
        Bytes per second that a matrix-vector product reads.
    sparse : float
        Flops per second of a sparse matrix times a block of vectors.
    gates : float
        Speed of a product of gates through tables (see :func:`gate_engines`) over that of a
        matrix product of the same flops.
    fresh : float
        Bytes per second written to memory that is new, as that of a dense matrix is: the system
        hands it out page by page.

    See Also
    --------
    opflow.machine_profile : The profile in force.
    opflow.candidates : Times that follow from it.
    opflow.Cost : The numbers it is applied to.

    Notes
    -----
    Times of computing and moving are added.  A matrix product hides the time of moving, which is
    short beside that of its flops; element-wise passes and products of a dense matrix with few
    vectors hide nothing.

    Examples
    --------
    >>> import opflow as of
    >>> profile = of.MachineProfile(float64=1e9, bandwidth=1e9)
    >>> profile.seconds(of.Cost(flops=2e9, bytes=1e9), "float64")
    3.0
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

    def seconds(self, cost: Cost, dtype: DTypeLike) -> float:
        """Predicted time of `cost` in `dtype`."""
        rate = self.float32 if np.dtype(dtype).itemsize == 4 else self.float64
        multiplied = cost.flops - cost.sparse - cost.gates + cost.gates / self.gates
        computing = multiplied / rate + cost.sparse / self.sparse
        return computing + cost.bytes / self.bandwidth


#: the rates where no other are given
NOMINAL = MachineProfile()


def machine_profile() -> MachineProfile:
    """Return the rates that choices are made by: those of ``OPFLOW_PROFILE``, or the nominal ones.

    Returns
    -------
    MachineProfile
        Frozen.

    Raises
    ------
    ValueError
        If ``OPFLOW_PROFILE`` names a file that holds no profile.

    See Also
    --------
    opflow.MachineProfile : The rates, one by one.
    opflow.materialise : Chooses by them.
    opflow.show_config : Versions and threads in use.

    Notes
    -----
    ``OPFLOW_PROFILE`` names a JSON file of rates by name, as ``{"float32": 2e11}``; those that it
    leaves out are nominal, and ``default`` stands for a file without any.  Give ``profile=`` to
    :func:`materialise` for a device.

    Examples
    --------
    >>> import opflow as of
    >>> of.machine_profile().bandwidth > 0
    True
    """
    return _profile(os.environ.get("OPFLOW_PROFILE", ""))


@functools.cache
def _profile(file: str) -> MachineProfile:
    if file in ("", "default"):
        return NOMINAL
    try:
        return MachineProfile(**json.loads(Path(file).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"OPFLOW_PROFILE={file} holds no profile: {error}") from None
