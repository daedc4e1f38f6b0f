"""opflow: gradient descent of ReLU networks as a dynamics of fields, in lazy operators.

Arguments that do not fit raise a ``ValueError`` or ``TypeError`` that names them, before any work;
docstrings name what else may be raised.
"""

# A name that type checkers take for true; `typing` would take longer to import than all this.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from opflow import distributed as distributed
    from opflow import plot as plot
    from opflow import sklearn as sklearn
    from opflow import spectral as spectral
    from opflow.config import show_config as show_config
    from opflow.dynamics import *  # noqa: F403
    from opflow.operators import *  # noqa: F403
    from opflow.relu import *  # noqa: F403
    from opflow.standardise import Standardiser as Standardiser
    from opflow.streams import Streamed as Streamed
else:
    import importlib as _importlib

    def _load() -> None:
        """Put everything public here: one import of all, at the first name that is asked for."""
        found = {}
        for part in ("operators", "relu", "dynamics"):
            module = _importlib.import_module(f"opflow.{part}")
            found |= {name: getattr(module, name) for name in module.__all__}
        found["spectral"] = _importlib.import_module("opflow.spectral")
        for part, name in _SINGLE.items():
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


__version__ = "0.1.0"
#: public names that are the only one of their module
_SINGLE = {"config": "show_config", "standardise": "Standardiser", "streams": "Streamed"}
#: modules that are imported when they are asked for; what they need says how it is installed
_EXTRAS = ("distributed", "plot", "sklearn")
