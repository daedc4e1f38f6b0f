"""Data sets: how they are read, what the targets are, standardisation."""
