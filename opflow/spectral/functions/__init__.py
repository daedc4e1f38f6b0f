"""Functions of operators times vectors, and linear systems."""
