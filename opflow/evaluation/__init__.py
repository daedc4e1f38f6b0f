"""Which form of an operator is cheapest: factored, dense, or with one Gram dense."""

from opflow.evaluation.dense import Tiled
from opflow.evaluation.function_gram import FunctionGram
from opflow.evaluation.gram_side import GramSide
from opflow.evaluation.materialise import Candidate, candidates, materialise

__all__ = ["Candidate", "FunctionGram", "GramSide", "Tiled", "candidates", "materialise"]
