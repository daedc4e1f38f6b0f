"""Krylov spaces of symmetric operators."""
