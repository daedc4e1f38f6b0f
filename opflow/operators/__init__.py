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
    Zero,
    as_operator,
)
from opflow.operators.blocks import BlockDiagonal
from opflow.operators.describe import describe
from opflow.operators.evaluation import Candidate, candidates, materialise
from opflow.operators.forming import Tiled
from opflow.operators.function_gram import FunctionGram
from opflow.operators.gate_products import gate_engines, gate_options
from opflow.operators.gram import CoActivation, CrossGram, Gram, GramVelocity, WeightGram
from opflow.operators.gram_side import GramSide
from opflow.operators.khatri_rao import Hadamard, KhatriRao
from opflow.operators.lift import FeatureLift, SampleLift
from opflow.operators.masks import Mask, PackedGates
from opflow.operators.matrix import Matrix, RowMatrix, Weight
from opflow.operators.operator import Cost, Operator
from opflow.operators.profile import MachineProfile, machine_profile
from opflow.operators.pullback import pullback, pushforward
from opflow.operators.scaled_gates import ScaledGates

__all__ = [
    "Adjoint",
    "BlockDiagonal",
    "Candidate",
    "Cast",
    "CoActivation",
    "Cost",
    "CrossGram",
    "External",
    "FeatureLift",
    "FunctionGram",
    "Gram",
    "GramSide",
    "GramVelocity",
    "HStack",
    "Hadamard",
    "Identity",
    "KhatriRao",
    "MachineProfile",
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
    "Tiled",
    "Weight",
    "WeightGram",
    "Zero",
    "as_operator",
    "candidates",
    "describe",
    "gate_engines",
    "gate_options",
    "machine_profile",
    "materialise",
    "pullback",
    "pushforward",
]
