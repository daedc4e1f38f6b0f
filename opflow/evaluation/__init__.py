"""Which form of an operator is cheapest: factored, tiled, dense, packed, or with one Gram dense."""

from opflow.evaluation.dense import Tiled
from opflow.evaluation.function_gram import FunctionGram
from opflow.evaluation.gram_side import GramSide
from opflow.evaluation.materialise import Candidate, candidates, materialise
from opflow.evaluation.packed import PackedSymmetric

__all__ = [
    "Candidate",
    "FunctionGram",
    "GramSide",
    "PackedSymmetric",
    "Tiled",
    "candidates",
    "materialise",
]
