"""Time: training as residual dynamics."""

from opflow.dynamics import observe
from opflow.dynamics.checkpoint import Checkpoint
from opflow.dynamics.run import DivergenceError, train
from opflow.dynamics.steppers import GradientDescent, TruncatedFlow
from opflow.dynamics.trajectory import Trajectory

__all__ = [
    "Checkpoint",
    "DivergenceError",
    "GradientDescent",
    "Trajectory",
    "TruncatedFlow",
    "observe",
    "train",
]
