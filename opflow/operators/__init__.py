"""Lazy linear algebra; knows nothing of networks.

Arguments of a wrong kind, dtype or shape raise a ``TypeError`` or ``ValueError`` that names them.
"""

import traceback as _traceback

try:
    import pylops as _pylops  # noqa: F401
except Exception as error:
    # PyLops takes a CuPy that can be imported for one that works, and goes on to parts of it that
    # cannot be without CUDA.
    _frames = _traceback.walk_tb(error.__traceback__)
    if not any(f.f_globals.get("__name__", "").startswith("cupy") for f, _ in _frames):
        raise
    raise ImportError(
        f"PyLops found CuPy, but CuPy does not work on this machine: {error}\n"
        "To work on the CPU, set the environment variable CUPY_PYLOPS=0 (or uninstall CuPy); to "
        "work on a GPU, install the CUDA libraries: pip install 'cupy-cuda12x[ctk]'"
    ) from error

from opflow.machine.cost import Cost
from opflow.operators import algebra_entries as _algebra_entries  # noqa: F401
from opflow.operators import simplify as _simplify  # noqa: F401
from opflow.operators.algebra import Product, Sum
from opflow.operators.coactivation import CoActivation
from opflow.operators.composite import Adjoint, Cast, Scaled
from opflow.operators.convert import External
from opflow.operators.describe import describe
from opflow.operators.diagonal import Identity, Zero
from opflow.operators.gates import PackedGates, ScaledGates
from opflow.operators.gram import CrossGram, Gram, GramVelocity
from opflow.operators.hadamard import Hadamard, TiledHadamard
from opflow.operators.kfac import kfac
from opflow.operators.khatri_rao import KhatriRao
from opflow.operators.kronecker import FeatureLift, Kronecker, SampleLift
from opflow.operators.mask import Mask
from opflow.operators.matrix import Matrix, RowMatrix, Weight
from opflow.operators.operator import Operator
from opflow.operators.pullback import pullback, pushforward
from opflow.operators.rules import as_operator
from opflow.operators.stack import BlockDiagonal, HStack, VStack
from opflow.operators.weight_gram import WeightGram

__all__ = [
    "Adjoint",
    "BlockDiagonal",
    "Cast",
    "CoActivation",
    "Cost",
    "CrossGram",
    "External",
    "FeatureLift",
    "Gram",
    "GramVelocity",
    "HStack",
    "Hadamard",
    "Identity",
    "KhatriRao",
    "Kronecker",
    "Mask",
    "Matrix",
    "Operator",
    "PackedGates",
    "Product",
    "RowMatrix",
    "SampleLift",
    "Scaled",
    "ScaledGates",
    "Sum",
    "TiledHadamard",
    "VStack",
    "Weight",
    "WeightGram",
    "Zero",
    "as_operator",
    "describe",
    "kfac",
    "pullback",
    "pushforward",
]
