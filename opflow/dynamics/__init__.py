"""Time: training as residual dynamics."""

from opflow.dynamics import observe
from opflow.dynamics.adaptive import GradientFlow
from opflow.dynamics.checkpoint import Checkpoint
from opflow.dynamics.descent import GradientDescent
from opflow.dynamics.exponential import ExponentialFlow
from opflow.dynamics.linearised import LinearisedFlow
from opflow.dynamics.run import DivergenceError, train
from opflow.dynamics.trajectory import Trajectory
from opflow.dynamics.truncated import TruncatedFlow

__all__ = [
    "Checkpoint",
    "DivergenceError",
    "ExponentialFlow",
    "GradientDescent",
    "GradientFlow",
    "LinearisedFlow",
    "Trajectory",
    "TruncatedFlow",
    "observe",
    "train",
]
