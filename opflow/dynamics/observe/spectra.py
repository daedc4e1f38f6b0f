"""Observers of the moving kernel: its leading modes, its sharpness, how far it has come."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from opflow.arrays import check_integer, namespace, to_host
from opflow.dynamics.observe.moment import Moment
from opflow.spectral.checks import gaussian
from opflow.spectral.comparison import principal_angles
from opflow.spectral.eigen import Eigenpairs, eigsh
from opflow.spectral.lanczos import largest_eigenvalue


class TopEigenpairs:
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

    Notes
    -----
    An array (k,) a moment, descending, named ``eigenvalues``.  Costs the fields and
    :func:`opflow.spectral.eigsh`, of fewer products the less the kernel has moved; keeps 2·N·k
    numbers.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> top = of.observe.TopEigenpairs(2)
    >>> run = of.train(
    ...     of.ReLUNetwork.random([3, 8], seed=0), np.eye(3), np.ones(3), steps=5,
    ...     observe=[top, top.angles, top.modes],
    ... )
    >>> run.observations["eigenvalues"].shape, run.observations["modes"].shape
    ((6, 2), (6, 2))
    >>> bool(run.observations["eigenvector_angles"][0].max() < 1e-7)
    True
    """

    name = "eigenvalues"

    def __init__(self, k: int = 6, *, tol: float = 1e-6, memory: float | str | None = None) -> None:
        self.k, self.tol, self.memory = check_integer(k, "k", 1), tol, memory
        self.pairs: Eigenpairs | None = None
        self.first: Any = None
        self._last: Any = None
        self._seen: Any = lambda: None  # weak: a moment holds the state and the fields
        self.angles, self.modes = Angles(self), Modes(self)

    def __call__(self, moment: Moment) -> Any:
        return self.at(moment).eigenvalues

    def at(self, moment: Moment) -> Eigenpairs:
        """The pairs of a moment, computed once."""
        if self._seen() is not moment or self.pairs is None:
            self.pairs = eigsh(moment.kernel, self.k, which="LA", tol=self.tol,
                               memory=self.memory, start=self._last)  # fmt: skip
            self._seen, self._last = weakref.ref(moment), self.pairs.eigenvectors
            if self.first is None or moment.step == 0:
                self.first = self._last
        return self.pairs

    def state(self) -> dict[str, Any]:
        """The eigenvectors of the start and of the last moment."""
        return {"first": self.first, "last": self._last}

    def restore(self, arrays: dict[str, Any]) -> None:
        """Take up what :meth:`state` gave."""
        self.first, self._last, self.pairs = arrays["first"], arrays["last"], None


class _OfPairs:
    """An observer of the pairs that a :class:`TopEigenpairs` finds."""

    def __init__(self, top: TopEigenpairs) -> None:
        self.top = top

    def state(self) -> dict[str, Any]:
        return self.top.state()

    def restore(self, arrays: dict[str, Any]) -> None:
        self.top.restore(arrays)


class Angles(_OfPairs):
    """How far the leading eigenvectors have turned: principal angles to those of the start."""

    name = "eigenvector_angles"

    def __call__(self, moment: Moment) -> Any:
        vectors = self.top.at(moment).eigenvectors
        return principal_angles(self.top.first, vectors)


class Modes(_OfPairs):
    """The residual on the eigenvectors of the start."""

    name = "modes"

    def __call__(self, moment: Moment) -> Any:
        self.top.at(moment)
        return to_host(self.top.first.T @ moment.residual.reshape(-1)).astype(np.float64)


class Sharpness:
    r"""λ_max of what the run descends: of K, or of K/N where it takes the mean loss.

    Parameters
    ----------
    tol : float, default 1e-2
        Relative, as in :func:`opflow.spectral.largest_eigenvalue`.
    steps : int, default 30
        Products at most.

    Notes
    -----
    Gradient descent of step s amplifies a mode whose eigenvalue exceeds 2/s: compare with
    ``2 / run.step``.  Costs the fields and up to `steps` products.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> run = of.train(
    ...     of.ReLUNetwork.random([3, 8], seed=0), np.eye(3), np.ones(3), steps=5,
    ...     observe=[of.observe.Sharpness()],
    ... )
    >>> bool((run.observations["sharpness"] < 2 / run.step).all())
    True
    """

    name = "sharpness"

    def __init__(self, *, tol: float = 1e-2, steps: int = 30) -> None:
        self.tol, self.steps = tol, steps

    def __call__(self, moment: Moment) -> float:
        return (
            moment.share * largest_eigenvalue(moment.kernel, tol=self.tol, steps=self.steps).value
        )


class KernelDistance:
    r"""How far the kernel has moved, ‖K(t) − K(0)‖_F / ‖K(0)‖_F.

    Parameters
    ----------
    probes : int, default 32
        Random vectors, the same at every moment.
    rng : int or numpy.random.Generator, default 0

    Notes
    -----
    Both norms are estimated with the same Gaussian vectors V: :math:`\|K V\|_F^2` has the mean
    :math:`p\,\|K\|_F^2` and a standard deviation of at most :math:`\sqrt{2/p}` of it, so the ratio
    is within some 18 % for 32, whatever it is, and 0 where the kernel has not moved.
    Costs the fields and a product with the block; keeps 2·N·probes numbers.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> run = of.train(
    ...     of.ReLUNetwork.random([3, 8], seed=0), np.eye(3), np.ones(3), steps=5,
    ...     observe=[of.observe.KernelDistance()],
    ... )
    >>> float(run.observations["kernel_distance"][0])
    0.0
    """

    name = "kernel_distance"

    def __init__(self, probes: int = 32, *, rng: int | np.random.Generator | None = 0) -> None:
        self.probes, self._rng = check_integer(probes, "probes", 1), rng
        self._vectors: Any = None
        self._start: Any = None

    def __call__(self, moment: Moment) -> float:
        K, norm = moment.kernel, namespace(moment.residual).linalg.norm
        if self._vectors is None or moment.step == 0:
            self._vectors = gaussian(K, self.probes, self._rng)
            self._start = K.matmat(self._vectors)
            return 0.0
        moved = K.matmat(self._vectors) - self._start
        return float(norm(moved)) / (float(norm(self._start)) or 1.0)

    def state(self) -> dict[str, Any]:
        """The vectors, and what the first kernel made of them."""
        return {"vectors": self._vectors, "start": self._start}

    def restore(self, arrays: dict[str, Any]) -> None:
        """Take up what :meth:`state` gave."""
        self._vectors, self._start = arrays["vectors"], arrays["start"]
