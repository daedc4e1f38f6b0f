"""The Hessian of the loss that a run descends, and its Gauss–Newton part."""

from __future__ import annotations

from functools import partial

from opflow.dynamics.checks import checked_targets
from opflow.dynamics.objectives import (
    CrossEntropy,
    Given,
    Huber,
    Objective,
    Quadratic,
    RunObjective,
    run_objective,
)
from opflow.machine.arrays import Array, Data
from opflow.operators import Operator
from opflow.relu.checks import check_fields
from opflow.relu.fields import Fields
from opflow.relu.hessian import Hessian
from opflow.relu.jacobian import jacobian

#: what to compute of the Hessian
PARTS = ("full", "gauss-newton")


def hessian(
    fields: Fields,
    y: Data,
    objective: str | Objective = "quadratic",
    *,
    part: str = "full",
    rates: bool = True,
) -> Operator:
    r"""The Hessian of the loss in the trained parameters, inside the activation region.

    Parameters
    ----------
    fields : Fields
        Of a network on inputs whose rows can be read.
    y : array (N,) or (N, k)
        Targets, or classes, as in :func:`opflow.train`.
    objective : {"quadratic", "cross-entropy", "huber"}, Huber, or object
        As in :func:`opflow.train`; an object needs ``hessian(f, y, u)``.
    part : {"full", "gauss-newton"}
        The Hessian, or its part JᵀSJ without second derivatives of f, which is PSD where the loss
        is convex.
    rates : bool, default True
        In the coordinates W/√η, as :func:`opflow.jacobian`; ``False`` for W itself.

    Returns
    -------
    Operator of shape (P, P), symmetric
        Of the sum of the samples' losses; a run with ``loss="mean"`` descends 1/N of it.

    Notes
    -----
    .. math:: H = J^T S J + \sum_{\mu p} g_{\mu p}\, \partial^2 f_{\mu p}, \qquad
              g = \partial\text{loss}/\partial f, \quad S = \partial^2\text{loss}/\partial f^2.

    A product is a tangent of the fields and one more backward pass: 12·N·P − 8·N·P_1 + 4·N·k·n_L
    flops a column, the Gauss–Newton part 8·N·P − 4·N·P_1 + 4·N·k·n_L, in row blocks.  For one
    hidden layer and a fixed readout the two are equal.  The Gauss–Newton matrix of the quadratic
    loss is ``J.T @ J``, whose diagonal costs half a product.

    References
    ----------
    Pearlmutter, Fast exact multiplication by the Hessian, 1994.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> fields = of.ReLUNetwork.random([3, 5, 4], seed=0).fields(np.eye(3))
    >>> H = of.hessian(fields, np.ones(3))
    >>> H.shape, H.symmetric, of.hessian(fields, np.ones(3), part="gauss-newton").psd
    ((35, 35), True, True)
    >>> top, bottom = of.spectral.eigsh(H, 2, which="BE").eigenvalues
    """
    net = check_fields(fields).network
    chosen = check_bent(objective, net.outputs, part)
    targets = checked_targets(y, net, fields.samples, chosen)
    return hessian_at(fields, targets, chosen, part, rates)


def check_bent(objective: str | Objective, outputs: int, part: str) -> RunObjective:
    """The objective, if its second derivatives are known, and `part` is one of the parts."""
    if part not in PARTS:
        raise ValueError(f"part must be 'full' or 'gauss-newton', not {part!r}")
    chosen = run_objective(objective, outputs)
    if isinstance(chosen, Given) and not callable(getattr(objective, "hessian", None)):
        raise ValueError(f"{chosen.name} needs hessian(f, y, u), ∂²value/∂f² times u (rows, k)")
    return chosen


def is_convex(objective: RunObjective) -> bool:
    """Whether the loss is known to be convex in the outputs."""
    return isinstance(objective, Quadratic | CrossEntropy | Huber)


def hessian_at(
    fields: Fields, y: Array, objective: RunObjective, part: str = "full", rates: bool = True
) -> Operator:
    """:func:`hessian` of what has been checked."""
    full = part == "full"
    if not full and isinstance(objective, Quadratic):
        J = jacobian(fields, rates=rates)
        return J.T @ J
    f = fields.outputs
    force = objective.force(f, y) if full else None
    convex = is_convex(objective)
    return Hessian(
        fields, force, partial(curved, objective, f, y), rates=rates, psd=convex and not full
    )


def curved(objective: RunObjective, f: Array, y: Array, s: slice, u: Array) -> Array:
    """∂²loss/∂f² of some samples times u (b, c, k)."""
    columns, k = u.shape[1:]
    f, y = (a[s].repeat(columns, axis=0) for a in (f, y))
    return objective.hessian(f, y, u.reshape(-1, k)).reshape(u.shape)
