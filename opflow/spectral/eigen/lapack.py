"""All eigenpairs of a symmetric operator by LAPACK."""

from __future__ import annotations

from opflow.interface.keywords import advance
from opflow.machine.arrays import Data, namespace
from opflow.machine.workspace import op_namespace, operator_module, parse_memory
from opflow.operators.operator import Operator
from opflow.spectral.blocks import block_unit, on_host
from opflow.spectral.checks import symmetric_operator
from opflow.spectral.eigen.results import Eigenpairs
from opflow.spectral.eigen.selection import Tolerance, choose, next_to
from opflow.spectral.traces.structure import forming_products, matrix_of


def eigh(op: Data, *, memory: float | str | None = None) -> Eigenpairs:
    """All eigenpairs of a symmetric operator, through its tiles and LAPACK.

    Parameters
    ----------
    op : operator, array (n, n) or sparse matrix
        Symmetric.
    memory : float or str, optional
        Bytes to hold; half of what is free by default.

    Returns
    -------
    Eigenpairs
        Eigenvalues descending; of a PSD operator's, those that rounding made negative are kept.

    Raises
    ------
    MemoryError
        Before anything is formed, if four n × n arrays (the matrix, its copy, LAPACK's workspace)
        do not fit.

    See Also
    --------
    opflow.spectral.eigsh : A few eigenpairs, without the matrix.
    opflow.spectral.density : The density of all eigenvalues.

    Notes
    -----
    Forms n² entries, then some 9·n³ flops: exact to n·ε·‖op‖, for every multiplicity.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.spectral.eigh(of.Gram(np.array([[1.0], [1.0]]))).eigenvalues.round(12) + 0.0
    array([2., 0.])
    """
    op = symmetric_operator(op)
    n = op.shape[0]
    if op.space.sharded:
        raise ValueError("a sharded op has no entries to give: ask eigsh for a few pairs")
    need = lapack_bytes(op)
    budget = parse_memory(memory, operator_module(op))
    if need > budget:
        raise MemoryError(
            f"all eigenpairs of order {n} take {need / 1e9:.3g} GB, over the budget of "
            f"{budget / 1e9:.3g} GB; ask eigsh for a few, or density for their distribution"
        )
    advance(0, f"LAPACK, order {n}")
    A = matrix_of(op, memory)
    linalg = namespace(A).linalg
    unit = block_unit(A)
    A /= unit
    values, vectors = linalg.eigh(A)
    values = values[::-1]
    vectors = vectors[:, ::-1]
    gaps = unit * on_host(linalg.norm(A @ vectors - vectors * values, axis=0))
    values = unit * on_host(values)
    return Eigenpairs(values, vectors, gaps, True, forming_products(op), "lapack, dense")


def few_by_lapack(
    op: Operator, k: int, which: str, tolerance: Tolerance, memory: float | str | None
) -> Eigenpairs:
    """The pairs asked for, out of all of them."""
    pairs = eigh(op, memory=memory)
    values = pairs.eigenvalues
    chosen = choose(values, k, which)
    vectors = pairs.eigenvectors[:, op_namespace(op).asarray(chosen)]
    residuals = pairs.residuals[chosen]
    met = bool((pairs.residuals <= tolerance.allowed(0, abs(values).max())).all())
    following = next_to(values, k, which, pairs.eigenvectors)
    return Eigenpairs(values[chosen], vectors, residuals, met, pairs.products, pairs.how, following)


def lapack_bytes(op: Operator) -> float:
    """What all eigenpairs hold: the matrix, its copy, LAPACK's workspace."""
    return 4.0 * op.shape[0] ** 2 * op.dtype.itemsize
