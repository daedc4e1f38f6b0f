"""The Hessian of a loss of a module, by a tangent of a backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from opflow.dynamics.hessian import CONVEX, check_bent
from opflow.dynamics.objectives import Objective, RunObjective, targets_of
from opflow.machine.arrays import Array
from opflow.operators import Operator
from opflow.operators.operator import Cost
from opflow.torch.bridge import to_array, to_tensor
from opflow.torch.data import Samples, Tensors, cast, mapped, over_columns
from opflow.torch.model import Model, block_of, differentiable
from opflow.torch.recomputed import directions, pulled, pushed, vectors


@torch.inference_mode(False)
def hessian(
    module: nn.Module,
    X: Any,
    y: Any,
    objective: str | Objective = "quadratic",
    *,
    part: str = "full",
    parameters: Iterable[str] | None = None,
    forward: Callable[[nn.Module, Any], Tensor] | None = None,
) -> Operator:
    r"""Return the Hessian of a loss with respect to the trained parameters of a module.

    Parameters
    ----------
    module, X
        As of :func:`jacobian`.
    y : tensor or array (N,) or (N, k)
        Targets or labels, on the module's device.
    objective : {"quadratic", "cross-entropy", "huber"}, Huber, or object
        As in :func:`opflow.train`.
    part : {"full", "gauss-newton"}
        The Hessian, or JᵀSJ, S the second derivatives of the loss in the outputs.
    parameters, forward : optional
        As of :func:`jacobian`.

    Returns
    -------
    Operator of shape (P, P), symmetric
        Of the sum of the samples' losses; columns as those of :func:`jacobian`.

    See Also
    --------
    opflow.torch.jacobian : The Jacobian of the outputs.
    opflow.hessian : The same for a ReLU network of opflow.
    opflow.spectral.eigsh : Its eigenvalues.

    Notes
    -----
    .. math:: H = J^T S J + \sum_{\mu p} g_{\mu p}\, \partial^2 f_{\mu p}, \qquad
              g = \partial\text{loss}/\partial f, \quad S = \partial^2\text{loss}/\partial f^2.

    A product is a tangent pass and the tangent of a backward pass [1]_, in row blocks; nothing is
    held.
    ``of.spectral.eigsh(H, 2, which="BE")`` gives both ends of its spectrum.

    References
    ----------
    .. [1] B. A. Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 6,
       1994.

    Examples
    --------
    >>> import torch, opflow as of
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    >>> of.torch.hessian(net, torch.randn(5, 3), torch.randn(5)).shape
    (41, 41)
    """
    model = Model(module, parameters, "all", forward)
    if model.padded:
        raise ValueError(
            "an embedding with padding_idx has a gradient that is none of its loss: the Hessian is "
            "of other parameters, which parameters= names, with that embedding frozen"
        )
    samples = model.samples(X)
    rows, outputs = block_of(model, samples)
    goal = check_bent(objective, outputs, part)
    if isinstance(y, Tensor):
        y = to_array(y)
    targets = targets_of(y, model.like.dtype, samples.size, outputs, goal)
    return ModuleHessian(model, samples, rows, targets, goal, part)


class ModuleHessian(Operator):
    """Products with the Hessian; see :func:`hessian`."""

    def __init__(
        self,
        model: Model,
        samples: Samples,
        rows: int,
        y: Array,
        objective: RunObjective,
        part: str,
    ) -> None:
        self.model = model
        self.samples = samples
        #: samples of a row block
        self.at_once = rows
        self.data = y
        self.objective = objective
        self.part = part
        psd = part != "full" and isinstance(objective, CONVEX)
        shape = (model.parameters, model.parameters)
        super().__init__(shape, y.dtype, symmetric=True, psd=psd, symbol="H")

    def cost(self, columns: int = 1) -> Cost:
        # as if every layer had one position: of others the flops are not known
        flops = 12.0 * self.samples.size * self.shape[0] * columns
        return Cost(flops, self._vector_bytes(columns))

    def _matmat(self, X: Array) -> Array:
        model, tangents = directions(self.model, X)
        total = mapped(torch.zeros_like, tangents)
        rows = max(1, self.at_once // (2 * X.shape[1]))
        for s, batch in self.samples.blocks(0, self.samples.size, rows):
            batch = cast(batch, model.dtype)
            with differentiable(), torch.no_grad():
                f = to_array(model(model.trained, batch))
                y = self.data[s].astype(f.dtype)
                force = to_tensor(self.objective.force(f, y))
                moved = over_columns(partial(pushed, model, batch), tangents)
                bent = [self.objective.hessian(f, y, to_array(u)) for u in moved]
                S = torch.stack([to_tensor(u) for u in bent])
                if self.part == "full":
                    parts = over_columns(partial(_bent, model, batch, force), tangents, S)
                else:
                    parts = over_columns(partial(pulled, model, batch, model.trained), S)
            for name, part in parts.items():
                total[name] += part
        return vectors(total.values())

    _rmatmat = _matmat


def _bent(
    model: Model,
    batch: Any,
    force: Tensor,
    tangent: Tensors,
    moved: Tensor,
) -> Tensors:
    """How Jᵀ g moves with the parameters, and with the force by S J v."""
    with suppress(NotImplementedError):
        back = partial(pulled, model, batch)
        return torch.func.jvp(back, (model.trained, force), (tangent, moved))[1]
    # torch has no such tangent: how Jᵀ g moves with the parameters is symmetric
    across = torch.func.vjp(lambda p: pulled(model, batch, p, force), model.trained)[1](tangent)[0]
    along = pulled(model, batch, model.trained, moved)
    return mapped(torch.add, across, along)
