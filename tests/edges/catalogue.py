"""One small call of everything public that computes, with how its results scale.

A :class:`Problem` says by what the operator and the vectors, or the inputs and the outputs of a
network, are multiplied; a call gives named :class:`Part` s of known degrees in these factors.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any, NamedTuple

import numpy as np

import opflow as of

from ..spectral.products import rotated

spectral, observe, hierarchy = of.spectral, of.observe, of.hierarchy
LARGE = 1100  # beyond what LAPACK is given whole


class Part(NamedTuple):
    """A number, an array, or a flag of a result.

    Attributes
    ----------
    value : array, number or str
    op, data : float
        Multiplying the operator (the inputs) by c and the vectors (readout and targets) by d
        multiplies the value by ``c**op * d**data``.
    size : float or None
        What rounding is relative to, scaled like the value; its largest entry by default.
    samples : bool or None
        Whether the leading axis is that of the samples; else their order does not matter, or, if
        None, matters in another way.
    """

    value: Any
    op: float = 0
    data: float = 0
    size: float | None = None
    samples: bool | None = False


@dataclass(frozen=True)
class Problem:
    """What an entry is called on."""

    kind: str
    dtype: Any = np.float64
    op: float = 1.0
    data: float = 1.0
    order: Any = None  # of the samples, which may come more than once
    weight: float = 1.0  # of the operator, which nothing else is fitted to

    def array(self, *shape: int, seed: int = 0) -> Any:
        values = np.random.default_rng(seed).standard_normal(shape)
        return values.astype(self.dtype)

    def by_sample(self, values: Any) -> Any:
        return values if self.order is None else np.ascontiguousarray(values[self.order])

    def times(self, values: Any, factor: float) -> Any:
        return (values * self.dtype(factor)).astype(self.dtype)

    # -- an operator and vectors ----------------------------------------------------------------

    @cached_property
    def n(self) -> int:
        n = {"array": 24, "gram": 24, "narrow": LARGE, "products": LARGE, "network": 20}[self.kind]
        return n if self.order is None else len(self.order)

    @property
    def base(self) -> int:
        return 24 if self.kind in ("array", "gram") else LARGE

    def operator(self, seed: int = 0) -> Any:
        n = self.base
        if self.kind == "array":
            values = np.linspace(0.5, 3, n) + np.r_[np.zeros(n - 2), 4, 9]
            A = rotated(values, seed, self.dtype)
            if self.order is not None:
                A = A[np.ix_(self.order, self.order)]
            return self.times(A, self.op * self.weight)
        if self.kind in ("gram", "narrow"):
            F = self.by_sample(self.array(n, 9, seed=seed))
            return of.Gram(self.times(F, (self.op * self.weight) ** 0.5))
        diagonal = self.by_sample(np.linspace(0.5, 1, n).astype(self.dtype))
        return Spiked(
            diagonal, self.by_sample(self.array(n, 3, seed=seed)), self.dtype(self.op * self.weight)
        )

    def vectors(self, columns: int = 0, seed: int = 1) -> Any:
        shape = (self.base, columns) if columns else (self.base,)
        return self.times(self.by_sample(self.array(*shape, seed=seed)), self.data)

    @property
    def shift(self) -> float:
        return 0.25 * self.op

    # -- a network ------------------------------------------------------------------------------

    def network(self, *, depth: int = 2, outputs: int = 2) -> Any:
        widths = [5, 16, 12, 10][: depth + 1]
        net = of.ReLUNetwork.random(widths, outputs=outputs, seed=3, dtype=self.dtype)
        return of.ReLUNetwork(net.weights, self.times(net.readout, self.data))

    def inputs(self, seed: int = 4, samples: int = 20) -> Any:
        X = self.array(samples, 5, seed=seed)
        return self.times(self.by_sample(X) if samples == 20 else X, self.op)

    def targets(self, outputs: int = 2, samples: int = 20) -> Any:
        y = self.array(samples, outputs, seed=5)
        return self.times(self.by_sample(y) if samples == 20 else y, self.op * self.data)

    def fields(self, **options: Any) -> Any:
        return self.network(**options).fields(self.inputs())

    @property
    def time(self) -> float:
        """A time, or step, that fits the kernel of the network."""
        return 1e-3 * (self.op * self.data) ** -2


class Spiked(of.Operator):
    """A diagonal and three large eigenvalues, known by products alone."""

    def __init__(self, diagonal: Any, spikes: Any, factor: Any) -> None:
        self.diag, self.spikes, self.factor = diagonal, spikes, factor
        super().__init__((len(diagonal),) * 2, diagonal.dtype, symmetric=True, psd=True)

    def _matmat(self, X: Any) -> Any:
        scaled = self.factor * X
        return self.diag[:, None] * scaled + self.spikes @ (self.spikes.T @ scaled)

    _rmatmat = _matmat


class Entry(NamedTuple):
    covers: tuple[str, ...]
    kinds: tuple[str, ...]
    call: Callable[[Problem], dict[str, Part]]
    powers: int  # the highest of a factor in what is computed
    random: bool  # whether it depends on random vectors, one number a sample, or rows drawn

    def __call__(self, problem: Problem) -> dict[str, Part]:
        """The parts, with one more that says what was warned of convergence."""
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", ".*train badly")  # large units are the point
            warnings.simplefilter("always", spectral.ConvergenceWarning)
            parts = self.call(problem)
        return parts | {"warnings": Part(str(len(told)))}


ENTRIES: dict[str, Entry] = {}
#: what computes nothing by itself: results of functions, options, errors
RESULTS = {
    "spectral": {
        "ConvergenceWarning", "Density", "Diagonal", "Eigenpairs", "Estimate", "Jacobi",
        "KernelRegression", "Largest", "Nystrom", "Posterior", "Quadrature", "Sharpness",
        "SingularTriplets", "Solution",
    },
    "observe": {"Moment"},
    "dynamics": {"Checkpoint", "DivergenceError", "Huber", "Trajectory", "observe"},
    "relu": {"Fields", "KernelVelocity", "features", "hierarchy"},
    "hierarchy": {"Members"},
    "features": set(),
    "operators": set(of.operators.__all__),
    "evaluation": set(of.evaluation.__all__) - {"materialise"},
}  # fmt: skip
ALL = ("array", "gram", "narrow", "products")
SMALL = ("array", "gram")


def entry(*covers, kinds=ALL, name=None, powers=1, random=False):
    def keep(call):
        ENTRIES[name or call.__name__] = Entry(covers, tuple(kinds), call, powers, random)
        return call

    return keep


def network(*covers, powers=2, **options):
    return entry(*covers, kinds=("network",), powers=powers, **options)


def estimate(e, op=0, data=0):
    ends = Part(np.array([e, e.low, e.high]), op, data)
    return {"value": ends, "how": Part(e.how), "products": Part(str(e.products))}


# -- spectral: numbers ------------------------------------------------------------------------


@entry("spectral.alignment", random=True)
def alignment(p):
    return estimate(spectral.alignment(p.operator(), p.vectors(), products=30))


@entry("spectral.alignment", random=True)
def alignment_centred(p):
    return estimate(spectral.alignment(p.operator(), p.vectors(2), centred=True, products=30))


@entry("spectral.condition_number", random=True)
def condition_number(p):
    return estimate(spectral.condition_number(p.operator(), p.shift, products=30))


@entry("spectral.effective_dimension", random=True)
def effective_dimension(p):
    return estimate(spectral.effective_dimension(p.operator(), p.shift, probes=3, steps=20))


@entry("spectral.effective_dimension", random=True)
def effective_dimension_estimated(p):
    found = spectral.effective_dimension(p.operator(), p.shift, how="estimate", probes=3, steps=20)
    return estimate(found)


@entry("spectral.effective_rank", kinds=("array", "gram", "narrow"), random=True)
def effective_rank(p):
    return estimate(spectral.effective_rank(p.operator(), probes=3, steps=20))


@entry("spectral.effective_rank", random=True)
def effective_rank_estimated(p):
    return estimate(spectral.effective_rank(p.operator(), how="estimate", probes=3, steps=20))


@entry("spectral.logdet", random=True)
def logdet(p, **options):
    e = spectral.logdet(p.operator(), p.shift, probes=3, steps=20, **options)
    offset = p.n * np.log(p.op)
    ends = np.array([e, e.low, e.high]) - offset
    return estimate(e) | {"value": Part(ends, size=p.n * 300.0)}


@entry("spectral.logdet", random=True)
def logdet_estimated(p):
    return logdet(p, how="estimate")


@entry("spectral.frobenius_norm", random=True)
def frobenius_norm(p):
    return estimate(spectral.frobenius_norm(p.operator(), products=30), 1)


@entry("spectral.norm", random=True)
def norm(p):
    return estimate(spectral.norm(p.operator(), products=30), 1)


@entry("spectral.participation_ratio", random=True)
def participation_ratio(p):
    return estimate(spectral.participation_ratio(p.operator(), products=30))


@entry("spectral.kernel_alignment", random=True)
def kernel_alignment(p):
    return estimate(spectral.kernel_alignment(p.operator(), p.operator(7), products=30))


@entry("spectral.kernel_distance", random=True)
def kernel_distance(p):
    return estimate(spectral.kernel_distance(p.operator(), p.operator(7), products=30))


@entry("spectral.trace", random=True)
def trace(p):
    return estimate(spectral.trace(p.operator(), products=30), 1)


def traced(how):
    def call(p):
        return estimate(spectral.trace(p.operator(), how=how, products=15), 1)

    return call


entry("spectral.trace", name="trace_by_xtrace", random=True)(traced("xtrace"))
entry("spectral.trace", kinds=("gram", "products"), name="trace_by_xnystrace", random=True)(
    traced("xnystrace")
)


@entry("spectral.diagonal", random=True)
def diagonal(p, **options):
    d = spectral.diagonal(p.operator(), **({"products": 30} | options))
    parts = {"values": Part(d.values, 1, samples=True), "how": Part(d.how)}
    size = float(abs(d.values).max())
    return parts | {"errors": Part(d.errors, 1, size=size, samples=True)}


@entry("spectral.diagonal", random=True)
def diagonal_estimated(p):
    return diagonal(p, how="diag++", products=15)


@entry("spectral.sharpness", random=True)
def sharpness(p):
    found = spectral.sharpness(p.operator(), 0.1 / p.op, products=30)
    return {"limit": Part(found.limit, 1), "ratio": estimate(found.ratio)["value"]} | estimate(
        found.largest, 1
    )


# -- spectral: spectra ------------------------------------------------------------------------


def pairs(p, found, left=None):
    U = found.eigenvectors if left is None else left
    values = found.eigenvalues if left is None else found.singular_values
    image = U @ (U.T @ p.vectors())
    return {
        "values": Part(values, 1),
        "image": Part(image, 0, 1, samples=True),
        "residuals": Part(found.residuals, 1, size=float(abs(values).max())),
        "converged": Part(str(found.converged)),
        "how": Part(found.how),
    }


@entry("spectral.eigh", kinds=SMALL)
def eigh(p):
    return pairs(p, spectral.eigh(p.operator()))


@entry("spectral.eigsh")
def eigsh(p):
    return pairs(p, spectral.eigsh(p.operator(), 3))


@entry("spectral.eigsh", random=True)
def eigsh_by_lanczos(p):
    return pairs(p, spectral.eigsh(p.operator(), 3, which="LA", method="lanczos", tol=1e-3))


@entry("spectral.svds", random=True)
def svds(p):
    found = spectral.svds(p.operator(), 3, tol=1e-3)
    return pairs(p, found, found.left)


@entry("spectral.largest_eigenvalue", random=True)
def largest_eigenvalue(p):
    found = spectral.largest_eigenvalue(of.as_operator(p.operator()))
    return {
        "value": Part(found.value, 1),
        "bound": Part(found.bound, 1, size=found.value),
        "converged": Part(str(found.converged)),
        "products": Part(str(found.products)),
    }


@entry("spectral.lanczos")
def lanczos(p):
    alpha, beta, V = spectral.lanczos(p.operator(), 6, p.vectors())
    size = float(abs(alpha).max())
    return {
        "alpha": Part(alpha, 1),
        "beta": Part(beta, 1, size=size),
        "basis": Part(V, samples=True),
    }


@entry("spectral.block_lanczos", random=True)
def block_lanczos(p):
    T, V, coupling = spectral.block_lanczos(p.operator(), 3, p.vectors(2))
    return {
        "T": Part(T, 1),
        "basis": Part(V),
        "coupling": Part(coupling, 1, size=float(abs(T).max())),
    }


@entry("spectral.quadrature", random=True)
def quadrature(p):
    rule = spectral.quadrature(p.operator(), probes=3, steps=8)
    top = float(abs(rule.nodes).max())
    parts = {
        "nodes": Part(rule.nodes, 1, size=top),
        "weights": Part(rule.weights, size=p.n),
        "pinned": Part(rule.pinned),
        "level": Part(rule.level, 1, size=top),
    }
    return parts | estimate(rule.trace(lambda x: x), 1)


def of_density(p, rho, log):
    grid = np.array([0.4, 0.7, 0.9, 2.0, 9.0]) * p.op
    low, high = rho.cdf_band(grid)
    return {
        "density": Part(rho(grid), 0 if log else -1, size=(1 if log else 1 / p.op)),
        "cdf": Part(rho.cdf(grid), size=1.0),
        "band": Part(np.array([low, high]), size=1.0),
        "support": Part(np.array(rho.support), 1, size=10 * p.op),
        "width": Part(rho.width, 0 if log else 1),
        "null": Part(float(rho.null), size=p.n),
        "how": Part(rho.how),
    }


@entry("spectral.density", random=True)
def density(p, log=False, **options):
    rho = spectral.density(p.operator(), probes=3, steps=20, log=log, **options)
    return of_density(p, rho, log)


@entry("spectral.density", random=True)
def density_log(p):
    return density(p, log=True)


@entry("spectral.density", random=True)
def density_estimated(p):
    return density(p, how="estimate")


# -- spectral: functions of the operator, times vectors ---------------------------------------


@entry("spectral.expm")
def expm(p):
    r, times = p.vectors(2), np.array([0.0, 0.1, 1.0]) / p.op
    op = p.operator()
    return {
        "several": Part(spectral.expm(op, r, times), 0, 1, samples=None),
        "one": Part(spectral.expm(op, r[:, 0], 0.5 / p.op), 0, 1, samples=True),
    }


@entry("spectral.phi", "spectral.phi1")
def phi(p):
    op, r = p.operator(), p.vectors()
    return {
        "first": Part(spectral.phi1(op, r, 0.5 / p.op), -1, 1, samples=True),
        "second": Part(spectral.phi(op, r, 0.5 / p.op, 2), 0, 1, samples=True),
    }


@entry("spectral.Krylov")
def krylov(p):
    flow, t = spectral.Krylov(of.as_operator(p.operator()), p.vectors()), 0.5 / p.op
    reached = flow.reach(t, 1e-4)
    return {
        "reached": Part(f"{reached} {flow.products} {flow.exhausted}"),
        "at": Part(flow.at(t), 0, 1, samples=True),
        "integral": Part(flow.integral(t), -1, 1, samples=True),
        "top": Part(flow.top, 1),
        "norm": Part(flow.norm, 0, 1),
        "bound": Part(flow.bound(t), 0, 1, size=flow.norm),
        "horizon": Part(flow.horizon(1e-2, 4 * t), -1),
    }


@entry("spectral.funm")
def funm(p):
    def share(x):
        return x / (x + p.shift)

    return {"value": Part(spectral.funm(p.operator(), share, p.vectors()), 0, 1, samples=True)}


@entry("spectral.sqrtm")
def sqrtm(p):
    return {"value": Part(spectral.sqrtm(p.operator(), p.vectors()), 0.5, 1, samples=True)}


def solved(p, **options):
    found = spectral.solve(p.operator(), p.vectors(2), p.shift, **options)
    return {
        "x": Part(found.x, -1, 1, samples=True),
        "residuals": Part(found.residuals, size=1.0),
        "converged": Part(f"{found.converged} {found.iterations} {found.products}"),
    }


@entry("spectral.solve")
def solve(p):
    return solved(p)


@entry("spectral.solve", "spectral.nystrom", random=True)
def solve_with_nystrom(p):
    P = spectral.nystrom(p.operator(), p.shift, rank=5)
    return {"P": Part(P @ p.vectors(), 0, 1)} | solved(p, preconditioner=P)


@entry("spectral.solve", "spectral.jacobi", kinds=("array", "gram", "narrow"))
def solve_with_jacobi(p):
    P = spectral.jacobi(p.operator(), p.shift)
    return {"P": Part(P.diagonal(), -1, samples=True)} | solved(p, preconditioner=P)


@entry("spectral.kernel_regression")
def kernel_regression(p):
    op, y = p.operator(), p.vectors()
    found = spectral.kernel_regression(op, y, p.shift)
    cross = p.times(p.by_sample(p.array(p.base, 3, seed=9)).T, p.op * p.weight)
    return {
        "coefficients": Part(found.coefficients, -1, 1, samples=True),
        "fitted": Part(found.fitted, 0, 1, samples=True),
        "residual": Part(found.residual, 0, 1, size=float(abs(y).max()), samples=True),
        "prediction": Part(found.predict(cross), 0, 1),
        "converged": Part(f"{found.solution.converged} {found.solution.iterations}"),
    }


def given_data(p, op, prior, **options):
    """What scales: the likelihood and its gradient are sums of numbers that scale otherwise."""
    y = p.vectors()
    size = float(abs(y).max())
    cross = p.times(p.by_sample(p.array(p.base, 3, seed=9)).T, p.op * p.weight)
    found = spectral.posterior(op, y, p.shift, cross, prior, **options)
    return {
        "coefficients": Part(found.coefficients, -1, 1, samples=True),
        "mean": Part(found.mean, 0, 1),
        "variance": Part(found.variance, 1),
        "leverages": Part(found.leverages.values, size=1.0, samples=True),
        "leave_one_out": Part(found.leave_one_out.values, 0, 1, size=size, samples=True),
        "influence": Part(found.influence @ y, 0, 1),
    }


@entry("spectral.posterior", kinds=SMALL)
def posterior(p):
    return given_data(p, p.operator(), p.times(np.full(3, 1e4), p.op), how="direct")


@entry("spectral.posterior", random=True)
def posterior_by_conjugate_gradients(p):
    options = {"how": "iterative", "rank": 5, "products": 15}
    return given_data(p, p.operator(), p.times(np.full(3, 1e4), p.op), **options)


@entry("spectral.resolution", kinds=SMALL)
def resolution(p):
    G = p.by_sample(np.arange(p.base * 5).reshape(p.base, 5) % 7 - 3.0).astype(p.dtype).T
    found = spectral.resolution(p.operator(), G, p.shift)
    return {
        "diagonal": Part(found.diagonal, size=1.0, samples=True),
        "variance": Part(found.variance, 1, samples=True),
        "column": Part(found.operator @ p.vectors(), 0, 1, samples=True),
    }


@entry("spectral.learning_curve", kinds=SMALL)
def learning_curve(p):
    found = spectral.eigh(p.operator())
    overlaps = found.eigenvectors.T @ p.vectors() / p.n**0.5
    values = np.maximum(found.eigenvalues / p.n, 0)
    curve = spectral.learning_curve(values, overlaps, [1, 4, 9], ridge=p.shift / p.n)
    return {"error": Part(curve, 0, 2)}


# -- spectral: modes --------------------------------------------------------------------------


@entry("spectral.projections", "spectral.decay", kinds=SMALL)
def projections_and_decay(p):
    found = spectral.eigh(p.operator())
    U, times = found.eigenvectors, np.array([0.0, 0.5, 2.0]) / p.op
    decayed = spectral.decay(found.eigenvalues, U, p.vectors(), times)
    return {
        "projections": Part(abs(spectral.projections(U[:, :3], p.vectors())), 0, 1),
        "decay": Part(np.abs(decayed[:, :3]), 0, 1),
    }


@entry("spectral.layer_shares", "spectral.spectrum_shares", kinds=("array", "gram", "narrow"))
def shares(p):
    kernels = [p.operator(), p.operator(7)]
    U = p.by_sample(np.linalg.qr(p.array(p.base, 3, seed=8))[0])
    return {
        "layers": Part(spectral.layer_shares(kernels)),
        "spectrum": Part(spectral.spectrum_shares(kernels, U)),
    }


@entry("spectral.principal_angles", kinds=SMALL)
def principal_angles(p):
    return {"angles": Part(spectral.principal_angles(p.vectors(3), p.vectors(2, seed=6)))}


# -- networks ---------------------------------------------------------------------------------


@network(powers=1)
def outputs_of_a_network(p):
    return {"outputs": Part(p.network()(p.inputs()), 1, 1, samples=True)}


def of_fields(storage):
    def call(p):
        net = p.network()
        fields = net.fields(p.inputs(), storage=storage)
        layers = zip(count(1), fields.preactivations, fields.activations[1:], fields.conjugates,
                     fields.gates, strict=False)  # fmt: skip
        parts = {"outputs": Part(fields.outputs, 1, 1, samples=True)}
        for layer, h, a, phi, gates in layers:
            parts[f"h{layer}"] = Part(h, 1, samples=True)
            parts[f"a{layer}"] = Part(a, 1, samples=True)
            parts[f"phi{layer}"] = Part(phi, 0, 1, samples=True)
            kept = of.Mask(gates).diagonal().reshape(p.n, -1)
            parts[f"gates{layer}"] = Part(kept, samples=True)
        return parts

    return call


def of_kernel(route):
    def call(p):
        fields = p.fields()
        K = of.collective_kernel(fields, route=route)
        return of_operator(p, K, 2, 2) | {"trace": Part(K.trace(), 2, 2)}

    return call


def of_operator(p, K, op, data, rows=True, columns=True):
    """Products and parts of an operator; whether its rows, and its columns, are of samples."""

    def operand(here, size, width, seed):
        v = p.array(size if p.order is None or not here else size // p.n * 20, width, seed=seed)
        return p.by_sample(v.reshape(20, -1)).reshape(size, width) if here else v

    def by_sample(here, values):
        split = values.reshape(p.n, -1) if here else values
        return Part(split, op, data, size=size, samples=here)

    dense = K.todense()
    size = float(abs(dense).max()) * max(K.shape) ** 0.5
    v = operand(columns, K.shape[1], 3, 11)
    parts = {
        "products": by_sample(rows, K @ v),
        "vector": by_sample(rows, K @ v[:, 0]),
        "back": by_sample(columns, K.T @ operand(rows, K.shape[0], 2, 12)),
        "block": Part(K.block(slice(1, 7), slice(0, 5)), op, data, size=size, samples=None),
        "dense": Part(dense, op, data, samples=None),
    }
    if K.shape[0] == K.shape[1]:
        parts["diagonal"] = by_sample(rows, K.diagonal())
    return parts


for storage in ("cached", "packed", "recomputed"):
    network(name=f"fields_{storage}", powers=1)(of_fields(storage))
for route in ("cached", "transport"):
    network("relu.collective_kernel", name=f"kernel_{route}")(of_kernel(route))


def materialised(how):
    def call(p):
        first, second = of.layer_kernels(p.fields(outputs=1))
        return of_operator(p, of.materialise(first + second, **how), 2, 2)

    return call


for way in ({"how": "factored"}, {"how": "gram"}, {"how": "tiled"}, {"how": "dense"},
            {"how": "packed"}, {"products": 100, "columns": 3}):  # fmt: skip
    label = way.get("how", "cheapest")
    network("evaluation.materialise", name=f"materialised_{label}")(materialised(way))


@network("relu.jacobian", powers=1)
def jacobian(p):
    return of_operator(p, of.jacobian(p.fields()), 1, 1, columns=False)


@network("dynamics.hessian")
def hessian(p):
    fields = p.fields()
    v = p.array(fields.network.parameters, seed=14)
    full = of.hessian(fields, p.targets()) @ v
    G = of.hessian(fields, p.targets(), part="gauss-newton")
    return {"full": Part(full, 2, 2), "part": Part(G @ v, 2, 2), "diag": Part(G.diagonal(), 2, 2)}


@network("relu.layer_kernels")
def layer_kernels(p):
    kernels = of.layer_kernels(p.fields())
    return {f"{name}{i}": part for i, K in enumerate(kernels)
            for name, part in of_operator(p, K, 2, 2).items()}  # fmt: skip


@network("relu.cross_kernel")
def cross_kernel(p):
    new = p.network().fields(p.inputs(8, 6))
    return of_operator(p, of.cross_kernel(new, p.fields()), 2, 2, rows=False)


@network("relu.measured_kernel")
def measured_kernel(p):
    G = p.by_sample(p.array(20, 6, seed=15)).reshape(-1, 3).T
    K = of.measured_kernel(p.fields(), G)
    return of_operator(p, K, 2, 2, rows=False, columns=False)


@network("relu.infinite_width")
def infinite_width(p):
    variances = [2, 2, p.data**2]
    K = of.infinite_width(p.network(outputs=1), p.inputs(), variances=variances)
    return of_operator(p, K, 2, 2)


@network("relu.kernel_velocity", "relu.layer_kernel_velocities", powers=4)
def kernel_velocity(p):
    fields = p.fields(depth=3)
    r = fields.outputs - p.targets()
    parts = of_operator(p, of.kernel_velocity(fields, r), 4, 4)
    for i, velocity in enumerate(of.layer_kernel_velocities(fields, r)):
        parts |= {f"a{i}": Part(velocity.activations.trace(), 4, 4),
                  f"phi{i}": Part(velocity.conjugates.trace(), 4, 4)}  # fmt: skip
    return parts


@network("relu.weight_gram_velocity")
def weight_gram_velocity(p):
    fields = p.fields()
    r = fields.outputs - p.targets()
    return {f"{side}{layer}": Part(of.weight_gram_velocity(fields, layer, r, side).todense(), 2, 2)
            for side in ("input", "output") for layer in (1, 2)}  # fmt: skip


@network("hierarchy.hidden_velocity", "hierarchy.conjugate_velocity", "hierarchy.field_velocities",
         "hierarchy.split")  # fmt: skip
def field_velocities(p):
    fields = p.fields(depth=3)
    v = p.by_sample(p.array(40, seed=13).reshape(20, 2)).reshape(-1)
    moving, turning = hierarchy.split(fields, hierarchy.field_velocities(fields) @ v)

    def hidden(values):
        return Part(values.reshape(p.n, -1), 2, 1, samples=True)

    def conjugate(values):
        return Part(values.reshape(p.n, -1), 1, 2, samples=True)

    parts = {f"h{i}": hidden(dh) for i, dh in enumerate(moving)}
    parts |= {f"psi{i}": conjugate(dpsi) for i, dpsi in enumerate(turning)}
    for layer in (1, 2, 3):
        parts[f"H{layer}"] = hidden(hierarchy.hidden_velocity(fields, layer, 1) @ v)
        parts[f"C{layer}"] = conjugate(hierarchy.conjugate_velocity(fields, layer, 1) @ v)
    return parts


@network("hierarchy.pullback", "hierarchy.pushforward", "hierarchy.field_errors",
         "hierarchy.members", powers=1)  # fmt: skip
def members(p):
    fields = p.fields(depth=3)
    moved = p.network(depth=3).fields(p.inputs(14))
    found = hierarchy.members(fields, [(0, 1)])
    parts = {
        "down": Part(hierarchy.pullback(fields, 1, 3, 0, 1).todense(), samples=None),
        "up": Part(hierarchy.pushforward(fields, 3, 1, 0, 1).todense(), samples=None),
        "errors": Part(np.array(hierarchy.field_errors(moved, fields))),
    }
    return parts | {
        "norms": Part(found.norms, samples=None),
        "ranks": Part(found.ranks, samples=None),
    }


@network("features.agop", "features.feature_ansatz", "features.target_linearity")
def features(p):
    fields = p.fields()
    ansatz = of.features.feature_ansatz(fields, 2)
    moved = of.features.feature_ansatz(fields, 2, start=of.ReLUNetwork.random([5, 16, 12], seed=9))
    return {
        "moved": Part(np.array(moved, dtype=float)),
        "agop": Part(of.features.agop(fields, 1).todense(), 0, 2),
        "ansatz": Part(np.array(ansatz, dtype=float)),
        "linearity": Part(of.features.target_linearity(fields, p.targets(), 1)),
    }


# -- training ---------------------------------------------------------------------------------


def trained(p, method, *, depth=2, **options):
    net = p.network(depth=depth)
    if isinstance(method, of.ExactFlow):
        net = of.ReLUNetwork([W.astype(float) for W in net.weights], net.readout.astype(float))
    X = p.inputs().astype(net.dtype)
    run = of.train(net, X, p.targets(), method=method, **options)
    rest = run.network
    parts = {f"W{i}": Part(W) for i, W in enumerate(rest.weights)}
    parts |= {
        "residual": Part(run.residual, 1, 1, samples=True),
        "losses": Part(np.array(run.losses), 2, 2),
        "times": Part(np.array(run.times), *((-2, -2) if method.timed else ())),
        "products": Part(f"{run.products} {run.route}"),
        "predictions": Part(run.predict(p.inputs(15, 4)), 1, 1),
    }
    return parts | {"step": Part(run.step, -2, -2)} if np.isfinite(run.step) else parts


METHODS = {
    "descent": lambda p: (of.GradientDescent(), {"steps": 5}),
    "descent_eliminated": lambda p: (of.GradientDescent(), {"steps": 5, "eliminate": True}),
    "descent_of_the_mean": lambda p: (of.GradientDescent(), {"steps": 5, "loss": "mean"}),
    "momentum": lambda p: (of.GradientDescent(p.time, momentum=0.5), {"steps": 5}),
    "weight_decay": lambda p: (of.GradientDescent(p.time, weight_decay=0.1 / p.time), {"steps": 5}),
    "accumulated": lambda p: (of.GradientDescent(p.time, accumulate="float64"), {"steps": 5}),
    "batches": lambda p: (of.GradientDescent(p.time, batch=7, rng=0), {"steps": 5}),
    "gauss_newton": lambda p: (of.GaussNewton(), {"steps": 3}),
    "gradient_flow": lambda p: (of.GradientFlow(), {"until": 20 * p.time}),
    "decaying_flow": lambda p: (
        of.GradientFlow(weight_decay=0.02 / p.time),
        {"until": 20 * p.time},
    ),
    "exponential_flow": lambda p: (of.ExponentialFlow(), {"until": 20 * p.time}),
    "exact_flow": lambda p: (of.ExactFlow(), {"until": 20 * p.time}),
    "linearised_flow": lambda p: (of.LinearisedFlow(), {"times": [5 * p.time, 50 * p.time]}),
    "truncated_flow": lambda p: (of.TruncatedFlow(1), {"steps": 4, "depth": 3}),
}
CLASSES = {
    "gauss_newton": "GaussNewton",
    "gradient_flow": "GradientFlow",
    "decaying_flow": "GradientFlow",
    "exponential_flow": "ExponentialFlow",
    "exact_flow": "ExactFlow",
    "linearised_flow": "LinearisedFlow",
    "truncated_flow": "TruncatedFlow",
}


def training(name):
    def call(p):
        method, options = METHODS[name](p)
        return trained(p, method, **options)

    return call


for label in METHODS:
    covers = ("dynamics.train", f"dynamics.{CLASSES.get(label, 'GradientDescent')}")
    exact = label in ("momentum", "accumulated", "weight_decay")
    network(*covers, name=f"train_{label}", random=not exact)(training(label))


def watched(p, *watchers, op=0, data=0, method=None, depth=2, **degrees):
    net = p.network(depth=depth)
    run = of.train(net, p.inputs(), p.targets(), steps=3, observe=watchers, method=method)
    return {
        name: Part(np.array(values), *degrees.get(name, (op, data)))
        for name, values in run.observations.items()
    }


@network(
    "observe.Loss", "observe.ResidualNorm", "observe.HeldOutLoss", "observe.Accuracy", random=True
)
def watching_losses(p):
    X, y = p.inputs(16, 6), p.targets(samples=6)
    return watched(
        p, observe.Loss(), observe.ResidualNorm(), observe.HeldOutLoss(X, y),
        observe.Accuracy(X, np.arange(6) % 2), loss=(2, 2), residual_norm=(1, 1),
        held_out_loss=(2, 2),
    )  # fmt: skip


@network(
    "observe.GateFlips",
    "observe.Balancedness",
    "observe.balances",
    "observe.GramClosure",
    random=True,
)
def watching_weights(p):
    drifts, size = observe.balances(p.network())
    parts = watched(p, observe.GateFlips(), observe.Balancedness(), observe.GramClosure(2))
    return parts | {"balances": Part(np.concatenate(drifts)), "size": Part(size)}


@network("observe.TopEigenpairs", random=True)
def watching_eigenpairs(p):
    top = observe.TopEigenpairs(3)
    parts = watched(p, top, top.angles, top.modes, eigenvalues=(2, 2), modes=(1, 1))
    parts["modes"] = Part(abs(parts["modes"].value), 1, 1)
    parts["eigenvector_angles"] = Part(parts["eigenvector_angles"].value, size=1.0)
    return parts


@network("observe.HessianEigenvalues", random=True)
def watching_the_hessian(p):
    small = of.ReLUNetwork.random([5, 6, 5], outputs=2, seed=3, dtype=p.dtype)
    net = of.ReLUNetwork(small.weights, p.times(small.readout, p.data))
    ends = observe.HessianEigenvalues(2)
    run = of.train(net, p.inputs(), p.targets(), steps=3, observe=[ends])
    return {"ends": Part(run.observations["hessian_eigenvalues"], 2, 2)}


@network("observe.Spectrum", random=True)
def watching_the_spectrum(p):
    spectrum = observe.Spectrum(points=20)
    return watched(p, spectrum) | {"grid": Part(spectrum.grid, 2, 2)}


@network("observe.Alignment", "observe.Sharpness", "observe.KernelDistance", random=True)
def watching_the_kernel(p):
    return watched(p, observe.Alignment(), observe.Sharpness(), observe.KernelDistance(8),
                   sharpness=(2, 2))  # fmt: skip


@network("observe.Alignment", random=True)
def watching_the_residual(p):
    return watched(p, observe.Alignment(residual=True, centred=True))


@network("observe.TruncationError", random=True)
def watching_the_truncation(p):
    return watched(p, observe.TruncationError(), method=of.TruncatedFlow(1), depth=3)


@network("observe.Function", "observe.Snapshots", random=True)
def watching_what_is_chosen(p):
    ansatz = observe.Function(lambda f: of.features.feature_ansatz(f, 2), "ansatz")
    how = {"steps": 3, "observe": [ansatz, observe.Snapshots([2])]}
    seen = of.train(p.network(), p.inputs(), p.targets(), **how).observations
    return {"ansatz": Part(seen["ansatz"]), "weights": Part(seen["snapshots"][2].weights[0])}
