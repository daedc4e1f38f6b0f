"""The Hessian of a loss of a module."""


def hessian() -> None:
    """Not yet."""
