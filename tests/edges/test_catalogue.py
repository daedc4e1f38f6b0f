"""Everything public that computes has an entry in the catalogue."""

import opflow as of
import opflow.dynamics
import opflow.relu

from .catalogue import ENTRIES, RESULTS


def test_every_public_name_has_an_entry():
    modules = {
        "spectral": of.spectral,
        "observe": of.observe,
        "dynamics": of.dynamics,
        "relu": of.relu,
        "hierarchy": of.hierarchy,
        "features": of.features,
        "operators": of.operators,
    }
    public = {f"{name}.{x}" for name, module in modules.items() for x in module.__all__}
    covered = {x for entry in ENTRIES.values() for x in entry.covers}
    results = {f"{name}.{x}" for name, names in RESULTS.items() for x in names}
    not_called = {"relu.ReLUNetwork"}  # its calls are the entries of networks
    assert covered | results | not_called == public
