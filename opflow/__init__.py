"""opflow: gradient descent of ReLU networks as a dynamics of fields, in lazy operators.

Arguments that do not fit raise a ``ValueError`` or ``TypeError`` that names them, before any work;
docstrings name what else may be raised.
"""

from opflow._version import __version__ as __version__

# A name that type checkers take for true; `typing` would take longer to import than all this.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from opflow import distributed as distributed
    from opflow import plot as plot
    from opflow import sklearn as sklearn
    from opflow import spectral as spectral
    from opflow import torch as torch
    from opflow.data.coordinates import coordinates as coordinates
    from opflow.data.coordinates import fourier_features as fourier_features
    from opflow.data.patches import patches as patches
    from opflow.data.standardise import Standardiser as Standardiser
    from opflow.dynamics import *  # noqa: F403
    from opflow.evaluation import *  # noqa: F403
    from opflow.machine.config import show_config as show_config
    from opflow.machine.cost import MachineProfile as MachineProfile
    from opflow.machine.cost import machine_profile as machine_profile
    from opflow.machine.gate_tables import gate_engines as gate_engines
    from opflow.machine.gate_tables import gate_options as gate_options
    from opflow.machine.streams import Streamed as Streamed
    from opflow.operators import *  # noqa: F403
    from opflow.relu import *  # noqa: F403
else:
    import importlib as _importlib

    def _load() -> None:
        """Put everything public here: one import of all, at the first name that is asked for."""
        found = {}
        for part in ("operators", "evaluation", "relu", "dynamics"):
            module = _importlib.import_module(f"opflow.{part}")
            found |= {name: getattr(module, name) for name in module.__all__}
        found["spectral"] = _importlib.import_module("opflow.spectral")
        for name, part in _SINGLE.items():
            found[name] = getattr(_importlib.import_module(f"opflow.{part}"), name)
        globals().update(found, __all__=list(found))

    def __getattr__(name: str) -> object:
        if name in _EXTRAS:
            return _importlib.import_module(f"opflow.{name}")
        if name == "__all__" or not name.startswith("_"):
            _load()
        if name not in globals():
            raise AttributeError(f"module 'opflow' has no attribute {name!r}")
        return globals()[name]

    def __dir__() -> list[str]:
        there = [name for name in _EXTRAS if name in globals()]
        return sorted({*__getattr__("__all__"), "plot", *there, "__version__"})


#: public names that come from a module alone
_SINGLE = {
    "MachineProfile": "machine.cost",
    "Standardiser": "data.standardise",
    "Streamed": "machine.streams",
    "coordinates": "data.coordinates",
    "fourier_features": "data.coordinates",
    "gate_engines": "machine.gate_tables",
    "gate_options": "machine.gate_tables",
    "machine_profile": "machine.cost",
    "patches": "data.patches",
    "show_config": "machine.config",
}
#: modules that are imported when they are asked for; what they need says how it is installed
_EXTRAS = ("distributed", "plot", "sklearn", "torch")
