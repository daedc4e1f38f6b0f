"""The public names of the package."""

import opflow

PARTS = ["distributed", "features", "hierarchy", "observe", "plot", "sklearn", "spectral", "torch"]


def public():
    """Public functions and classes by name; those of extras that are not installed are left out."""
    found = {}
    for module in ["", *PARTS]:
        try:
            place = getattr(opflow, module) if module else opflow
        except ImportError:
            continue
        start = f"opflow.{module}".rstrip(".")
        found |= {f"{start}.{name}": getattr(place, name) for name in place.__all__}
    return {name: thing for name, thing in found.items() if callable(thing)}
