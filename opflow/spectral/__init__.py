"""Spectral analysis of symmetric operators.

Every function raises a ``ValueError`` or ``TypeError`` that names the argument: for an operator
that is not square, symmetric, real and finite, or is seen not to be PSD where it has to be, and
for shapes, dtypes and numbers that do not fit.  Docstrings name what else may be raised.
"""

from opflow.spectral.block import block_lanczos
from opflow.spectral.checks import ConvergenceWarning, Estimate
from opflow.spectral.comparison import (
    alignment,
    kernel_alignment,
    kernel_distance,
    principal_angles,
)
from opflow.spectral.distribution import Density, density
from opflow.spectral.eigen import Eigenpairs, eigh, eigsh
from opflow.spectral.exponential import expm, phi, phi1
from opflow.spectral.functionals import effective_dimension, effective_rank, logdet
from opflow.spectral.functions import funm, sqrtm
from opflow.spectral.gauss import Quadrature, quadrature
from opflow.spectral.krylov import Krylov
from opflow.spectral.modes import (
    Sharpness,
    decay,
    layer_shares,
    projections,
    sharpness,
    spectrum_shares,
)
from opflow.spectral.preconditioners import Jacobi, Nystrom, jacobi, nystrom
from opflow.spectral.regression import KernelRegression, kernel_regression
from opflow.spectral.scalars import condition_number, frobenius_norm, norm, participation_ratio
from opflow.spectral.solver import Solution, solve
from opflow.spectral.svd import SingularTriplets, svds
from opflow.spectral.traces import Diagonal, diagonal, trace
from opflow.spectral.tridiagonal import Largest, lanczos, largest_eigenvalue

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
    "logdet",
    "norm",
    "nystrom",
    "participation_ratio",
    "phi",
    "phi1",
    "principal_angles",
    "projections",
    "quadrature",
    "sharpness",
    "solve",
    "spectrum_shares",
    "sqrtm",
    "svds",
    "trace",
]

__dir__ = __all__.copy  # for dir()
