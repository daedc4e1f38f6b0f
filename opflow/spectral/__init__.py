"""Spectral analysis of symmetric operators."""

from opflow.spectral.lanczos import Largest, lanczos, largest_eigenvalue

__all__ = ["Largest", "lanczos", "largest_eigenvalue"]
