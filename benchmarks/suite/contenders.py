"""opflow and its peers, each a set-up that returns the call to be timed.

A contender is a function of a :class:`Problem` that converts the data (not timed) and returns
its set-up; the set-up (timed) returns the call; the call (timed) returns its result as a NumPy
array.  That of a descent step takes a number of steps and returns the outputs and the seconds
of each step.  Nothing is imported before a contender is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.suite import modules, ours, twins, with_jax, with_torch
from benchmarks.suite.problems import SetUp

#: what each task compares: "opflow" is the reference, "bare GEMMs" the yardstick
CONTENDERS: dict[str, dict[str, Callable[..., SetUp]]] = {
    "products": {
        "opflow": ours.product,
        "bare GEMMs": ours.gemms,
        "torch jvp∘vjp": with_torch.jvp_vjp,
        "torch linearize": with_torch.linearize,
        "torch linearize, loop": lambda p: with_torch.linearize(p, loop=True),
        "JAX jvp∘vjp": with_jax.jvp_vjp,
        "JAX linearize": with_jax.linearize,
        "JAX linearize, loop": lambda p: with_jax.linearize(p, loop=True),
        "neural-tangents": with_jax.neural_tangents_product,
        "curvlinops": with_torch.curvlinops,
    },
    "steps": {
        "opflow": ours.steps,
        "torch": with_torch.steps,
        "torch.compile": lambda p: with_torch.steps(p, compiled=True),
        "JAX": with_jax.steps,
    },
    "dense": {
        "opflow": ours.dense,
        "neural-tangents": with_jax.neural_tangents_dense,
        "torch.func": with_torch.dense,
    },
    "scaling": {"opflow": ours.product, "JAX linearize": with_jax.linearize},
    "start": {
        "opflow": ours.product,
        "opflow, BLAS": ours.product,
        "torch linearize": with_torch.linearize,
        "JAX linearize": with_jax.linearize,
    },
    "module products": {
        "opflow": modules.product,
        "torch jvp∘vjp": modules.jvp_vjp,
        "curvlinops": modules.curvlinops_product,
    },
    "module GGN": {"opflow": modules.gauss_newton, "curvlinops": modules.curvlinops_gauss_newton},
    "module kernels": {
        "opflow": modules.dense,
        "torch.func": modules.func_dense,
        "NNGeometry": modules.nngeometry,
        "neural-tangents": twins.neural_tangents,
    },
    "module spectra": {"opflow": modules.spectrum, "torch.func": modules.func_spectrum},
}


def contender(task: str, name: str) -> Callable[..., SetUp]:
    """By its name in the results; ``"opflow, dense"`` and the like are ways to evaluate K."""
    if name in CONTENDERS[task]:
        return CONTENDERS[task][name]
    return partial(ours.product, how=name.removeprefix("opflow, "))
