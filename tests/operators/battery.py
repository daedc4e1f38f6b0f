"""One registry of operators and the checks that every one of them inherits.

A factory draws arrays from a :class:`Setting` and returns a :class:`Case`: the operator and a
dense reference, a NumPy formula in the same arrays that shares no code with opflow.

Tolerances are not chosen.  A formula with only sums and products, evaluated at the absolute
values of its arrays, bounds every rounding error: ``|error| <= eps · size · |A| |x|``, entry by
entry, where `size` counts the operations an entry goes through.  Signs therefore enter a
reference as data (``A + s * B`` with the leaf s = -1), never as a minus.

Every array of a case is one of the backend, NumPy unless :func:`use` says otherwise; references
are computed on the host.

To add an operator: write a factory, put :func:`register` on it, break the operator once in a
scratch copy and see the battery fail.
"""

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import pylops
import pytest
import scipy.linalg
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from hypothesis import strategies as st

import opflow as of
from opflow.machine import threads
from opflow.machine import workspace as row_blocks
from opflow.machine.arrays import is_sparse, to_host
from opflow.operators.outputs import of_outputs
from opflow.relu.readout_jacobian import ReadoutJacobian
from opflow.spectral.functions.preconditioners import Jacobi, Nystrom
from opflow.spectral.functions.solve import Inverse

#: the array module of the cases
xp = np


def use(module) -> None:
    """Make the cases of another array module from here on."""
    global xp
    xp = module


DEGENERATE = ("none", "dead", "duplicated", "deficient", "zero")


def csr_matrix(dense):
    """A dense array by rows, sparse."""
    if xp is np:
        return sp.csr_matrix(dense)
    from cupyx.scipy import sparse

    return sparse.csr_matrix(dense)


@dataclass
class Setting:
    """What Hypothesis draws: sizes, dtype, degeneracy and the workspace of a row block."""

    N: int
    p: int
    q: int
    k: int
    dtype: type
    degenerate: str
    workspace: int
    seed: int
    rng: np.random.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def normal(self, *shape: int) -> np.ndarray:
        """Normal entries; dead, duplicated, rank one or zero if the setting says so."""
        x = self.rng.standard_normal(shape)
        if self.degenerate == "dead":
            x[..., 0] = 0
        elif self.degenerate == "duplicated":
            x[-1] = x[0]
        elif self.degenerate == "deficient" and x.ndim > 1:
            x[:] = x[:, :1] * x[:1]
        elif self.degenerate == "zero":
            x[:] = 0
        return xp.asarray(x.astype(self.dtype))

    def gates(self, *shape: int) -> np.ndarray:
        return self.normal(*shape) > 0

    def sparse(self, *shape: int) -> sp.csr_matrix:
        return csr_matrix(self.normal(*shape) * xp.asarray(self.rng.random(shape) < 0.6))

    def scalar(self, low: float = -3, high: float = 3) -> float:
        return float(self.rng.uniform(low, high))


settings_drawn = st.builds(
    Setting,
    N=st.integers(1, 9),
    p=st.integers(1, 5),
    q=st.integers(1, 5),
    k=st.integers(1, 3),
    dtype=st.sampled_from([np.float32, np.float64]),
    degenerate=st.sampled_from(DEGENERATE),
    workspace=st.sampled_from([32, 400, 8 << 20]),
    seed=st.integers(0, 2**32 - 1),
)


@contextmanager
def small_blocks(workspace: int) -> Iterator[None]:
    """Row blocks and tiles of few entries, so that small operators have many of them.

    If they are small, their rows are spread over three threads, however few they are.
    """
    kept = row_blocks.WORKSPACE, threads.SHARE
    row_blocks.WORKSPACE = workspace
    many = nullcontext()
    if workspace < kept[0]:
        threads.SHARE, many = 1e-9, threads.limited(3)
    try:
        with many:
            yield
    finally:
        row_blocks.WORKSPACE, threads.SHARE = kept


class Case:
    """An operator and its dense reference.

    Parameters
    ----------
    op : Operator
    reference : function
        Of the leaves, by sums and products only.
    leaves : arrays or numbers
        Also booleans and sparse matrices; given to `reference` in float64, dense.
    exact_tags : dict, optional
        Tags that must be known, not only true when known.
    """

    def __init__(self, op: of.Operator, reference: Callable, *leaves, **exact_tags: bool) -> None:
        self.op, self.exact_tags = op, exact_tags
        dense = [to_host(x.toarray() if is_sparse(x) else x).astype(np.float64) for x in leaves]
        self.A = xp.asarray(reference(*dense))
        self.bound = xp.asarray(reference(*(np.abs(x) for x in dense)))
        self.size = 16 + sum(sum(x.shape) for x in dense) + sum(op.shape)

    def random(self, rng: np.random.Generator, *shape: int) -> np.ndarray:
        return xp.asarray(rng.standard_normal(shape).astype(self.op.dtype))

    def close(self, got, want, bound, dtype=None, factor: float = 1.0) -> None:
        """``|got - want| <= eps · size · bound``, entry by entry."""
        got, want, bound = to_host(got), to_host(want), to_host(bound)
        assert got.shape == want.shape
        eps = np.finfo(dtype or self.op.dtype).eps
        tiny = np.finfo(np.float32).tiny
        error = np.abs(got - want)
        allowed = factor * eps * self.size * bound + tiny
        assert (error <= allowed).all(), f"error {error.max():.3g}, allowed {allowed.max():.3g}"


FACTORIES: dict[str, Callable[[Setting], Case]] = {}
CHECKS: dict[str, Callable[[Case, np.random.Generator], None]] = {}


def register(factory: Callable[[Setting], Case]) -> Callable[[Setting], Case]:
    FACTORIES[factory.__name__] = factory
    return factory


def check(function: Callable) -> Callable:
    CHECKS[function.__name__] = function
    return function


# -- references -------------------------------------------------------------------------------


def face_split(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """Rows kron(A_μ, B_μ); k consecutive rows of A for each row of B."""
    k = len(A) // len(B)
    return np.array([np.kron(a, B[i // k]) for i, a in enumerate(A)])


def weighted_gram(F: np.ndarray, w: np.ndarray) -> np.ndarray:
    return (F * w) @ F.T


def gram(F: np.ndarray) -> np.ndarray:
    return F @ F.T


class Foreign(pylops.LinearOperator):
    """A PyLops operator that only multiplies single vectors."""

    def __init__(self, A: np.ndarray) -> None:
        super().__init__(dtype=A.dtype, shape=A.shape)
        self.A = A

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        return self.A @ x

    def _rmatvec(self, x: np.ndarray) -> np.ndarray:
        return self.A.T @ x


# -- leaves -----------------------------------------------------------------------------------


@register
def identity(s: Setting) -> Case:
    return Case(of.Identity(s.N, dtype=s.dtype), lambda x: np.eye(s.N), 1.0, psd=True)


@register
def zero(s: Setting) -> Case:
    return Case(of.Zero(s.N, dtype=s.dtype), lambda x: np.zeros((s.N, s.N)), 1.0, psd=True)


@register
def zero_rectangular(s: Setting) -> Case:
    return Case(of.Zero(s.N, s.p, s.dtype), lambda x: np.zeros((s.N, s.p)), 1.0)


@register
def block_diagonal(s: Setting) -> Case:
    B = s.normal(s.N, s.k, s.p)
    return Case(of.BlockDiagonal(B), lambda B: scipy.linalg.block_diag(*B), B)


@register
def block_diagonal_of_rows(s: Setting) -> Case:
    B = s.normal(s.N, s.p)
    return Case(of.BlockDiagonal(B), lambda B: scipy.linalg.block_diag(*B), B)


@register
def matrix(s: Setting) -> Case:
    A = s.normal(s.N, s.p)
    return Case(of.Matrix(A), lambda A: A, A)


@register
def matrix_strided(s: Setting) -> Case:
    A = s.normal(2 * s.p, s.N)[::2].T
    return Case(of.as_operator(A), lambda A: A, A)


@register
def matrix_sparse(s: Setting) -> Case:
    A = s.sparse(s.N, s.p)
    return Case(of.Matrix(A), lambda A: A, A)


@register
def matrix_symmetric(s: Setting) -> Case:
    A = s.normal(s.N, s.N)
    A = A + A.T
    return Case(of.Matrix(A, symmetric=True), lambda A: A, A, symmetric=True)


@register
def weight(s: Setting) -> Case:
    W = s.normal(s.q, s.p)
    return Case(of.Weight(W), lambda W: W, W)


@register
def packed_gates(s: Setting) -> Case:
    g = s.gates(s.N, 4 * s.p)
    return Case(of.PackedGates(g, dtype=s.dtype), lambda g: g, g)


@register
def scaled_gates(s: Setting) -> Case:
    g, v = s.gates(s.N, 4 * s.p), s.normal(4 * s.p)
    return Case(of.ScaledGates(g, v), lambda g, v: g * v, g, v)


def slopes(g, slope=0.25):
    """The slopes of gates, zeros and ones."""
    return g + slope * (1 - g)


@register
def packed_slopes(s: Setting) -> Case:
    g = s.gates(s.N, 4 * s.p)
    return Case(of.PackedGates(g, dtype=s.dtype, slope=0.25), slopes, g)


@register
def scaled_slopes(s: Setting) -> Case:
    g, v = s.gates(s.N, 4 * s.p), s.normal(4 * s.p)
    op = of.ScaledGates(of.PackedGates(g, slope=0.25), v)
    return Case(op, lambda g, v: slopes(g) * v, g, v)


@register
def mask_of_slopes(s: Setting) -> Case:
    g = s.gates(s.N, s.p)
    op = of.Mask(g, dtype=s.dtype, slope=0.25)
    return Case(op, lambda g: np.diag(slopes(g).ravel()), g, psd=True)


@register
def mask_of_absolute_values(s: Setting) -> Case:
    g = s.gates(s.N, s.p)
    op = of.Mask(g, dtype=s.dtype, slope=-1)
    return Case(op, lambda g, slope: np.diag(slopes(g, slope).ravel()), g, -1.0, symmetric=True)


@register
def mask(s: Setting) -> Case:
    g = s.gates(s.N, s.p)
    return Case(of.Mask(g, dtype=s.dtype), lambda g: np.diag(g.ravel()), g, psd=True)


@register
def external_pylops(s: Setting) -> Case:
    A = s.normal(s.N, s.p)
    return Case(of.as_operator(Foreign(A)), lambda A: A, A)


@register
def external_scipy(s: Setting) -> Case:
    A = s.normal(s.N, s.p)
    return Case(of.as_operator(spla.aslinearoperator(A)), lambda A: A, A)


# -- algebra ----------------------------------------------------------------------------------


@register
def sum_of_three(s: Setting) -> Case:
    A, B, C = s.normal(s.N, s.p), s.normal(s.N, s.p), s.sparse(s.N, s.p)
    return Case(of.Matrix(A) + B + of.Matrix(C), lambda A, B, C: A + B + C, A, B, C)


@register
def sum_of_psd(s: Setting) -> Case:
    F, c = s.normal(s.N, s.p), abs(s.scalar())
    op = of.Gram(F) + c * of.Identity(s.N)
    return Case(op, lambda F, c: gram(F) + c * np.eye(s.N), F, c, psd=True)


@register
def difference(s: Setting) -> Case:
    F, G = s.normal(s.N, s.p), s.normal(s.N, s.q)
    op = of.Gram(F) - of.Gram(G)
    return Case(op, lambda F, G, m: gram(F) + m * gram(G), F, G, -1.0, symmetric=True)


@register
def product(s: Setting) -> Case:
    A, B, C = s.normal(s.N, s.p), s.normal(s.p, s.q), s.normal(s.q, s.k)
    return Case(of.Matrix(A) @ of.Matrix(B) @ of.Matrix(C), lambda A, B, C: A @ B @ C, A, B, C)


@register
def product_of_symmetric(s: Setting) -> Case:
    F, G = s.normal(s.N, s.p), s.normal(s.N, s.q)
    return Case(of.Gram(F) @ of.Gram(G), lambda F, G: gram(F) @ gram(G), F, G)


@register
def jacobian_transposed_jacobian(s: Setting) -> Case:
    J = s.normal(s.N, s.p)
    op = of.Matrix(J)
    return Case(op.T @ op, lambda J: J.T @ J, J, psd=True)


@register
def power(s: Setting) -> Case:
    A = s.normal(s.p, s.p)
    return Case(of.Matrix(A) ** 3, lambda A: A @ A @ A, A)


@register
def scaled(s: Setting) -> Case:
    A, c = s.normal(s.N, s.p), s.scalar()
    return Case(c * of.Matrix(A), lambda A, c: c * A, A, c)


@register
def scaled_gram(s: Setting) -> Case:
    F, c = s.normal(s.N, s.p), s.scalar()
    return Case(c * of.Gram(F), lambda F, c: c * gram(F), F, c, psd=c >= 0, symmetric=True)


@register
def scaled_sum(s: Setting) -> Case:
    A, B, c = s.normal(s.N, s.p), s.normal(s.N, s.p), s.scalar()
    return Case(-(of.Matrix(A) + B) * c, lambda A, B, c: c * (A + B), A, B, -c)


@register
def adjoint(s: Setting) -> Case:
    A = s.normal(s.N, s.p)
    return Case(of.Matrix(A).T, lambda A: A.T, A)


@register
def adjoint_of_external(s: Setting) -> Case:
    A = s.normal(s.N, s.p)
    return Case(of.as_operator(Foreign(A)).H, lambda A: A.T, A)


@register
def adjoint_of_expression(s: Setting) -> Case:
    A, B, c = s.normal(s.N, s.p), s.normal(s.p, s.q), s.scalar()
    op = (c * (of.Matrix(A) @ of.Matrix(B))).T
    return Case(op, lambda A, B, c: c * (A @ B).T, A, B, c)


@register
def cast(s: Setting) -> Case:
    A = s.normal(s.N, s.p).astype(np.float32)
    return Case(of.Matrix(A).astype(np.float64), lambda A: A, A)


@register
def cast_gram(s: Setting) -> Case:
    F = s.normal(s.N, s.p).astype(np.float32)
    return Case(of.Gram(F).astype(np.float64), gram, F, psd=True)


@register
def side_by_side(s: Setting) -> Case:
    A, B, C = s.normal(s.N, s.p), s.normal(s.N, s.q), s.sparse(s.N, s.k)
    op = of.HStack([of.Matrix(A), of.Matrix(B), of.Matrix(C)])
    return Case(op, lambda A, B, C: np.hstack([A, B, C]), A, B, C)


@register
def upright(s: Setting) -> Case:
    A, B, C = s.normal(s.N, s.p), s.normal(s.q, s.p), s.sparse(s.k, s.p)
    op = of.VStack([of.Matrix(A), of.Matrix(B), of.Matrix(C)])
    return Case(op, lambda A, B, C: np.vstack([A, B, C]), A, B, C)


@register
def output_trace(s: Setting) -> Case:
    A, B, C = s.normal(s.N * s.k, s.p), s.normal(s.N, s.q), s.normal(s.N * s.k, s.q)
    op = of_outputs(of.HStack([of.KhatriRao(A, B), of.Matrix(C)]), s.k, "trace")
    return Case(op, lambda *parts: traced(s.k, *parts), A, B, C)


def traced(k: int, A: np.ndarray, B: np.ndarray, C: np.ndarray) -> np.ndarray:
    J = np.hstack([face_split(A, B), C])
    return J.reshape(len(B), -1) if k == 1 else J.reshape(len(B), k * J.shape[1])


@register
def one_output(s: Setting) -> Case:
    A, B, C = s.normal(s.N * s.k, s.p), s.normal(s.N, s.q), s.normal(s.N * s.k, s.q)
    op = of_outputs(of.VStack([of.HStack([2.0 * of.KhatriRao(A, B), of.Matrix(C)])]), s.k, s.k - 1)
    return Case(
        op, lambda A, B, C: np.hstack([2 * face_split(A, B), C])[s.k - 1 :: s.k], A, B, C
    )  # fmt: skip


# -- Grams ------------------------------------------------------------------------------------


@register
def gram_dense(s: Setting) -> Case:
    F = s.normal(s.N, s.p)
    return Case(of.Gram(F), gram, F, psd=True)


@register
def gram_weighted(s: Setting) -> Case:
    F, w = s.normal(s.N, s.p), abs(s.normal(s.p))
    return Case(of.Gram(F, weights=w), weighted_gram, F, w, psd=True)


@register
def gram_indefinite(s: Setting) -> Case:
    F, w = s.normal(s.N, s.p), s.normal(s.p)
    return Case(of.Gram(F, w), weighted_gram, F, w, symmetric=True)


@register
def gram_sparse(s: Setting) -> Case:
    F, w = s.sparse(s.N, s.p), abs(s.normal(s.p))
    return Case(of.Gram(F, w), weighted_gram, F, w, psd=True)


@register
def gram_packed(s: Setting) -> Case:
    g, w = s.gates(s.N, 3 * s.p), s.normal(3 * s.p) ** 2
    return Case(of.Gram(of.PackedGates(g), w), weighted_gram, g, w, psd=True)


@register
def gram_pylops(s: Setting) -> Case:
    F, w = s.normal(s.N, s.p), s.normal(s.p)
    return Case(of.Gram(Foreign(F), w), weighted_gram, F, w, symmetric=True)


@register
def gram_of_jacobian(s: Setting) -> Case:
    F, A, B = s.normal(s.N, s.p), s.normal(s.N, s.q), s.normal(s.N, s.p)
    op = of.Gram(of.HStack([of.Matrix(F), of.KhatriRao(A, B)]))
    return Case(op, lambda F, A, B: gram(F) + gram(A) * gram(B), F, A, B, psd=True)


@register
def gram_of_jacobian_weighted(s: Setting) -> Case:
    F, G, w = s.normal(s.N, s.p), s.sparse(s.N, s.q), s.normal(s.p + s.q)
    op = of.Gram(of.HStack([of.Matrix(F), of.Matrix(G)]), w)
    return Case(op, lambda F, G, w: weighted_gram(np.hstack([F, G]), w), F, G, w, symmetric=True)


@register
def gram_of_upright(s: Setting) -> Case:
    F, G = s.normal(s.N, s.p), s.normal(s.q, s.p)
    op = of.Gram(of.VStack([of.Matrix(F), of.Matrix(G)]))
    return Case(op, lambda F, G: gram(np.vstack([F, G])), F, G, psd=True)


@register
def gram_of_output_trace(s: Setting) -> Case:
    A, B, C = s.normal(s.N * s.k, s.p), s.normal(s.N, s.q), s.normal(s.N * s.k, s.q)
    op = of.Gram(of_outputs(of.HStack([of.KhatriRao(A, B), of.Matrix(C)]), s.k, "trace"))
    return Case(op, lambda *parts: gram(traced(s.k, *parts)), A, B, C, psd=True)


@register
def gram_of_summed_outputs(s: Setting) -> Case:
    A, B = s.normal(s.N * s.k, s.p), s.normal(s.N, s.q)
    op = of.Gram(of_outputs(of.KhatriRao(A, B), s.k, "sum"))

    def summed(A: np.ndarray, B: np.ndarray) -> np.ndarray:
        return gram(face_split(A, B).reshape(len(B), s.k, -1).sum(axis=1))

    return Case(op, summed, A, B, psd=True)


def gram_moving(F: np.ndarray, dF: np.ndarray) -> np.ndarray:
    return dF @ F.T + F @ dF.T


@register
def gram_velocity(s: Setting) -> Case:
    F, dF = s.normal(s.N, s.p), s.normal(s.N, s.p)
    return Case(of.GramVelocity(F, dF), gram_moving, F, dF, symmetric=True)


@register
def gram_velocity_sparse(s: Setting) -> Case:
    F, dF = s.sparse(s.N, s.p), s.sparse(s.N, s.p)
    return Case(of.GramVelocity(F, dF), gram_moving, F, dF, symmetric=True)


@register
def gram_velocity_of_columns(s: Setting) -> Case:
    F, dF = s.normal(s.N, s.p), s.normal(s.N, s.p)
    op = of.GramVelocity(of.Matrix(F).T, of.Matrix(dF).T)
    return Case(op, lambda F, dF: gram_moving(F.T, dF.T), F, dF, symmetric=True)


@register
def gram_velocity_of_jacobian(s: Setting) -> Case:
    A, dA = s.normal(s.N * s.k, s.p), s.normal(s.N * s.k, s.p)
    B, dB = s.normal(s.N, s.q), s.normal(s.N, s.q)
    moving = of.KhatriRao(dA, B) + of.KhatriRao(A, dB)
    return Case(
        of.GramVelocity(of.KhatriRao(A, B), moving),
        lambda A, dA, B, dB: gram_moving(face_split(A, B), face_split(dA, B) + face_split(A, dB)),
        A, dA, B, dB, symmetric=True,
    )  # fmt: skip


@register
def gram_velocity_of_sparse_jacobian(s: Setting) -> Case:
    A, dA, B = s.normal(s.N * s.k, s.p), s.normal(s.N * s.k, s.p), s.sparse(s.N, s.q)
    op = of.GramVelocity(of.KhatriRao(A, B), of.KhatriRao(dA, B))
    return Case(
        op, lambda A, dA, B: gram_moving(face_split(A, B), face_split(dA, B)), A, dA, B,
        symmetric=True,
    )  # fmt: skip


@register
def gram_velocity_of_unlike_factors(s: Setting) -> Case:
    A, B, dF = s.normal(s.N, s.p), s.normal(s.N, s.q), s.normal(s.N, s.p * s.q)
    op = of.GramVelocity(of.KhatriRao(A, B), dF)
    return Case(
        op, lambda A, B, dF: gram_moving(face_split(A, B), dF), A, B, dF, symmetric=True
    )  # fmt: skip


class OnDisk:
    """Rows that are read by slices and increasing indices only, and copied out."""

    def __init__(self, data: np.ndarray) -> None:
        self._data, self.shape, self.dtype = data, data.shape, data.dtype

    def __getitem__(self, index):
        if not isinstance(index, slice):
            assert (np.diff(index) > 0).all()
        return self._data[index].copy()


@register
def row_matrix(s: Setting) -> Case:
    F = s.normal(s.N, s.p)
    return Case(of.RowMatrix(OnDisk(F)), lambda F: F, F)


@register
def gram_of_rows(s: Setting) -> Case:
    F = s.normal(s.N, s.p)
    return Case(of.Gram(of.RowMatrix(OnDisk(F))), gram, F, psd=True)


@register
def jacobian_of_rows(s: Setting) -> Case:
    A, B = s.normal(s.N * s.k, s.p), s.normal(s.N, s.q)
    return Case(of.KhatriRao(A, of.RowMatrix(OnDisk(B))), face_split, A, B)


def kernel_function(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    return (A @ B.T) ** 2


@register
def function_gram(s: Setting) -> Case:
    X = s.normal(s.N, s.p)
    return Case(of.FunctionGram(kernel_function, X), lambda X: gram(X) ** 2, X, psd=True)


@register
def function_gram_of_two(s: Setting) -> Case:
    X, Y = s.normal(s.N, s.p), s.normal(s.q, s.p)
    return Case(of.FunctionGram(kernel_function, X, Y), lambda X, Y: (X @ Y.T) ** 2, X, Y)


@register
def cross_gram(s: Setting) -> Case:
    F, G = s.normal(s.N, s.p), s.normal(s.q, s.p)
    return Case(of.CrossGram(F, G), lambda F, G: F @ G.T, F, G)


@register
def cross_gram_of_jacobians(s: Setting) -> Case:
    A, B = s.normal(s.N * s.k, s.p), s.normal(s.N, s.q)
    C, D = s.normal(3 * s.k, s.p), s.normal(3, s.q)
    E, G = s.normal(s.N * s.k, s.p), s.normal(3 * s.k, s.p)
    op = of.CrossGram(
        of.HStack([2.0 * of.KhatriRao(A, B), of.Matrix(E)]),
        of.HStack([0.5 * of.KhatriRao(C, D), of.Matrix(G)]),
    )
    return Case(
        op, lambda A, B, C, D, E, G: face_split(A, B) @ face_split(C, D).T + E @ G.T,
        A, B, C, D, E, G,
    )  # fmt: skip


@register
def coactivation(s: Setting) -> Case:
    g = s.gates(s.N, 3 * s.p)
    return Case(of.CoActivation(g, dtype=s.dtype), gram, g, psd=True)


@register
def coactivation_weighted(s: Setting) -> Case:
    g, w = s.gates(s.N, 3 * s.p), s.normal(3 * s.p) ** 2
    return Case(of.CoActivation(g, w), weighted_gram, g, w, psd=True)


@register
def coactivation_of_slopes(s: Setting) -> Case:
    g, w = s.gates(s.N, 3 * s.p), s.normal(3 * s.p) ** 2
    op = of.CoActivation(g, w, slope=0.25)
    return Case(op, lambda g, w: weighted_gram(slopes(g), w), g, w, psd=True)


@register
def weight_gram_of_slopes(s: Setting) -> Case:
    W, g, h = s.normal(s.N, s.p), s.gates(s.N), s.gates(s.N)
    op = of.WeightGram(W, g, h, slope=-1)

    def dense(W, g, h, slope):
        return W.T @ np.diag(slopes(g, slope) * slopes(h, slope)) @ W

    return Case(op, dense, W, g, h, -1.0, symmetric=True)


@register
def weight_gram(s: Setting) -> Case:
    W, g = s.normal(s.N, s.p), s.gates(s.N)
    return Case(of.WeightGram(W, g), lambda W, g: W.T @ np.diag(g) @ W, W, g, psd=True)


@register
def weight_gram_of_two_samples(s: Setting) -> Case:
    W, g, h = s.normal(s.N, s.p), s.gates(s.N), s.gates(s.N)
    op = of.WeightGram(W, g, h)
    return Case(op, lambda W, g, h: W.T @ np.diag(g) @ np.diag(h) @ W, W, g, h, psd=True)


# -- Khatri–Rao and Hadamard ------------------------------------------------------------------


@register
def khatri_rao(s: Setting) -> Case:
    A, B = s.normal(s.N, s.p), s.normal(s.N, s.q)
    return Case(of.KhatriRao(A, B), face_split, A, B)


@register
def khatri_rao_outputs(s: Setting) -> Case:
    A, B = s.normal(s.N, s.k, s.p), s.normal(s.N, s.q)
    return Case(of.KhatriRao(A, B), lambda A, B: face_split(A.reshape(-1, s.p), B), A, B)


@register
def khatri_rao_sparse_left(s: Setting) -> Case:
    A, B = s.sparse(s.N, s.p), s.normal(s.N, s.q)
    return Case(of.KhatriRao(A, B), face_split, A, B)


@register
def khatri_rao_sparse_right(s: Setting) -> Case:
    A, B = s.normal(s.N * s.k, s.p), s.sparse(s.N, s.q)
    return Case(of.KhatriRao(A, B), face_split, A, B)


@register
def khatri_rao_gates(s: Setting) -> Case:
    A, g = s.normal(s.N, s.p), s.gates(s.N, s.q)
    return Case(of.KhatriRao(A, of.PackedGates(g)), face_split, A, g)


def by_output(a):
    """``a ⊗ I`` of three outputs, its columns in the order of V."""
    return np.einsum("nj,pq->npqj", a, np.eye(3)).reshape(3 * len(a), -1)


@register
def readout_jacobian(s: Setting) -> Case:
    a = s.normal(s.N, s.p)
    return Case(ReadoutJacobian(of.Matrix(a), 3), by_output, a)


@register
def gram_of_readout_jacobian(s: Setting) -> Case:
    a = s.normal(s.N, s.p)
    op = of.Gram(ReadoutJacobian(of.Matrix(a), 3))
    return Case(op, lambda a: gram(by_output(a)), a, psd=True)


@register
def khatri_rao_scaled_slopes(s: Setting) -> Case:
    g, v, B = s.gates(s.N, 4 * s.p), s.normal(4 * s.p), s.normal(s.N, s.q)
    op = of.KhatriRao(of.ScaledGates(of.PackedGates(g, slope=0.25), v), B)
    return Case(op, lambda g, v, B: face_split(slopes(g) * v, B), g, v, B)


@register
def khatri_rao_scaled_gates(s: Setting) -> Case:
    g, v, B = s.gates(s.N, 4 * s.p), s.normal(4 * s.p), s.normal(s.N, s.q)
    return Case(
        of.KhatriRao(of.ScaledGates(g, v), B), lambda g, v, B: face_split(g * v, B), g, v, B
    )


@register
def khatri_rao_pylops_left(s: Setting) -> Case:
    A, B = s.normal(s.N * s.k, s.p), s.normal(s.N, s.q)
    return Case(of.KhatriRao(Foreign(A), B), face_split, A, B)


@register
def khatri_rao_pylops_right(s: Setting) -> Case:
    A, B = s.normal(s.N * s.k, s.p), s.normal(s.N, s.q)
    return Case(of.KhatriRao(A, Foreign(B)), face_split, A, B)


@register
def khatri_rao_nested(s: Setting) -> Case:
    A, B, C = s.normal(s.N, s.p), s.normal(s.N, s.q), s.normal(s.N, s.k)
    op = of.KhatriRao(of.KhatriRao(A, B), C)
    return Case(op, lambda A, B, C: face_split(face_split(A, B), C), A, B, C)


@register
def hadamard_grams(s: Setting) -> Case:
    A, B = s.normal(s.N, s.p), s.normal(s.N, s.q)
    op = of.Hadamard(of.Gram(A), of.Gram(B))
    return Case(op, lambda A, B: gram(A) * gram(B), A, B, psd=True)


@register
def hadamard_outputs(s: Setting) -> Case:
    A, B = s.normal(s.N * s.k, s.p), s.normal(s.N, s.q)
    op = of.Gram(of.KhatriRao(A, B))
    repeated = lambda B: np.repeat(B, s.k, axis=0)  # noqa: E731
    return Case(op, lambda A, B: gram(A) * gram(repeated(B)), A, B, psd=True)


def repeated_entries(G: np.ndarray, k: int) -> np.ndarray:
    return np.kron(G, np.ones((k, k)))


@register
def gram_side(s: Setting) -> Case:
    A, G = s.normal(s.N, s.p), s.normal(s.N, s.N)
    G = G + G.T
    op = of.GramSide(A, of.Matrix(G, symmetric=True))
    return Case(op, lambda A, G: gram(A) * G, A, G, symmetric=True)


@register
def gram_side_outputs(s: Setting) -> Case:
    A, F = s.normal(s.N, s.k, s.p), s.normal(s.N, s.q)
    op = of.GramSide(A, of.Gram(F))
    reference = lambda A, F: gram(A.reshape(-1, s.p)) * repeated_entries(gram(F), s.k)  # noqa: E731
    return Case(op, reference, A, F, psd=True)


@register
def gram_side_sparse(s: Setting) -> Case:
    A, F = s.sparse(s.N * s.k, s.p), s.normal(s.N, s.q)
    op = of.materialise(2 * of.Gram(of.KhatriRao(A, F)), how="gram")
    reference = lambda A, F, c: c * gram(A) * repeated_entries(gram(F), s.k)  # noqa: E731
    return Case(op, reference, A, F, 2.0, psd=True)


@register
def hadamard_weighted(s: Setting) -> Case:
    A, g = s.normal(s.N, s.p), s.gates(s.N, s.q)
    w, u = s.normal(s.p), s.normal(s.q)
    op = of.Hadamard(of.Gram(A, w), of.CoActivation(g, u))
    reference = lambda A, g, w, u: weighted_gram(A, w) * weighted_gram(g, u)  # noqa: E731
    return Case(op, reference, A, g, w, u, symmetric=True)


@register
def hadamard_weighted_outputs(s: Setting) -> Case:
    A, B, w = s.normal(s.N * s.k, s.p), s.normal(s.N, s.q), s.normal(s.p * s.q)
    op = of.Gram(of.KhatriRao(A, B), w)
    return Case(op, lambda A, B, w: weighted_gram(face_split(A, B), w), A, B, w, symmetric=True)


@register
def hadamard_three(s: Setting) -> Case:
    A, B, C = s.normal(s.N, s.p), s.normal(s.N, s.q), s.gates(s.N, 2)
    op = of.Hadamard(of.Gram(A), of.Gram(B), of.CoActivation(C))
    return Case(op, lambda A, B, C: gram(A) * gram(B) * gram(C), A, B, C, psd=True)


@register
def hadamard_of_sum(s: Setting) -> Case:
    A, B, C, c = s.normal(s.N, s.p), s.normal(s.N, s.q), s.normal(s.N, s.k), abs(s.scalar())
    op = of.Hadamard(c * of.Gram(A) + of.Gram(B), of.Gram(C))
    return Case(op, lambda A, B, C, c: (c * gram(A) + gram(B)) * gram(C), A, B, C, c, psd=True)


@register
def hadamard_tiled(s: Setting) -> Case:
    A, B = s.normal(s.N, s.q), s.normal(s.N, s.q)
    return Case(of.Hadamard(of.Matrix(A), B), lambda A, B: A * B, A, B)


@register
def hadamard_tiled_symmetric(s: Setting) -> Case:
    A, F = s.normal(s.N, s.N), s.normal(s.N, s.p)
    A = A + A.T
    op = of.Hadamard(of.Matrix(A, symmetric=True), of.Gram(F))
    return Case(op, lambda A, F: A * gram(F), A, F, symmetric=True)


@register
def hadamard_without_rows(s: Setting) -> Case:
    A, B, c = s.normal(s.N, s.p), s.normal(s.N, s.p), s.scalar()
    return Case(of.Hadamard(c * of.as_operator(Foreign(A)), B), lambda A, B, c: c * A * B, A, B, c)


# -- recursions, lifts, evaluation ------------------------------------------------------------


@register
def pullback(s: Setting) -> Case:
    B, W, g = s.normal(s.N, s.p), s.normal(s.N, s.q), s.gates(s.N)
    op = of.pullback(of.Gram(B), of.Mask(g) @ of.Weight(W))
    return Case(op, lambda B, W, g: (W.T * g) @ gram(B) @ (W.T * g).T, B, W, g, psd=True)


@register
def pullback_of_two_samples(s: Setting) -> Case:
    B, W, g, h = s.normal(s.N, s.p), s.normal(s.N, s.q), s.gates(s.N), s.gates(s.N)
    W_ = of.Weight(W)
    op = of.pullback(of.Gram(B), of.Mask(g) @ W_, of.Mask(h) @ W_)
    return Case(op, lambda B, W, g, h: (W.T * g) @ gram(B) @ (W.T * h).T, B, W, g, h)


@register
def pushforward(s: Setting) -> Case:
    W, g = s.normal(s.N, s.p), s.gates(s.p)
    op = of.pushforward(of.Identity(s.p), of.Weight(W) @ of.Mask(g))
    return Case(op, lambda W, g: (W * g) @ (W * g).T, W, g, psd=True)


@register
def pushforward_of_two_samples(s: Setting) -> Case:
    B, W, g, h = s.normal(s.p, s.q), s.normal(s.N, s.p), s.gates(s.p), s.gates(s.p)
    W_ = of.Weight(W)
    op = of.pushforward(of.Gram(B), W_ @ of.Mask(g), W_ @ of.Mask(h))
    return Case(op, lambda B, W, g, h: (W * g) @ gram(B) @ (W * h).T, B, W, g, h)


@register
def sample_lift(s: Setting) -> Case:
    W = s.normal(s.q, s.p)
    return Case(of.SampleLift(W, s.N), lambda W: np.kron(np.eye(s.N), W), W)


@register
def sample_lift_of_gram(s: Setting) -> Case:
    F = s.normal(s.q, s.p)
    op = of.SampleLift(of.Gram(F), s.k)
    return Case(op, lambda F: np.kron(np.eye(s.k), gram(F)), F, psd=True)


@register
def feature_lift(s: Setting) -> Case:
    A = s.normal(s.N, s.q)
    return Case(of.FeatureLift(A, s.p), lambda A: np.kron(A, np.eye(s.p)), A)


@register
def kronecker(s: Setting) -> Case:
    A, B = s.normal(s.N, s.q), s.normal(s.p, s.k)
    return Case(of.Kronecker((A, B)), np.kron, A, B)


@register
def kronecker_blocks(s: Setting) -> Case:
    A, B, C = s.normal(s.N, s.q), s.sparse(s.p, s.k), s.normal(s.k, s.k)
    op = of.Kronecker((A, of.Matrix(B)), (of.Identity(s.p), C))

    def dense(A, B, C):
        return scipy.linalg.block_diag(np.kron(A, B), np.kron(np.eye(s.p), C))

    return Case(op, dense, A, B, C)


@register
def kronecker_blocks_of_grams(s: Setting) -> Case:
    F, G = s.normal(s.p, s.q), s.normal(s.k, s.N)
    op = of.Kronecker((of.Gram(F), of.Gram(G)), (of.Gram(G), of.Identity(s.q)))

    def dense(F, G):
        return scipy.linalg.block_diag(np.kron(gram(F), gram(G)), np.kron(gram(G), np.eye(s.q)))

    return Case(op, dense, F, G, psd=True)


@register
def kronecker_factored_curvature(s: Setting) -> Case:
    phi, a, scale = s.normal(s.N * s.k, s.p), s.normal(s.N, s.q), s.scalar()
    op = of.kfac(
        of.HStack(
            [scale * of.KhatriRao(phi, a), of.Matrix(phi), ReadoutJacobian(of.Matrix(a), s.k)]
        )
    )

    def dense(phi, a, scale, mean):
        Phi, A = scale**2 * gram(phi.T), gram(a.T)
        own = np.kron(np.eye(s.k), A)
        return scipy.linalg.block_diag(mean * np.kron(Phi, A), gram(phi.T), own)

    return Case(op, dense, phi, a, scale, 1 / s.N, psd=True)


@register
def hessian_of_two_layers(s: Setting) -> Case:
    X, W, V, y = s.normal(s.N, s.p), s.normal(s.q, s.p), s.normal(s.k, s.q), s.normal(s.N, s.k)
    fields = of.ReLUNetwork([W], V, readout_rate=1.0).fields(X)

    def dense(X, W, V, y, gates, sign):
        a = gates * (X @ W.T)
        r = a @ V.T + sign * y
        phi = gates[:, None, :] * V
        inner = np.einsum("mki,mj->mkij", phi, X).reshape(s.N * s.k, -1)
        outer = np.kron(a[:, None, :], np.eye(s.k)[:, :, None]).reshape(s.N * s.k, -1)
        J = np.concatenate([inner, outer], axis=1)
        mixed = np.einsum("mk,mi,mj,il->ijkl", r, gates, X, np.eye(s.q))
        mixed = mixed.reshape(W.size, V.size)
        own, top = np.zeros((W.size, W.size)), np.zeros((V.size, V.size))
        return J.T @ J + np.block([[own, mixed], [mixed.T, top]])

    leaves = (X, W, V, y, fields.gates[0], -1.0)
    return Case(of.hessian(fields, y), dense, *leaves, symmetric=True)


@register
def feature_lift_of_gram(s: Setting) -> Case:
    F = s.normal(s.N, s.p)
    op = of.FeatureLift(of.Gram(F), s.k)
    return Case(op, lambda F: np.kron(gram(F), np.eye(s.k)), F, psd=True)


@register
def tiled(s: Setting) -> Case:
    A, B = s.normal(s.N, s.p), s.normal(s.N, s.q)
    op = of.Tiled(of.Hadamard(of.Gram(A), of.Gram(B)))
    return Case(op, lambda A, B: gram(A) * gram(B), A, B, psd=True)


@register
def tiled_rectangular(s: Setting) -> Case:
    A, B = s.normal(s.N, s.p), s.normal(s.N, s.q)
    return Case(of.Tiled(of.KhatriRao(A, B)), face_split, A, B)


@register
def materialised(s: Setting) -> Case:
    A, B = s.normal(s.N, s.p), s.normal(s.N, s.q)
    op = of.materialise(of.Hadamard(of.Gram(A), of.Gram(B)), how="dense")
    return Case(op, lambda A, B: gram(A) * gram(B), A, B, psd=True)


@register
def packed_symmetric(s: Setting) -> Case:
    A, w = s.normal(s.N, s.p), s.normal(s.p)
    op = of.materialise(of.Gram(A, w), how="packed")
    return Case(op, weighted_gram, A, w, symmetric=True)


@register
def packed_symmetric_of_several_blocks(s: Setting) -> Case:
    A = s.normal(130 + s.N, s.p)
    return Case(of.materialise(of.Gram(A), how="packed"), gram, A, psd=True)


# -- preconditioners --------------------------------------------------------------------------


@register
def nystrom(s: Setting) -> Case:
    U = xp.linalg.qr(s.normal(s.N, min(s.N, s.p)))[0]
    w = xp.asarray(-s.rng.random(U.shape[1]).astype(s.dtype))
    reference = lambda U, w, one: one * np.eye(s.N) + weighted_gram(U, w)  # noqa: E731
    return Case(Nystrom(U, w), reference, U, w, 1.0, psd=True)


@register
def jacobi(s: Setting) -> Case:
    d = abs(s.normal(s.N))
    return Case(Jacobi(d), lambda d: np.diag(d), d, psd=True)


@register
def inverse(s: Setting) -> Case:
    d = abs(s.normal(s.N))
    op = Inverse(of.Gram(xp.diag(d)), shift=1.0, preconditioner="jacobi", how="iterative")
    return Case(op, lambda v: np.diag(v), 1 / (1 + d.astype(np.float64) ** 2), psd=True)


# -- checks -----------------------------------------------------------------------------------


@check
def equals_its_dense_reference(case: Case, rng: np.random.Generator) -> None:
    assert case.op.shape == case.A.shape
    case.close(case.op.todense(), case.A, case.bound)
    case.close(case.op.T.todense(), case.A.T, case.bound.T)


@check
def multiplies_vectors(case: Case, rng: np.random.Generator) -> None:
    m, n = case.op.shape
    x, y = case.random(rng, n), case.random(rng, m)
    case.close(case.op @ x, case.A @ x, case.bound @ abs(x))
    case.close(case.op.T @ y, case.A.T @ y, case.bound.T @ abs(y))
    case.close(case.op.H @ y, case.A.T @ y, case.bound.T @ abs(y))
    case.close(case.op.rmatvec(y[:, None])[:, 0], case.A.T @ y, case.bound.T @ abs(y))


@check
def multiplies_blocks(case: Case, rng: np.random.Generator) -> None:
    m, n = case.op.shape
    for columns in (1, 3):
        X, Y = case.random(rng, n, columns), case.random(rng, m, columns)
        case.close(case.op @ X, case.A @ X, case.bound @ abs(X))
        case.close(case.op.T @ Y, case.A.T @ Y, case.bound.T @ abs(Y))
        F = xp.asfortranarray(X)[::-1]
        case.close(case.op @ F, case.A @ F, case.bound @ abs(F))
    assert (case.op @ xp.zeros((n, 0))).shape == (m, 0)
    assert (case.op.T @ xp.zeros((m, 0))).shape == (n, 0)


@check
def maps_fields_to_fields(case: Case, rng: np.random.Generator) -> None:
    op, n = case.op, case.op.shape[1]
    x = case.random(rng, *op.dims)
    want, bound = case.A @ x.ravel(), case.bound @ abs(x.ravel())
    if x.ndim == 1 or len(x) == n:  # a vector, or a block of one: not a field
        case.close(
            op @ x, want.reshape(-1, *[1] * (x.ndim - 1)), bound.reshape(-1, *[1] * (x.ndim - 1))
        )
    else:
        case.close(op @ x, want.reshape(op.dimsd), bound.reshape(op.dimsd))


@check
def passes_the_dot_test(case: Case, rng: np.random.Generator) -> None:
    m, n = case.op.shape
    x, y = case.random(rng, n), case.random(rng, m)
    forward, backward = y @ (case.op @ x), x @ (case.op.T @ y)
    case.close(forward, backward, abs(y) @ case.bound @ abs(x), factor=2)


@check
def is_linear(case: Case, rng: np.random.Generator) -> None:
    n = case.op.shape[1]
    x, z = case.random(rng, n), case.random(rng, n)
    c = case.op.dtype.type(-1.7)
    got, want = case.op @ (x + c * z), case.op @ x + c * (case.op @ z)
    case.close(got, want, case.bound @ (abs(x) + abs(c) * abs(z)), factor=2)


@check
def block_product_is_its_columns(case: Case, rng: np.random.Generator) -> None:
    m, n = case.op.shape
    X, Y = case.random(rng, n, 3), case.random(rng, m, 3)
    columns = xp.stack([case.op @ x for x in X.T], axis=1)
    case.close(case.op @ X, columns, case.bound @ abs(X), factor=2)
    columns = xp.stack([case.op.T @ y for y in Y.T], axis=1)
    case.close(case.op.T @ Y, columns, case.bound.T @ abs(Y), factor=2)


@check
def products_leave_the_operand_alone(case: Case, rng: np.random.Generator) -> None:
    m, n = case.op.shape
    for op, size in ((case.op, n), (case.op.T, m)):
        X = case.random(rng, size, 2)
        before, out = X.copy(), op @ X
        out += 1  # and the result is the caller's own
        assert (before == X).all()
        case.close(op @ X + 1, out, abs(out) + 1, factor=2)


@check
def tags_are_true(case: Case, rng: np.random.Generator) -> None:
    op, dense, bound = case.op, to_host(case.A), to_host(case.bound)
    if op.symmetric:
        case.close(dense, dense.T, bound)
    if op.psd:
        assert op.symmetric
        floor = np.finfo(op.dtype).eps * case.size * np.linalg.norm(bound)
        assert np.linalg.eigvalsh((dense + dense.T) / 2).min() >= -floor
    for tag, expected in case.exact_tags.items():
        assert getattr(op, tag) == expected, f"{tag} is {getattr(op, tag)}"
    assert op.T.psd == op.psd
    assert op.T.symmetric == op.symmetric
    if op.psd:
        assert (2 * op).psd
        assert not (-op).psd or isinstance(op, of.Zero)  # its own negative
        assert (-op).symmetric


@check
def keeps_the_dtype(case: Case, rng: np.random.Generator) -> None:
    op, (m, n) = case.op, case.op.shape
    dtype = op.dtype
    assert (op @ case.random(rng, n)).dtype == dtype
    assert (op.T @ case.random(rng, m)).dtype == dtype
    assert (op @ case.random(rng, n, 2)).dtype == dtype
    assert (op.T @ case.random(rng, m, 2)).dtype == dtype
    assert op.todense().dtype == dtype
    assert op.block([0], slice(0, 1)).dtype == dtype
    assert op.rows(slice(0, 1)).dtype == dtype
    if m == n:
        assert op.diagonal().dtype == dtype
        assert op.trace().dtype == dtype


@check
def computes_wider_operands_in_their_dtype(case: Case, rng: np.random.Generator) -> None:
    m, n = case.op.shape
    X, Y = (xp.asarray(rng.standard_normal((size, 2))) for size in (n, m))
    assert (case.op @ X).dtype == (case.op.T @ Y).dtype == np.float64
    case.close(case.op @ X, case.A @ X, case.bound @ abs(X))
    case.close(case.op.T @ Y, case.A.T @ Y, case.bound.T @ abs(Y))


@check
def survives_pickle(case: Case, rng: np.random.Generator) -> None:
    copy = pickle.loads(pickle.dumps(case.op))
    x, y = case.random(rng, case.op.shape[1]), case.random(rng, case.op.shape[0])
    assert type(copy) is type(case.op)
    assert (copy.dtype, copy.psd, copy.symmetric) == (case.op.dtype, case.op.psd, case.op.symmetric)
    case.close(copy @ x, case.op @ x, case.bound @ abs(x), factor=2)
    case.close(copy.T @ y, case.op.T @ y, case.bound.T @ abs(y), factor=2)
    assert str(of.describe(copy)) == str(of.describe(case.op))


def picked(size: int, index: object) -> np.ndarray:
    index = index if isinstance(index, slice) else to_host(index)
    if not isinstance(index, slice) and index.size == 0:
        return np.arange(0)
    return np.arange(size)[index]


def indices(size: int, rng: np.random.Generator) -> list:
    return [
        slice(None),
        slice(1, None),
        slice(None, None, 2),
        slice(None, None, -1),
        slice(-1, None),
        slice(0, 0),
        rng.integers(0, size, 4),
        xp.asarray(rng.integers(-size, size, 3)),
        [-1, 0, -size],
        rng.random(size) < 0.5,
        [],
    ]


@check
def gives_sub_blocks(case: Case, rng: np.random.Generator) -> None:
    (m, n), A, bound = case.op.shape, to_host(case.A), to_host(case.bound)
    for rows in indices(m, rng):
        for cols in indices(n, rng):
            r, c = picked(m, rows), picked(n, cols)
            want = np.ix_(r, c)
            case.close(case.op.block(rows, cols), A[want], bound[want])


@check
def a_sub_block_can_be_written_to(case: Case, rng: np.random.Generator) -> None:
    op, every = case.op, slice(None)
    before = op.todense()
    for block in (
        op.todense(),
        op.block(every, every),
        op.block(slice(0, 1), every),
        op.block(every, slice(0, 1)),
        op.T.block(slice(None, None, -1), every),
        *([op.diagonal()] if len(set(case.A.shape)) == 1 else []),
    ):
        block += 1
    for rows in (op.rows(every), op.T.rows(slice(0, 1))):
        if xp is np and rows.flags.writeable:
            rows += 1
    assert (op.todense() == before).all()


@check
def its_squares_have_their_diagonal(case: Case, rng: np.random.Generator) -> None:
    op, A, bound = case.op, case.A, case.bound
    for square, axis in ((op.T @ op, 0), (op @ op.T, 1)):
        case.close(square.diagonal(), (A**2).sum(axis), (bound**2).sum(axis), factor=2)
        case.close(square.trace(), (A**2).sum(), (bound**2).sum(), factor=2)


@check
def gives_diagonal_and_trace(case: Case, rng: np.random.Generator) -> None:
    m, n = case.op.shape
    if m != n:
        with pytest.raises(ValueError, match=f"square.*{m}, {n}"):
            case.op.diagonal()
        return
    case.close(case.op.diagonal(), case.A.diagonal(), case.bound.diagonal())
    case.close(case.op.trace(), case.A.trace(), case.bound.trace())


@check
def converts_to_scipy(case: Case, rng: np.random.Generator) -> None:
    m, n = case.op.shape
    S = case.op.to_scipy()
    X, Y = case.random(rng, n, 2), case.random(rng, m, 2)
    assert isinstance(S, spla.LinearOperator)
    assert S.dtype == case.op.dtype
    case.close(S @ X[:, 0], case.A @ X[:, 0], case.bound @ abs(X[:, 0]))
    case.close(S.H @ Y[:, 0], case.A.T @ Y[:, 0], case.bound.T @ abs(Y[:, 0]))
    case.close(S @ X, case.A @ X, case.bound @ abs(X))
    case.close(S.H @ Y, case.A.T @ Y, case.bound.T @ abs(Y))


@check
def composes_with_pylops(case: Case, rng: np.random.Generator) -> None:
    op, (m, n) = case.op, case.op.shape
    L, R, T = case.random(rng, 2, m), case.random(rng, n, 2), case.random(rng, m, n)
    # PyLops gives what it composes a field shape from `dims`; matvec always maps vectors.
    left, right, term = (pylops.MatrixMult(M, dtype=op.dtype) for M in (L, R, T))
    x, y, z = case.random(rng, n), case.random(rng, m), case.random(rng, 2)
    A, b = case.A, case.bound
    case.close((left @ op).matvec(x), L @ (A @ x), abs(L) @ b @ abs(x), factor=2)
    case.close((left @ op).rmatvec(z), A.T @ (L.T @ z), b.T @ abs(L).T @ abs(z), factor=2)
    case.close((op @ right) @ z, A @ (R @ z), b @ abs(R) @ abs(z), factor=2)
    case.close((op @ right).T @ y, R.T @ (A.T @ y), abs(R).T @ b.T @ abs(y), factor=2)
    assert isinstance(op @ right, of.Operator)
    total = (b + abs(T)) @ abs(x)
    for both in (op + term, term + op):
        case.close(both.matvec(x), A @ x + T @ x, total, factor=2)
        case.close(both.rmatvec(y), A.T @ y + T.T @ y, (b + abs(T)).T @ abs(y), factor=2)
    for difference, sign in ((op - term, 1), (term - op, -1)):
        case.close(difference.matvec(x), sign * (A @ x - T @ x), total, factor=2)
    stack = pylops.VStack([op, term])
    case.close(
        stack.matvec(x), xp.concatenate([A @ x, T @ x]), xp.concatenate([b, abs(T)]) @ abs(x)
    )


@check
def composes_with_scipy(case: Case, rng: np.random.Generator) -> None:
    op, (m, n) = case.op, case.op.shape
    R, T = case.random(rng, n, 2), case.random(rng, m, n)
    x, z = case.random(rng, n), case.random(rng, 2)
    A, b = case.A, case.bound
    chain = op @ spla.aslinearoperator(R)
    assert isinstance(chain, of.Operator)
    case.close(chain @ z, A @ (R @ z), b @ abs(R) @ abs(z), factor=2)
    term = spla.aslinearoperator(T)
    for both in (op + term, term + op):
        case.close(both @ x, A @ x + T @ x, (b + abs(T)) @ abs(x), factor=2)
    L = case.random(rng, 2, m)  # SciPy decides, before we are asked, and would form the operator
    with pytest.raises(TypeError, match="as_operator"):
        spla.aslinearoperator(L) @ op


@check
def multiplies_arrays_from_the_right(case: Case, rng: np.random.Generator) -> None:
    op, (m, n) = case.op, case.op.shape
    Y = case.random(rng, 2, m)
    case.close(Y @ op, Y @ case.A, abs(Y) @ case.bound)
    case.close(Y[0] @ op, Y[0] @ case.A, abs(Y[0]) @ case.bound)
    x = case.random(rng, n)
    host = xp is np
    for S in (csr_matrix(Y), *([sp.csr_array(Y), sp.coo_array(Y)] if host else [])):
        chain = S @ op
        assert isinstance(chain, of.Operator)
        case.close(chain @ x, Y @ (case.A @ x), abs(Y) @ case.bound @ abs(x), factor=2)
    T = case.random(rng, m, n)
    for term in (T, *([sp.csr_array(T)] if host else [])):
        case.close((term + op) @ x, T @ x + case.A @ x, (abs(T) + case.bound) @ abs(x), factor=2)


@check
def multiplies_complex_vectors_by_parts(case: Case, rng: np.random.Generator) -> None:
    m, n = case.op.shape
    for shape in ((), (2,)):
        z = case.random(rng, n, *shape) + 1j * case.random(rng, n, *shape)
        y = case.random(rng, m, *shape) + 1j * case.random(rng, m, *shape)
        bound = case.bound @ (abs(z.real) + abs(z.imag))
        assert (case.op @ z).dtype == z.dtype
        case.close(case.op @ z, case.A @ z, bound)
        case.close(case.op.H @ y, case.A.T @ y, case.bound.T @ (abs(y.real) + abs(y.imag)))


@check
def multiplies_integer_vectors(case: Case, rng: np.random.Generator) -> None:
    m, n = case.op.shape
    for x in (rng.integers(-4, 5, n), rng.random(n) < 0.5, list(range(n))):
        x = x if isinstance(x, list) else xp.asarray(x)
        values = xp.asarray(x, dtype=np.float64)
        assert (case.op @ x).dtype == case.op.dtype
        case.close(case.op @ x, case.A @ values, case.bound @ abs(values))
    y = xp.asarray(rng.integers(-4, 5, (m, 2)))
    case.close(case.op.T @ y, case.A.T @ y, case.bound.T @ abs(y))


@check
def refuses_other_shapes(case: Case, rng: np.random.Generator) -> None:
    op, (m, n) = case.op, case.op.shape
    for shape in ((n + 1,), (n + 1, 2), (n, 2, 2)):
        with pytest.raises(ValueError) as error:
            op @ xp.ones(shape, dtype=op.dtype)
        assert str(op.shape) in str(error.value)
        assert str(shape) in str(error.value)
    other = of.Identity(n + 1)
    with pytest.raises(ValueError) as error:
        op @ other
    assert str(op.shape) in str(error.value)
    assert str(other.shape) in str(error.value)
    with pytest.raises(ValueError, match="cannot add"):
        op + xp.ones((m + 1, n), dtype=op.dtype)
    with pytest.raises(IndexError, match="rows"):
        op.block([m], [0])
    with pytest.raises(IndexError, match="cols"):
        op.block([0], [-n - 1])
    with pytest.raises(ValueError, match="booleans"):
        op.block(np.ones(m + 1, dtype=bool), [0])
    with pytest.raises(TypeError, match="integers"):
        op.block([0.0], [0])


@check
def costs_something(case: Case, rng: np.random.Generator) -> None:
    one, four = case.op.cost(), case.op.cost(4)
    assert one.flops >= 0
    assert one.bytes > 0
    assert four.bytes > one.bytes
    assert four.flops >= one.flops
    assert np.isfinite([*one, *four]).all()


@check
def describes_itself(case: Case, rng: np.random.Generator) -> None:
    op = case.op
    first = str(of.describe(op)).splitlines()[0]
    assert type(op).__name__ in first
    assert str(op.dtype) in first
    assert " × ".join(f"{n:,}" for n in op.shape) in first
    assert ("psd" in first.split()) == op.psd
    assert len(str(of.describe(op)).splitlines()) == len(list(nodes(op)))
    assert type(op).__name__ in repr(op)
    assert f"{op.shape[0]}x{op.shape[1]}" in repr(op)
    assert type(op).__name__ in op._repr_html_()


def nodes(op: of.Operator) -> Iterator[of.Operator]:
    yield op
    for part in op.operands:
        yield from nodes(part)
