"""Time: training as residual dynamics."""

from opflow.dynamics import observe
from opflow.dynamics.run import DivergenceError, train
from opflow.dynamics.steppers import GradientDescent, TruncatedFlow
from opflow.dynamics.trajectory import Trajectory

__all__ = ["DivergenceError", "GradientDescent", "Trajectory", "TruncatedFlow", "observe", "train"]
