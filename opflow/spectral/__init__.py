"""Spectral analysis of symmetric operators."""

from opflow.spectral.checks import ConvergenceWarning, Estimate
from opflow.spectral.functions import Krylov, expm, phi1
from opflow.spectral.lanczos import Largest, lanczos, largest_eigenvalue

__all__ = [
    "ConvergenceWarning",
    "Estimate",
    "Krylov",
    "Largest",
    "expm",
    "lanczos",
    "largest_eigenvalue",
    "phi1",
]
