"""The order of the samples, and samples that come twice, change results as they must."""

import numpy as np
import pytest

from .catalogue import ENTRIES, SMALL, Problem
from .test_scale import plain

#: what the calls of the catalogue stop at, relative to what they compute
TOLERANCE = 1e-7
#: of a kernel with every sample twice, and half as large: its spectrum is the same but for zeros
TWICE = {
    "alignment", "alignment_centred", "effective_dimension", "effective_rank", "eigsh",
    "frobenius_norm", "funm", "kernel_alignment", "kernel_distance", "kernel_regression",
    "krylov", "norm", "outputs_of_a_network", "participation_ratio", "phi", "shares", "sharpness",
    "solve", "sqrtm", "trace", "fields_cached", "fields_packed", "fields_recomputed",
}  # fmt: skip
#: how far a computation went, or where it began
ASIDE = {"residuals", "bound", "horizon", "products", "converged", "reached", "norm", "P"}


def compared(name, kind, order, **options):
    wanted = plain(name, kind, np.float64)
    found = ENTRIES[name](Problem(kind, order=order, **options))
    for part in wanted:
        value, samples = wanted[part].value, wanted[part].samples
        if samples is None or part in ASIDE or isinstance(value, str):
            continue
        value = np.asarray(value, dtype=np.float64)
        size = wanted[part].size or float(abs(value).max(initial=0.0))
        if samples:
            value = value[order]
        np.testing.assert_allclose(
            np.asarray(found[part].value, dtype=np.float64), value, rtol=0, atol=TOLERANCE * size,
            err_msg=part,
        )  # fmt: skip


def cases(names=ENTRIES):
    found = [
        (name, kind)
        for name in names
        for kind in ENTRIES[name].kinds
        if kind in SMALL or (kind == "network" and not ENTRIES[name].random)
    ]
    return pytest.mark.parametrize(("name", "kind"), found, ids=lambda x: x)


def exact(name, kind):
    """Random vectors are not of the samples, so what depends on them is compared if exact."""
    how = plain(name, kind, np.float64).get("how")
    return not ENTRIES[name].random or (how is not None and how.value == "exact")


@cases()
def test_results_follow_the_order_of_the_samples(name, kind):
    if exact(name, kind):
        n = 20 if kind == "network" else 24
        compared(name, kind, np.random.default_rng(0).permutation(n))


@cases(sorted(TWICE))
def test_every_sample_twice_changes_the_spectrum_by_zeros_alone(name, kind):
    if exact(name, kind):
        n = 20 if kind == "network" else 24
        compared(name, kind, np.repeat(np.random.default_rng(1).permutation(n), 2), weight=0.5)
