"""Observers of eigenpairs: of the kernel, their angles and modes, and of the Hessian."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from opflow.dynamics.hessian import hessian
from opflow.dynamics.observe.moment import Moment, Remembering
from opflow.machine.arrays import Array, check_integer, namespace, to_device_of, to_host
from opflow.machine.ranks import RowDistribution
from opflow.operators import Operator
from opflow.relu.fields import Fields
from opflow.spectral.eigen.eigsh import eigsh
from opflow.spectral.eigen.results import Eigenpairs
from opflow.spectral.modes import principal_angles


class TopEigenpairs(Remembering):
    r"""The largest eigenvalues of K along the run, each search beginning at the last vectors.

    Parameters
    ----------
    k : int, default 6
        Pairs, at most N·k of the run's outputs.
    tol : float, default 1e-6
        Relative residual, as in :func:`opflow.spectral.eigsh`.
    memory : float or str, optional
        As there.

    Attributes
    ----------
    pairs : Eigenpairs
        Of the last moment.
    angles, modes : observers
        Of the same pairs; give them to `observe` as well.  `angles` are the principal angles
        (radians, ascending) between the span of the leading eigenvectors and that of the start;
        `modes` are the coefficients of the residual on the eigenvectors of the *start*, which a
        kernel that does not move lets decay as :math:`e^{-\lambda_i t}`.

    See Also
    --------
    opflow.spectral.eigsh : The solver.
    opflow.spectral.principal_angles : The angles.
    opflow.plot.decay : Draws the residual mode by mode.

    Notes
    -----
    An array (k,) a moment, descending, named ``eigenvalues``.  Costs the fields and
    :func:`opflow.spectral.eigsh`, of fewer products the less the kernel has moved; keeps
    2·N·(k + 4) numbers.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> top = of.observe.TopEigenpairs(2)
    >>> net = of.ReLUNetwork.random([3, 8], seed=0)
    >>> run = of.train(net, np.eye(3), np.ones(3), steps=5, observe=[top, top.angles, top.modes])
    >>> run.observations["eigenvalues"].shape, run.observations["modes"].shape
    ((6, 2), (6, 2))
    >>> bool(run.observations["eigenvector_angles"][0].max() < 1e-7)
    True
    """

    name = "eigenvalues"
    by_sample: tuple[str, ...] = ("first", "last")
    remembered = ("first", "last")
    which = "LA"

    def __init__(self, k: int = 6, *, tol: float = 1e-6, memory: float | str | None = None) -> None:
        self.k = check_integer(k, "k", 1)
        self.tol = tol
        self.memory = memory
        self.pairs: Eigenpairs | None = None
        self.first: Any = None  #: the eigenvectors of the start
        self.last: Any = None  #: where the next search begins
        self.angles = _OfPairs(self, "eigenvector_angles", self._angles)
        self.modes = _OfPairs(self, "modes", self._modes)

    def __call__(self, moment: Moment) -> Array:
        return self.at(moment).eigenvalues

    def at(self, moment: Moment) -> Eigenpairs:
        """The pairs of a moment, computed once."""
        if self not in moment.shared:
            start = None
            if moment.step and self.last is not None:  # a checkpoint may have moved it
                start = to_device_of(self.last, moment.residual)
            op = self._operator(moment)
            pairs = eigsh(
                op, self.k, which=self.which, tol=self.tol, memory=self.memory, start=start
            )
            if self.first is None or moment.step == 0:
                self.first = pairs.eigenvectors
            self.first = to_device_of(self.first, pairs.eigenvectors)
            self.last = pairs.start
            self.pairs = pairs
            moment.shared[self] = pairs
        return moment.shared[self]

    def _operator(self, moment: Moment) -> Operator:
        return moment.kernel

    def _angles(self, moment: Moment) -> Array:
        """How far the leading eigenvectors have turned: principal angles to those of the start."""
        now = self.at(moment).eigenvectors
        return angles_between(self.first, now, moment.space)

    def _modes(self, moment: Moment) -> Array:
        """The residual on the eigenvectors of the start."""
        self.at(moment)
        modes = moment.space.gram(self.first, moment.residual.reshape(-1))
        return to_host(modes).astype(np.float64)


class _OfPairs:
    """What another observer makes of the pairs that a :class:`TopEigenpairs` finds."""

    by_sample = TopEigenpairs.by_sample

    def __init__(self, top: TopEigenpairs, name: str, look: Callable[[Moment], Array]) -> None:
        self.name = name
        self.state = top.state
        self.restore = top.restore
        self._look = look

    def __call__(self, moment: Moment) -> Array:
        return self._look(moment)


def angles_between(U: Array, V: Array, space: RowDistribution) -> Array:
    """:func:`opflow.spectral.principal_angles`, also of columns with sharded rows."""
    if space.sharded:  # both in coordinates of an orthonormal basis of their sum
        both = space.qr(namespace(V).concatenate([U, V], axis=1))[1]
        return principal_angles(both[:, : U.shape[1]], both[:, U.shape[1] :])
    return principal_angles(U, V)


class HessianEigenvalues(TopEigenpairs):
    r"""The largest and the smallest eigenvalues of the Hessian of the loss along the run.

    Parameters
    ----------
    k : int, default 1
        From each end.
    tol : float, default 1e-4
        Of residuals relative to ‖H‖, as in :func:`opflow.spectral.eigsh` for both ends.
    memory : float or str, optional
        As there.

    See Also
    --------
    opflow.hessian : The Hessian.
    opflow.observe.Sharpness : The largest eigenvalue of K.

    Notes
    -----
    An array (2k,) a moment, descending, named ``hessian_eigenvalues``: of :func:`opflow.hessian`,
    times 1/N for the mean loss.  Gradient descent of step s is stable while the largest is below
    2/s, and hovers about it at the edge of stability [1]_.  Some 20 to 150 Hessian products, each
    three kernel products; keeps P·(4k + 1) numbers.  For one machine, inputs that can be read by
    rows, and networks that are not linearised.

    References
    ----------
    .. [1] J. Cohen et al., "Gradient descent on neural networks typically occurs at the edge of
       stability", 2021, arXiv:2103.00065.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> net, ends = of.ReLUNetwork.random([3, 8, 8], seed=0), of.observe.HessianEigenvalues()
    >>> run = of.train(net, np.eye(3), np.ones(3), steps=5, observe=[ends])
    >>> run.observations["hessian_eigenvalues"].shape
    (6, 2)
    """

    name = "hessian_eigenvalues"
    by_sample = ()
    which = "BE"

    def __init__(self, k: int = 1, *, tol: float = 1e-4, memory: float | str | None = None) -> None:
        super().__init__(2 * check_integer(k, "k", 1), tol=tol, memory=memory)

    def __call__(self, moment: Moment) -> Array:
        return moment.share * self.at(moment).eigenvalues

    def _operator(self, moment: Moment) -> Operator:
        why = (
            "HessianEigenvalues is for one machine, without comm= or measurement=, and for a "
            "network that moves: of a linearised model Sharpness is the largest eigenvalue"
        )
        moment.state.measurement.refuse(why)
        if moment.space.sharded or moment.linearised:
            raise ValueError(why)
        fields = moment.snapshot
        if fields.gram is not None and moment.inputs is not None:  # the first layer was eliminated
            fields = Fields(moment.network, moment.inputs, finite=False)
        return hessian(fields, moment.targets, moment.objective)
