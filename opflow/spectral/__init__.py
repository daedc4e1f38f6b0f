"""Spectral analysis of symmetric operators.

Every function raises a ``ValueError`` or ``TypeError`` that names the argument: for an operator
that is not square, symmetric, real and finite, or is seen not to be PSD where it has to be, and
for shapes, dtypes and numbers that do not fit.  Docstrings name what else may be raised.

Functions that draw random vectors take ``rng`` (or ``seed``): an int, a ``numpy.random.Generator``
or None; 0 by default.  ``progress=True`` counts the products on standard error.
"""

from opflow.spectral.checks import ConvergenceWarning, Estimate
from opflow.spectral.compare import alignment, kernel_alignment, kernel_distance
from opflow.spectral.density.density import Density, density
from opflow.spectral.density.quadrature import quadrature
from opflow.spectral.density.rule import Quadrature
from opflow.spectral.eigen.eigsh import eigsh
from opflow.spectral.eigen.lapack import eigh
from opflow.spectral.eigen.results import Eigenpairs, SingularTriplets
from opflow.spectral.eigen.svds import svds
from opflow.spectral.functions.exponential import expm, phi, phi1
from opflow.spectral.functions.matrix_functions import funm, sqrtm
from opflow.spectral.functions.posterior import Posterior, posterior
from opflow.spectral.functions.preconditioners import Jacobi, Nystrom, jacobi, nystrom
from opflow.spectral.functions.regression import KernelRegression, kernel_regression, learning_curve
from opflow.spectral.functions.resolution import resolution
from opflow.spectral.functions.solve import Solution, solve
from opflow.spectral.krylov.block import block_lanczos
from opflow.spectral.krylov.flow import Krylov
from opflow.spectral.krylov.lanczos import Largest, lanczos, largest_eigenvalue
from opflow.spectral.modes import (
    decay,
    layer_shares,
    principal_angles,
    projections,
    spectrum_shares,
)
from opflow.spectral.traces.norms import condition_number, frobenius_norm, norm, participation_ratio
from opflow.spectral.traces.stability import Sharpness, sharpness
from opflow.spectral.traces.trace import Diagonal, diagonal, trace
from opflow.spectral.traces.trace_functions import effective_dimension, effective_rank, logdet

__all__ = [
    "ConvergenceWarning",
    "Density",
    "Diagonal",
    "Eigenpairs",
    "Estimate",
    "Jacobi",
    "KernelRegression",
    "Krylov",
    "Largest",
    "Nystrom",
    "Posterior",
    "Quadrature",
    "Sharpness",
    "SingularTriplets",
    "Solution",
    "alignment",
    "block_lanczos",
    "condition_number",
    "decay",
    "density",
    "diagonal",
    "effective_dimension",
    "effective_rank",
    "eigh",
    "eigsh",
    "expm",
    "frobenius_norm",
    "funm",
    "jacobi",
    "kernel_alignment",
    "kernel_distance",
    "kernel_regression",
    "lanczos",
    "largest_eigenvalue",
    "layer_shares",
    "learning_curve",
    "logdet",
    "norm",
    "nystrom",
    "participation_ratio",
    "phi",
    "phi1",
    "posterior",
    "principal_angles",
    "projections",
    "quadrature",
    "resolution",
    "sharpness",
    "solve",
    "spectrum_shares",
    "sqrtm",
    "svds",
    "trace",
]

__dir__ = __all__.copy  # for dir()
