"""Lazy linear algebra; knows nothing of networks."""

from opflow.operators.algebra import (
    Adjoint,
    Cast,
    External,
    HStack,
    Identity,
    Product,
    Scaled,
    Sum,
    as_operator,
)
from opflow.operators.describe import describe
from opflow.operators.evaluation import Tiled, materialise
from opflow.operators.gram import CoActivation, Gram, WeightGram
from opflow.operators.khatri_rao import Hadamard, KhatriRao
from opflow.operators.lift import FeatureLift, SampleLift
from opflow.operators.masks import Mask, PackedGates
from opflow.operators.matrix import Matrix, Weight
from opflow.operators.operator import Cost, Operator
from opflow.operators.pullback import pullback, pushforward

__all__ = [
    "Adjoint",
    "Cast",
    "CoActivation",
    "Cost",
    "External",
    "FeatureLift",
    "Gram",
    "HStack",
    "Hadamard",
    "Identity",
    "KhatriRao",
    "Mask",
    "Matrix",
    "Operator",
    "PackedGates",
    "Product",
    "SampleLift",
    "Scaled",
    "Sum",
    "Tiled",
    "Weight",
    "WeightGram",
    "as_operator",
    "describe",
    "materialise",
    "pullback",
    "pushforward",
]
