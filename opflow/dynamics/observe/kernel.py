"""Observers of the moving kernel: modes, spectrum, sharpness, alignment, how far it has come."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from opflow.dynamics.observe.moment import Moment
from opflow.interface.keywords import Seed, keywords
from opflow.machine.arrays import as_array, check_integer, namespace, to_device_of, to_host
from opflow.machine.ranks import RowDistribution
from opflow.spectral.checks import gaussian
from opflow.spectral.compare import alignment, principal_angles
from opflow.spectral.density.density import density
from opflow.spectral.eigen.eigsh import eigsh
from opflow.spectral.eigen.results import Eigenpairs
from opflow.spectral.krylov.lanczos import largest_eigenvalue


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
    :func:`opflow.spectral.eigsh`, of fewer products the less the kernel has moved; keeps
    2·N·(k + 4) numbers.

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
    by_sample = ("first", "last")

    def __init__(self, k: int = 6, *, tol: float = 1e-6, memory: float | str | None = None) -> None:
        self.k, self.tol, self.memory = check_integer(k, "k", 1), tol, memory
        self.pairs: Eigenpairs | None = None
        self.first: Any = None
        self._last: Any = None
        self.angles, self.modes = Angles(self), Modes(self)

    def __call__(self, moment: Moment) -> Any:
        return self.at(moment).eigenvalues

    def at(self, moment: Moment) -> Eigenpairs:
        """The pairs of a moment, computed once."""
        if self not in moment.shared:
            known = moment.step and self._last is not None
            # a checkpoint may have brought both from the other side
            start = to_device_of(self._last, moment.residual) if known else None
            pairs = eigsh(
                moment.kernel, self.k, which="LA", tol=self.tol, memory=self.memory, start=start
            )
            moment.shared[self] = self.pairs = pairs
            self._last = pairs.start
            fresh = self.first is None or moment.step == 0
            self.first = (
                pairs.eigenvectors if fresh else to_device_of(self.first, pairs.eigenvectors)
            )
        return moment.shared[self]

    def state(self) -> dict[str, Any]:
        """The eigenvectors of the start, and where the next search begins."""
        return {"first": self.first, "last": self._last}

    def restore(self, arrays: dict[str, Any]) -> None:
        """Take up what :meth:`state` gave."""
        self.first, self._last = arrays["first"], arrays["last"]


class _OfPairs:
    """An observer of the pairs that a :class:`TopEigenpairs` finds."""

    by_sample = TopEigenpairs.by_sample

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
        now = self.top.at(moment).eigenvectors
        return angles_between(self.top.first, now, moment.space)


def angles_between(U: Any, V: Any, space: RowDistribution) -> Any:
    """:func:`opflow.spectral.principal_angles`, also of columns with sharded rows."""
    if space.sharded:  # both in coordinates of an orthonormal basis of their sum
        both = space.qr(namespace(V).concatenate([U, V], axis=1))[1]
        U, V = both[:, : U.shape[1]], both[:, U.shape[1] :]
    return principal_angles(U, V)


class Modes(_OfPairs):
    """The residual on the eigenvectors of the start."""

    name = "modes"

    def __call__(self, moment: Moment) -> Any:
        self.top.at(moment)
        modes = moment.space.gram(self.top.first, moment.residual.reshape(-1))
        return to_host(modes).astype(np.float64)


class Spectrum:
    r"""The density of the eigenvalues of K, on one grid all along the run.

    Parameters
    ----------
    grid : array (g,), optional
        Eigenvalues; by default `points` of them, evenly over the spectrum of the start on this
        axis and a decade (or a tenth of it) beyond either end.
    points : int, default 200
    log : bool, default True
        A density per unit of log₁₀ λ, as in :func:`opflow.spectral.density`.
    probes, steps : int, default 4 and 60
    rng, seed : int, numpy.random.Generator or None, default 0
        As there; the same random vectors at every moment, if it is an integer.

    Attributes
    ----------
    grid : array (g,)
    width : float
        Of the Gaussian that stands for an eigenvalue: that of the start, at every moment.

    Notes
    -----
    An array (g,) a moment, named ``spectrum``: its integral over the axis is the fraction of
    eigenvalues that are not zero.  Costs the fields and probes·steps products.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> spectrum = of.observe.Spectrum(points=50)
    >>> run = of.train(
    ...     of.ReLUNetwork.random([3, 8], seed=0), np.eye(3), np.ones(3), steps=5,
    ...     observe=[spectrum],
    ... )
    >>> run.observations["spectrum"].shape, spectrum.grid.shape
    ((6, 50), (50,))
    """

    name = "spectrum"

    @keywords
    def __init__(
        self,
        grid: Any = None,
        *,
        points: int = 200,
        log: bool = True,
        probes: int = 4,
        steps: int = 60,
        rng: Seed = 0,
        seed: Seed = 0,
    ) -> None:
        self._given = None if grid is None else np.asarray(as_array(grid, "grid"), np.float64)
        self.grid = self._given
        self.points, self.log = check_integer(points, "points", 1), log
        self.width: float | None = None
        self._options: dict[str, Any] = {
            "probes": check_integer(probes, "probes", 2),
            "steps": check_integer(steps, "steps", 1),
            "rng": rng,
        }

    def __call__(self, moment: Moment) -> Any:
        if moment.step == 0:
            self.grid, self.width = self._given, None
        rho = density(moment.kernel, log=self.log, width=self.width, **self._options)
        self.width = rho.width
        if self.grid is None:
            low, high = rho.grid(2)
            reach = 10.0 if self.log else 0.1 * (high - low)
            self.grid = (
                np.geomspace(low / reach, high * reach, self.points)
                if self.log
                else np.linspace(low - reach, high + reach, self.points)
            )
        return rho(self.grid)

    def state(self) -> dict[str, Any]:
        """The grid and the width."""
        return {"grid": self.grid, "width": np.array(self.width)}

    def restore(self, arrays: dict[str, Any]) -> None:
        """Take up what :meth:`state` gave."""
        self.grid, self.width = arrays["grid"], float(arrays["width"])


class Alignment:
    r"""Kernel-target alignment: of K, then of the share of each layer.

    Parameters
    ----------
    centred : bool, default False
        As in :func:`opflow.spectral.alignment`; every output has its own mean.
    products : int, default 60
        To spend on the norm of each kernel, where it is estimated.
    residual : bool, default False
        Align with what is left to learn instead of the targets.

    Notes
    -----
    An array (1 + L,) a moment, named ``alignment``:
    :math:`y^T K y / (\|K\|_F \|y\|^2)` of K, K_1, …, K_L.  NaN for a kernel that is zero, and
    where there is nothing to align with (a residual of zero, constant targets if centred).
    Costs the fields and L + 1 Frobenius norms: exact ones form every entry tile by tile.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> run = of.train(
    ...     of.ReLUNetwork.random([3, 8, 8], seed=0), np.eye(3), np.ones(3), steps=5,
    ...     observe=[of.observe.Alignment()],
    ... )
    >>> run.observations["alignment"].shape
    (6, 3)
    """

    name = "alignment"

    def __init__(
        self, *, centred: bool = False, products: int = 60, residual: bool = False
    ) -> None:
        self.centred, self.products, self.residual = centred, products, residual

    def __call__(self, moment: Moment) -> Any:
        y = moment.residual if self.residual else moment.targets
        space = moment.space
        rest = y - space.total(y.sum(axis=0)) / moment.samples if self.centred else y
        eps = float(np.finfo(y.dtype).eps)
        left, size = space.largest(np.array([_largest(rest), _largest(y)])).tolist()
        if left <= 10 * eps * size:
            return np.full(1 + len(moment.layer_kernels), np.nan)
        return np.array(
            [
                float(alignment(K, y, centred=self.centred, products=self.products))
                for K in (moment.kernel, *moment.layer_kernels)
            ]
        )


def _largest(x: Any) -> float:
    """The largest absolute value held here, of none 0."""
    return float(abs(x).max()) if x.size else 0.0


class Sharpness:
    r"""λ_max of what the run descends: of K, or of K/N where it takes the mean loss.

    It is the largest eigenvalue of the Gauss–Newton matrix of the loss, which is that of K, and not
    of the Hessian: the second derivatives of f, times the residual, are left out.

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
    >>> bool(run.observations["sharpness"][-1] < 2 / run.step)
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
    rng, seed : int, numpy.random.Generator or None, default 0

    Notes
    -----
    Both norms are estimated with the same p Gaussian vectors V: :math:`\|K V\|_F^2` has the mean
    :math:`p\,\|K\|_F^2` and a standard deviation of at most :math:`\sqrt{2/p}` of it, reached for
    rank one; so 95 % of the time either norm is within some 25 % for p = 32 at worst.  0 where the
    kernel has not moved, ∞ where it was zero.  :func:`opflow.spectral.kernel_distance` has
    intervals.
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
    by_sample = ("vectors", "start")

    @keywords
    def __init__(self, probes: int = 32, *, rng: Seed = 0, seed: Seed = 0) -> None:
        self.probes, self._rng = check_integer(probes, "probes", 1), rng
        self._vectors: Any = None
        self._start: Any = None

    def __call__(self, moment: Moment) -> float:
        K, norm = moment.kernel, moment.space.norm
        if self._vectors is None or moment.step == 0:
            self._vectors = gaussian(K, self.probes, self._rng)
            self._start = K.matmat(self._vectors)
            return 0.0
        self._vectors, self._start = (
            to_device_of(x, moment.residual) for x in (self._vectors, self._start)
        )
        moved = K.matmat(self._vectors) - self._start
        # a power of two near the entries, so that no square of them is lost
        largest = float(moment.space.largest(np.float64(_largest(self._start))))
        unit = math.ldexp(1.0, math.frexp(largest)[1] - 1)
        start, far = (float(norm(x / unit)) for x in (self._start, moved))
        if not start:
            return math.inf if far else 0.0
        return far / start

    def state(self) -> dict[str, Any]:
        """The vectors, and what the first kernel made of them."""
        return {"vectors": self._vectors, "start": self._start}

    def restore(self, arrays: dict[str, Any]) -> None:
        """Take up what :meth:`state` gave."""
        self._vectors, self._start = arrays["vectors"], arrays["start"]
