"""opflow: gradient descent of ReLU networks as a dynamics of fields, in lazy operators."""

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

from opflow import spectral
from opflow.config import show_config
from opflow.dynamics import *  # noqa: F403
from opflow.dynamics import __all__ as _dynamics
from opflow.operators import *  # noqa: F403
from opflow.operators import __all__ as _operators
from opflow.relu import *  # noqa: F403
from opflow.relu import __all__ as _relu
from opflow.standardise import Standardiser
from opflow.streams import Streamed

__version__ = "0.1.0"
__all__ = [*_dynamics, *_operators, *_relu, "Standardiser", "Streamed", "show_config", "spectral"]
