"""Spectral analysis of symmetric operators."""

from opflow.spectral.block import block_lanczos
from opflow.spectral.checks import ConvergenceWarning, Estimate
from opflow.spectral.eigen import Eigenpairs, eigh, eigsh
from opflow.spectral.functions import Krylov, expm, phi1
from opflow.spectral.lanczos import Largest, lanczos, largest_eigenvalue
from opflow.spectral.svd import SingularTriplets, svds

__all__ = [
    "ConvergenceWarning",
    "Eigenpairs",
    "Estimate",
    "Krylov",
    "Largest",
    "SingularTriplets",
    "block_lanczos",
    "eigh",
    "eigsh",
    "expm",
    "lanczos",
    "largest_eigenvalue",
    "phi1",
    "svds",
]
