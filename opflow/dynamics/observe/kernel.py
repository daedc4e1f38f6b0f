"""Observers of the moving kernel: spectrum, alignment, sharpness, distance from the start."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from opflow.dynamics.observe.moment import Moment, Remembering
from opflow.interface.keywords import Seed, keywords
from opflow.machine.arrays import Array, Data, as_array, check_integer, to_device_of
from opflow.spectral.blocks import gaussian, largest_entry
from opflow.spectral.compare import alignment
from opflow.spectral.density.density import density
from opflow.spectral.krylov.lanczos import largest_eigenvalue


class Spectrum(Remembering):
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

    See Also
    --------
    opflow.spectral.density : The density at one moment.
    opflow.observe.TopEigenpairs : The largest eigenvalues.

    Notes
    -----
    An array (g,) a moment, named ``spectrum``: its integral over the axis is the fraction of
    eigenvalues that are not zero.  Costs the fields and probes·steps products.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> spectrum = of.observe.Spectrum(points=50)
    >>> net = of.ReLUNetwork.random([3, 8], seed=0)
    >>> run = of.train(net, np.eye(3), np.ones(3), steps=5, observe=[spectrum])
    >>> run.observations["spectrum"].shape, spectrum.grid.shape
    ((6, 50), (50,))
    """

    name = "spectrum"
    remembered = ("grid", "width")

    @keywords
    def __init__(
        self,
        grid: Data = None,
        *,
        points: int = 200,
        log: bool = True,
        probes: int = 4,
        steps: int = 60,
        rng: Seed = 0,
        seed: Seed = 0,
    ) -> None:
        self._given = None if grid is None else np.asarray(as_array(grid, "grid"), np.float64)
        self.grid: Any = self._given
        self.points = check_integer(points, "points", 1)
        self.log = log
        self.width: float | None = None
        self._options: dict[str, Any] = {
            "probes": check_integer(probes, "probes", 2),
            "steps": check_integer(steps, "steps", 1),
            "rng": rng,
        }

    def __call__(self, moment: Moment) -> Array:
        if moment.step == 0:
            self.grid = self._given
            self.width = None
        rho = density(moment.kernel, log=self.log, width=self.width, **self._options)
        self.width = rho.width
        if self.grid is None:
            low, high = rho.grid(2)
            if self.log:
                self.grid = np.geomspace(low / 10, high * 10, self.points)
            else:
                reach = 0.1 * (high - low)
                self.grid = np.linspace(low - reach, high + reach, self.points)
        return rho(self.grid)


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

    See Also
    --------
    opflow.spectral.alignment : The same of any kernel.
    opflow.plot.alignment : Draws it.
    opflow.observe.KernelDistance : How far the kernel has moved.

    Notes
    -----
    An array (1 + L,), with a trained readout (2 + L,), a moment, named ``alignment``:
    :math:`y^T K y / (\|K\|_F \|y\|^2)` of K, K_1, …, K_L [1]_, [2]_.  NaN for a kernel that is
    zero, and where there is nothing to align with (a residual of zero, constant targets if
    centred).  Costs the fields and L + 1 Frobenius norms: exact ones form every entry tile by tile.

    References
    ----------
    .. [1] C. Cortes, M. Mohri, A. Rostamizadeh, "Algorithms for learning kernels based on centered
       alignment", JMLR 13, 2012.
    .. [2] A. Baratin et al., "Implicit regularization via neural feature alignment", 2021,
       arXiv:2008.00938.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> net = of.ReLUNetwork.random([3, 8, 8], seed=0)
    >>> run = of.train(net, np.eye(3), np.ones(3), steps=5, observe=[of.observe.Alignment()])
    >>> run.observations["alignment"].shape
    (6, 3)
    """

    name = "alignment"

    def __init__(
        self, *, centred: bool = False, products: int = 60, residual: bool = False
    ) -> None:
        self.centred = centred
        self.products = products
        self.residual = residual

    def __call__(self, moment: Moment) -> Array:
        y = moment.residual if self.residual else moment.targets
        rest = y
        if self.centred:
            rest = y - moment.space.total(y.sum(axis=0)) / moment.samples
        left = largest_entry(rest, moment.space)
        size = largest_entry(y, moment.space)
        kernels = [moment.kernel, *moment.layer_kernels]
        if left <= 10 * float(np.finfo(y.dtype).eps) * size:
            return np.full(len(kernels), np.nan)
        found = [alignment(K, y, centred=self.centred, products=self.products) for K in kernels]
        return np.array(found, dtype=np.float64)


class Sharpness:
    r"""The largest eigenvalue λ_max along a run: of K, or of K/N for the mean loss.

    It is the largest eigenvalue of the Gauss–Newton matrix of the loss, which is that of K, and not
    of the Hessian, which the literature calls the sharpness: the second derivatives of f, times the
    residual, are left out.  :class:`HessianEigenvalues` has them.  For an objective that is not
    quadratic it is a bound, λ_max(K) times the curvature of the loss.

    Parameters
    ----------
    tol : float, default 1e-2
        Relative, as in :func:`opflow.spectral.largest_eigenvalue`.
    steps : int, default 30
        Products at most.

    See Also
    --------
    opflow.observe.HessianEigenvalues : The extreme eigenvalues of the Hessian.
    opflow.spectral.sharpness : The same of any kernel.
    opflow.plot.sharpness : Draws it.

    Notes
    -----
    Gradient descent of step s amplifies a mode whose eigenvalue exceeds 2/s [1]_: compare with
    ``2 / run.step``.  Costs the fields and up to `steps` products.

    References
    ----------
    .. [1] J. Cohen et al., "Gradient descent on neural networks typically occurs at the edge of
       stability", 2021, arXiv:2103.00065.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> net = of.ReLUNetwork.random([3, 8], seed=0)
    >>> run = of.train(net, np.eye(3), np.ones(3), steps=5, observe=[of.observe.Sharpness()])
    >>> bool(run.observations["sharpness"][-1] < 2 / run.step)
    True
    """

    name = "sharpness"

    def __init__(self, *, tol: float = 1e-2, steps: int = 30) -> None:
        self.tol = tol
        self.steps = steps

    def __call__(self, moment: Moment) -> float:
        found = largest_eigenvalue(moment.kernel, tol=self.tol, steps=self.steps)
        return moment.share * moment.objective.curvature * found.value


class KernelDistance(Remembering):
    r"""How far the kernel has moved, ‖K(t) − K(0)‖_F / ‖K(0)‖_F.

    Parameters
    ----------
    probes : int, default 32
        Random vectors, the same at every moment.
    rng, seed : int, numpy.random.Generator or None, default 0

    See Also
    --------
    opflow.spectral.kernel_distance : The same of any kernels.
    opflow.observe.Alignment : The alignment with the targets.

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
    >>> net = of.ReLUNetwork.random([3, 8], seed=0)
    >>> run = of.train(net, np.eye(3), np.ones(3), steps=5, observe=[of.observe.KernelDistance()])
    >>> float(run.observations["kernel_distance"][0])
    0.0
    """

    name = "kernel_distance"
    by_sample = remembered = ("vectors", "start")

    @keywords
    def __init__(self, probes: int = 32, *, rng: Seed = 0, seed: Seed = 0) -> None:
        self.probes = check_integer(probes, "probes", 1)
        self._rng = rng
        self.vectors: Any = None
        self.start: Any = None  #: the first kernel times the vectors

    def __call__(self, moment: Moment) -> float:
        K = moment.kernel
        if self.vectors is None or moment.step == 0:
            self.vectors = gaussian(K, self.probes, self._rng)
            self.start = K.matmat(self.vectors)
            return 0.0
        # a checkpoint may have brought them from the other side
        self.vectors = to_device_of(self.vectors, moment.residual)
        self.start = to_device_of(self.start, moment.residual)
        moved = K.matmat(self.vectors) - self.start
        # a power of two near the entries, so that no square of them is lost
        largest = largest_entry(self.start, moment.space)
        unit = math.ldexp(1.0, math.frexp(largest)[1] - 1)
        start = float(moment.space.norm(self.start / unit))
        far = float(moment.space.norm(moved / unit))
        if not start:
            return math.inf if far else 0.0
        return far / start
