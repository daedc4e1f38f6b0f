"""opflow: gradient descent of ReLU networks as a dynamics of fields, in lazy operators."""

from opflow import spectral
from opflow.config import show_config
from opflow.dynamics import *  # noqa: F403
from opflow.dynamics import __all__ as _dynamics
from opflow.operators import *  # noqa: F403
from opflow.operators import __all__ as _operators
from opflow.relu import *  # noqa: F403
from opflow.relu import __all__ as _relu

__version__ = "0.1.0"
__all__ = [*_dynamics, *_operators, *_relu, "show_config", "spectral"]
