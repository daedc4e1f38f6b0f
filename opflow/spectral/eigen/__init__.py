"""Eigenpairs and singular triplets."""
