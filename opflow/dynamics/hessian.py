"""``of.hessian(fields, y, objective)``: the Hessian of the loss, or its Gauss–Newton part."""

from __future__ import annotations

from functools import partial

from opflow.dynamics.measurement import OUTPUTS
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

#: what to compute of a Hessian
PARTS = ("full", "gauss-newton")
#: losses whose second derivative in f is PSD
CONVEX = (Quadratic, CrossEntropy, Huber)


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
        Of inputs that can be read by rows.
    y : array (N,) or (N, k)
        Targets, or classes, as in :func:`opflow.train`.
    objective : {"quadratic", "cross-entropy", "huber"}, Huber, or object
        As there; an object needs ``hessian(f, y, u)``.
    part : {"full", "gauss-newton"}
        The latter is JᵀSJ, without second derivatives of f: PSD for the losses that have a name.
    rates : bool, default True
        In the coordinates W/√η of :func:`opflow.jacobian`; ``False`` for W itself.

    Returns
    -------
    Operator (P, P), symmetric
        Of the sum of the samples' losses (½ ‖r_μ‖²); ``loss="mean"`` descends 1/N of it.

    See Also
    --------
    opflow.jacobian : The Jacobian J.
    opflow.observe.HessianEigenvalues : Its extreme eigenvalues along a run.
    opflow.spectral.eigsh : Its eigenpairs.

    Notes
    -----
    .. math:: H = J^T S J + \sum_{\mu p} g_{\mu p}\, \partial^2 f_{\mu p}, \qquad
              g = \partial\text{loss}/\partial f, \quad S = \partial^2\text{loss}/\partial f^2.

    A product is a tangent of the fields and one more backward pass [1]_, in row blocks: 12·N·P −
    8·N·P_1 + 4·N·k·n_L flops a column, 8·N·P − 4·N·P_1 + 4·N·k·n_L without second derivatives of f.
    These vanish for one hidden layer and a fixed readout.

    References
    ----------
    .. [1] B. A. Pearlmutter, "Fast exact multiplication by the Hessian", 1994.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> fields = of.ReLUNetwork.random([3, 5, 4], seed=0).fields(np.eye(3))
    >>> of.hessian(fields, np.ones(3)).psd, of.hessian(fields, np.ones(3), part="gauss-newton").psd
    (False, True)
    """
    net = check_fields(fields).network
    chosen = check_bent(objective, net.outputs, part)
    y = OUTPUTS.targets(y, net, fields.samples, chosen)
    if part == "gauss-newton" and isinstance(chosen, Quadratic):
        J = jacobian(fields, rates=rates)
        return J.T @ J
    f = fields.outputs
    force = chosen.force(f, y) if part == "full" else None
    psd = force is None and isinstance(chosen, CONVEX)
    return Hessian(fields, force, partial(_curved, chosen, f, y), rates, psd)


def check_bent(objective: str | Objective, outputs: int, part: str) -> RunObjective:
    """The objective, if its second derivatives are known, and `part` is one of the parts."""
    if part not in PARTS:
        raise ValueError(f"part must be 'full' or 'gauss-newton', not {part!r}")
    chosen = run_objective(objective, outputs)
    if isinstance(chosen, Given) and not callable(getattr(chosen.given, "hessian", None)):
        raise ValueError(f"{chosen.name} needs hessian(f, y, u), ∂²value/∂f² times u (rows, k)")
    return chosen


def _curved(objective: RunObjective, f: Array, y: Array, s: slice, u: Array) -> Array:
    """∂²loss/∂f² of some samples times u (b, c, k)."""
    f, y = (rows[s].repeat(u.shape[1], axis=0) for rows in (f, y))
    return objective.hessian(f, y, u.reshape(f.shape)).reshape(u.shape)
