"""Time: training as residual dynamics."""

from opflow.dynamics import observe
from opflow.dynamics.hessian import hessian
from opflow.dynamics.methods.descent import GradientDescent
from opflow.dynamics.methods.exact_flow import ExactFlow
from opflow.dynamics.methods.exponential import ExponentialFlow
from opflow.dynamics.methods.gauss_newton import GaussNewton
from opflow.dynamics.methods.gradient_flow import GradientFlow
from opflow.dynamics.methods.linearised import LinearisedFlow
from opflow.dynamics.methods.truncated import TruncatedFlow
from opflow.dynamics.objectives import Huber
from opflow.dynamics.storage.checkpoint import Checkpoint
from opflow.dynamics.storage.trajectory import Trajectory
from opflow.dynamics.train import DivergenceError, train

__all__ = [
    "Checkpoint",
    "DivergenceError",
    "ExactFlow",
    "ExponentialFlow",
    "GaussNewton",
    "GradientDescent",
    "GradientFlow",
    "Huber",
    "LinearisedFlow",
    "Trajectory",
    "TruncatedFlow",
    "hessian",
    "observe",
    "train",
]
