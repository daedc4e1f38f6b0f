"""Observers of the run itself: losses, gates, invariants, truncation."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from opflow.dynamics.observe.moment import Moment
from opflow.machine.arrays import (
    as_array,
    as_samples,
    check_integer,
    check_real,
    namespace,
    to_device_of,
    to_host,
)
from opflow.machine.ranks import LOCAL
from opflow.machine.workspace import row_slices
from opflow.operators.gates import pack
from opflow.relu.fields import Fields
from opflow.relu.hierarchy import field_errors
from opflow.relu.invariants import balance_drift, balances, weight_gram, weight_gram_velocity
from opflow.relu.kernels import collective_kernel
from opflow.spectral.krylov.lanczos import largest_eigenvalue


class Loss:
    """The loss; costs nothing."""

    name = "loss"

    def __call__(self, moment: Moment) -> float:
        return moment.loss


class ResidualNorm:
    """‖r‖ over all samples and outputs; costs 2·N·k flops."""

    name = "residual_norm"

    def __call__(self, moment: Moment) -> float:
        return float(moment.space.norm(moment.residual.astype(np.float64)))


class GateFlips:
    """Gates that changed since the last observation, one count a layer.

    None do in a linearised flow: the model's gates are those of the start.  Costs a forward pass
    (2·N·P flops) and keeps N·Σn_ℓ/8 bytes.
    """

    name = "gate_flips"
    by_sample = ("last",)

    def __init__(self) -> None:
        self._last: Any = None

    def __call__(self, moment: Moment) -> Any:
        xp = namespace(moment.residual)
        widths = moment.tangent.upper.widths[1:]
        edges = np.cumsum([0, *(-(-w // 8) for w in widths)]).tolist()
        layers = [slice(*edge) for edge in itertools.pairwise(edges)]
        now = xp.empty((len(moment.residual), edges[-1]), dtype=xp.uint8)
        for s, activations in moment.tangent.forward_blocks():
            for columns, a in zip(layers, activations[1:], strict=True):
                now[s, columns] = pack(a > 0)
        before = now if self._last is None or not moment.step else to_device_of(self._last, now)
        self._last, flips = now, xp.zeros(len(layers), dtype=xp.int64)
        for s in row_slices(len(now), 9 * edges[-1]):
            flips += xp.stack(
                [xp.unpackbits(now[s, c] ^ before[s, c]).sum(dtype=xp.int64) for c in layers]
            )
        return to_host(moment.space.total(flips))

    def state(self) -> dict[str, Any]:
        """The gates of the last observation, packed layer beside layer."""
        return {} if self._last is None else {"last": self._last}

    def restore(self, arrays: dict[str, Any]) -> None:
        """Take up what :meth:`state` gave."""
        self._last = arrays["last"]


class Balancedness:
    r"""The largest drift of a balancedness invariant since the start, relative to the weights.

    Notes
    -----
    :math:`\|W^{\ell+1}_{:,j}\|^2/\eta_{\ell+1} - (\|W^\ell_{j,:}\|^2 + b_j^2)/\eta_\ell` is
    constant along the gradient flow for every hidden unit j below the top layer, so its drift
    is the discretisation error of a run.  A linearised flow does not conserve it: there it is the
    drift of the parameters :math:`\theta_0 - \eta J^T u`, of second order in their motion.  0 for
    one hidden layer (there is no invariant).  Costs 4·P flops.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> run = of.train(
    ...     of.ReLUNetwork.random([3, 8, 8], seed=0), np.eye(3), np.ones(3), steps=5,
    ...     observe=[of.observe.Balancedness()],
    ... )
    >>> bool(run.observations["balancedness_drift"].max() < 0.1)
    True
    """

    name = "balancedness_drift"

    def __init__(self) -> None:
        self._start: Any = None

    def __call__(self, moment: Moment) -> float:
        if self._start is None or moment.step == 0:
            self._start = balances(moment.network)
        return balance_drift(moment.network, *self._start)

    def state(self) -> dict[str, Any]:
        """The invariants at the start."""
        start, size = self._start
        return {"size": np.array(size)} | {f"start_{i}": v for i, v in enumerate(start)}

    def restore(self, arrays: dict[str, Any]) -> None:
        """Take up what :meth:`state` gave."""
        start = [arrays[f"start_{i}"] for i in range(len(arrays) - 1)]
        self._start = (start, float(arrays["size"]))


class GramClosure:
    r"""How far a weight Gram is from its closed equation, integrated along the run.

    Parameters
    ----------
    layer : int
        ℓ, 1..L.
    side : {"input", "output"}
        WᵀW or WWᵀ.

    Notes
    -----
    ``d(WᵀW)/dt`` closes in the fields (:func:`opflow.weight_gram_velocity`), so its Euler sum
    from the start differs from the Gram of the weights by the discretisation error alone,
    ‖·‖_F relative to the Gram: O(step) over a fixed time.  In a linearised flow the weights move by
    the fields of the start and their Grams do not close: no step makes the difference vanish.
    Keeps three dense n × n matrices and costs the fields (2·N·(P + k·P) flops,
    N·(1 + k)·Σn_ℓ numbers) and 4·N·n² flops.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> run = of.train(
    ...     of.ReLUNetwork.random([3, 8, 8], seed=0), np.eye(3), np.ones(3), steps=5,
    ...     observe=[of.observe.GramClosure(2)],
    ... )
    >>> bool(run.observations["gram_closure_input_2"].max() < 0.1)
    True
    """

    def __init__(self, layer: int, side: str = "input") -> None:
        self.layer, self.side = layer, side
        self.name = f"gram_closure_{side}_{layer}"
        self._sum: Any = None
        self._velocity: Any = None
        self._time = 0.0

    def __call__(self, moment: Moment) -> float:
        check_integer(self.layer, "layer", 1, moment.network.depth)
        gram = weight_gram(moment.network, self.layer, self.side)
        velocity = moment.share * moment.space.total(self._by_samples(moment, gram))
        if moment.step == 0:
            self._sum = gram
        else:
            velocity_before = to_device_of(self._velocity, gram)
            self._sum = to_device_of(self._sum, gram) + (moment.time - self._time) * velocity_before
        self._velocity, self._time = velocity, moment.time
        # the weights are on every rank
        return float(LOCAL.norm(gram - self._sum)) / (float(LOCAL.norm(gram)) or 1.0)

    def _by_samples(self, moment: Moment, gram: Any) -> Any:
        """d(gram)/dt by the samples held here, which other ranks may have all of."""
        if not len(moment.residual):
            return namespace(gram).zeros_like(gram)
        fields = Fields(moment.network, moment.inputs, finite=False)
        return weight_gram_velocity(fields, self.layer, moment.residual, self.side).todense()

    def state(self) -> dict[str, Any]:
        """The Euler sum, and the velocity it goes on with."""
        return {"sum": self._sum, "velocity": self._velocity, "time": np.array(self._time)}

    def restore(self, arrays: dict[str, Any]) -> None:
        """Take up what :meth:`state` gave."""
        self._sum, self._velocity = arrays["sum"], arrays["velocity"]
        self._time = float(arrays["time"])


class TruncationError:
    """How far truncated fields are from the exact run: residual, hidden, conjugates, kernel.

    Parameters
    ----------
    kernel : bool, default True
        Measure the kernel too, by Lanczos.

    Raises
    ------
    ValueError
        When called in a run whose state is not fields, or whose samples are spread over ranks.

    Notes
    -----
    An array of three or four numbers: ‖r_p − r‖ over the first ‖r‖; the relative distances of h
    and of φ over all layers (:func:`opflow.hierarchy.field_errors`); ‖K_p − K‖₂/‖K‖₂ to a
    percent.  Costs the exact fields, and up to 150 kernel products with `kernel`.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> run = of.train(
    ...     of.ReLUNetwork.random([3, 8, 8, 8], seed=0), np.eye(3), np.ones(3), steps=5,
    ...     method=of.TruncatedFlow(order=1), observe=[of.observe.TruncationError(kernel=False)],
    ... )
    >>> run.observations["truncation_error"].shape
    (6, 3)
    """

    name = "truncation_error"

    def __init__(self, *, kernel: bool = True) -> None:
        self.kernel = kernel

    def __call__(self, moment: Moment) -> Any:
        if moment.space.sharded:
            raise ValueError(
                "TruncationError is for one machine: it compares fields sample by "
                "sample, and comm= spreads them over ranks"
            )
        fields, exact_network = moment.fields, moment.exact
        if fields is None or exact_network is None:
            raise ValueError("TruncationError needs a run with method=TruncatedFlow(...)")
        exact = Fields(exact_network, moment.inputs, finite=False)
        r = (exact.outputs - moment.targets).astype(np.float64)
        norm = moment.space.norm
        if moment.step == 0:
            self._start = float(norm(r)) or 1.0
        errors = [float(norm(moment.residual - r)) / self._start]
        errors += field_errors(fields, exact)
        if self.kernel:
            K = collective_kernel(exact)
            gap = collective_kernel(fields) - K
            size = largest_eigenvalue(K).value or 1.0
            far = max(largest_eigenvalue(side).value for side in (gap, -gap))
            errors.append(max(far, 0.0) / size)
        return np.array(errors)

    def state(self) -> dict[str, Any]:
        """The first residual's norm."""
        return {"start": np.array(self._start)}

    def restore(self, arrays: dict[str, Any]) -> None:
        """Take up what :meth:`state` gave."""
        self._start = float(arrays["start"])


class HeldOutLoss:
    """The loss on data that the run does not train on, ½ |f − y|² averaged over its samples.

    Parameters
    ----------
    X : array (M, d), rows on disk, sparse matrix or operator
    y : array (M,) or (M, k)
    name : str, default "held_out_loss"

    Notes
    -----
    Costs a forward pass over the M samples (and 2·N·d·n_1 flops for W¹, if the first layer was
    eliminated).

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> run = of.train(
    ...     of.ReLUNetwork.random([3, 8], seed=0), np.eye(3), np.ones(3), steps=5,
    ...     observe=[of.observe.HeldOutLoss(-np.eye(3), np.ones(3))],
    ... )
    >>> run.observations["held_out_loss"].shape
    (6,)
    """

    def __init__(self, X: Any, y: Any, *, name: str = "held_out_loss") -> None:
        X = as_samples(X, "X")
        y = check_real(y, "y", finite=True)
        self.inputs, self.name = X, name
        self.targets = y[:, None] if y.ndim == 1 else y
        _check_samples(X, len(y), "y")

    def __call__(self, moment: Moment) -> float:
        f = moment.predict(self.inputs)
        if f.shape != self.targets.shape:
            raise ValueError(f"{self.name}: y has shape {self.targets.shape} but outputs {f.shape}")
        r = f - self.targets
        return 0.5 * float((r.astype(np.float64) ** 2).sum()) / len(r)


class Accuracy:
    """The share of samples whose largest output is that of their class.

    Parameters
    ----------
    X : array (M, d), rows on disk, sparse matrix or operator
    labels : int array (M,)
        The class of each sample, 0..k − 1 for k outputs.
    name : str, default "accuracy"

    Raises
    ------
    ValueError
        If the labels are no integers from 0, one a row of X; when called, if one of them is
        beyond the outputs, or the network has a single output.

    Notes
    -----
    Costs as :class:`HeldOutLoss`.

    A single output does not say which values stand for the classes, so there is no accuracy of
    it.  Train one output a class, on ``np.eye(k)[labels]``, or observe your own rule:
    ``lambda moment: np.mean(np.sign(moment.predict(X)[:, 0]) == y)`` for targets y = ±1.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> run = of.train(
    ...     of.ReLUNetwork.random([3, 64], outputs=3, seed=0), np.eye(3), np.eye(3), steps=50,
    ...     observe=[of.observe.Accuracy(np.eye(3), np.arange(3))],
    ... )
    >>> float(run.observations["accuracy"][-1])
    1.0
    """

    def __init__(self, X: Any, labels: Any, *, name: str = "accuracy") -> None:
        X = as_samples(X, "X")
        labels = as_array(labels, "labels")
        if labels.dtype.kind in "bf" and bool((labels == labels.round()).all()):
            labels = labels.astype(int)
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise ValueError(
                f"labels must be integers of shape (M,), not {labels.dtype} of {labels.shape}"
            )
        _check_samples(X, len(labels), "labels")
        if int(labels.min()) < 0:
            raise ValueError(f"labels must be classes 0..k − 1, not {int(labels.min())}")
        self.inputs = X
        self.labels = labels
        self.name = name

    def __call__(self, moment: Moment) -> float:
        f = moment.predict(self.inputs)
        k = f.shape[1]
        highest = int(self.labels.max())
        if k == 1:
            raise ValueError(
                f"{self.name}: the network has one output, which names no class: give it one a "
                "class (targets np.eye(k)[labels]), or observe the sign, lambda moment: "
                "np.mean(np.sign(moment.predict(X)[:, 0]) == y)"
            )
        if highest >= k:
            raise ValueError(
                f"{self.name}: labels has class {highest}, but {k} outputs stand for 0..{k - 1}"
            )
        return float((f.argmax(axis=1) == self.labels).mean())


def _check_samples(X: Any, count: int, name: str) -> None:
    """Raise unless there is a sample, and one entry of `name` for each row of X."""
    if count != X.shape[0]:
        raise ValueError(f"{name} has {count} rows but X has {X.shape[0]}")
    if not count:
        raise ValueError("X has no rows")
