"""Observers of the weights: invariants of gradient flow, closed equations of weight Grams."""

from __future__ import annotations

from typing import Any

import numpy as np

from opflow.dynamics.observe.moment import Moment, Remembering
from opflow.machine.arrays import Array, check_integer, namespace, to_device_of
from opflow.machine.ranks import LOCAL
from opflow.relu.fields import Fields
from opflow.relu.invariants import balance_drift, balances, weight_gram_velocity


class Balancedness:
    r"""The largest drift of a balancedness invariant since the start, relative to the weights.

    See Also
    --------
    opflow.observe.balances : The invariants themselves.

    Notes
    -----
    :math:`\|W^{\ell+1}_{:,j}\|^2/\eta_{\ell+1} - (\|W^\ell_{j,:}\|^2 + b_j^2)/\eta_\ell` is
    constant along the gradient flow [1]_ for every hidden unit j below the top layer, and of the
    top layer if the readout is trained, so its drift is the discretisation error of a run.  A
    linearised flow does not conserve it: there it is the drift of the parameters
    :math:`\theta_0 - \eta J^T u`, of second order in their motion.  0 for one hidden layer and a
    fixed readout (there is no invariant).  Costs 4·P flops.

    References
    ----------
    .. [1] S. S. Du, W. Hu, J. D. Lee, "Algorithmic regularization in learning deep homogeneous
       models: layers are automatically balanced", 2018, arXiv:1806.00900.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> net = of.ReLUNetwork.random([3, 8, 8], seed=0)
    >>> run = of.train(net, np.eye(3), np.ones(3), steps=5, observe=[of.observe.Balancedness()])
    >>> bool(run.observations["balancedness_drift"].max() < 0.1)
    True
    """

    name = "balancedness_drift"

    def __init__(self) -> None:
        self._start: tuple[list[Array], float] | None = None

    def __call__(self, moment: Moment) -> float:
        if self._start is None or moment.step == 0:
            self._start = balances(moment.network)
        return balance_drift(moment.network, *self._start)

    def state(self) -> dict[str, Array]:
        """The invariants at the start."""
        if self._start is None:
            return {}
        start, size = self._start
        return {"size": np.array(size)} | {f"start_{i}": v for i, v in enumerate(start)}

    def restore(self, arrays: dict[str, Array]) -> None:
        """Take up what :meth:`state` gave."""
        start = [arrays[f"start_{i}"] for i in range(len(arrays) - 1)]
        self._start = (start, float(arrays["size"]))


class GramClosure(Remembering):
    r"""How far a weight Gram is from its closed equation, integrated along the run.

    Parameters
    ----------
    layer : int
        ℓ, 1..L.
    side : {"input", "output"}
        WᵀW or WWᵀ.

    See Also
    --------
    opflow.weight_gram_velocity : The velocity that it integrates.
    opflow.observe.Balancedness : The drift of conserved quantities.

    Notes
    -----
    ``d(WᵀW)/dt`` closes in the fields [1]_ (:func:`opflow.weight_gram_velocity`), so its Euler sum
    from the start differs from the Gram of the weights by the discretisation error alone,
    ‖·‖_F relative to the Gram: O(step) over a fixed time.  In a linearised flow the weights move by
    the fields of the start and their Grams do not close: no step makes the difference vanish.
    Keeps three dense n × n matrices and costs the fields (2·N·(P + k·P) flops,
    N·(1 + k)·Σn_ℓ numbers) and 4·N·n² flops.

    References
    ----------
    .. [1] C. Nordio, "Learning Dynamics Reveal a Hierarchy of Weight-Induced Layerwise Gram
       Metrics", arXiv:2606.09744.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> net = of.ReLUNetwork.random([3, 8, 8], seed=0)
    >>> run = of.train(net, np.eye(3), np.ones(3), steps=5, observe=[of.observe.GramClosure(2)])
    >>> bool(run.observations["gram_closure_input_2"].max() < 0.1)
    True
    """

    remembered = ("sum", "velocity", "time")

    def __init__(self, layer: int, side: str = "input") -> None:
        self.layer = layer
        self.side = side
        self.name = f"gram_closure_{side}_{layer}"
        #: the Euler sum, and the velocity and the time that it goes on with
        self.sum: Any = None
        self.velocity: Any = None
        self.time = 0.0

    def __call__(self, moment: Moment) -> float:
        check_integer(self.layer, "layer", 1, moment.network.depth)
        W = moment.network.weights[self.layer - 1]
        gram = W.T @ W if self.side == "input" else W @ W.T
        velocity = moment.share * moment.space.total(self._by_samples(moment, gram))
        if moment.step == 0:
            self.sum = gram
        else:
            before = to_device_of(self.velocity, gram)
            self.sum = to_device_of(self.sum, gram) + (moment.time - self.time) * before
        self.velocity = velocity
        self.time = moment.time
        # the weights are on every rank
        return float(LOCAL.norm(gram - self.sum)) / (float(LOCAL.norm(gram)) or 1.0)

    def _by_samples(self, moment: Moment, gram: Array) -> Array:
        """d(gram)/dt by the samples held here, which other ranks may have all of."""
        if not len(moment.residual):
            return namespace(gram).zeros_like(gram)
        fields = Fields(moment.network, moment.inputs, finite=False)
        return weight_gram_velocity(fields, self.layer, moment.force, self.side).todense()
