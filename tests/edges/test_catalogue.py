"""All that is public and computes has an entry, and estimates are of what is exact elsewhere."""

import pytest

import opflow as of
import opflow.dynamics
import opflow.relu

from .catalogue import ENTRIES, RESULTS, Problem

ESTIMATES = [
    (name, exact)
    for name in ENTRIES
    for exact in ENTRIES
    if name in (f"{exact}_estimated", f"{exact}_by_xtrace", f"{exact}_by_xnystrace")
    and exact not in ("diagonal", "density")
]


def test_every_public_name_has_an_entry():
    modules = {
        "spectral": of.spectral,
        "observe": of.observe,
        "dynamics": of.dynamics,
        "relu": of.relu,
        "hierarchy": of.hierarchy,
        "features": of.features,
        "operators": of.operators,
        "evaluation": of.evaluation,
    }
    public = {f"{name}.{x}" for name, module in modules.items() for x in module.__all__}
    covered = {x for entry in ENTRIES.values() for x in entry.covers}
    results = {f"{name}.{x}" for name, names in RESULTS.items() for x in names}
    not_called = {"relu.ReLUNetwork"}  # its calls are the entries of networks
    assert covered | results | not_called == public


@pytest.mark.parametrize("kind", ["array", "gram", "narrow"])
@pytest.mark.parametrize(("name", "exact"), ESTIMATES, ids=lambda x: x)
def test_the_interval_of_an_estimate_holds_the_exact_value(name, exact, kind):
    if kind in ENTRIES[name].kinds:
        wanted = ENTRIES[exact](Problem(kind))["value"].value
        value, low, high = ENTRIES[name](Problem(kind))["value"].value
        rounding = 1e-12 * max(abs(low), abs(high), float(wanted[0]))
        assert low - rounding <= wanted[0] <= high + rounding, (value, low, high)
