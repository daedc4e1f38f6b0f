"""Keywords that mean the same in every function that has them: `rng`, `seed` and `progress`.

`rng` and `seed` are two names of one argument, where randomness comes from: an integer, a
``numpy.random.Generator``, or ``None`` for a fresh one.  ``progress=True`` counts the products
with an operator on standard error, and changes no result.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import numpy as np

from opflow.interface.progress import Bar

Seed = int | np.random.Generator | None

TWICE = "{}: rng and seed are two names of one argument, give one of them"

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")
_bar: ContextVar[Any] = ContextVar("bar", default=None)


def keywords(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Give a function these keywords; its body needs to read `rng` alone."""

    @functools.wraps(function)
    def call(*args: _Parameters.args, **options: _Parameters.kwargs) -> _Result:
        if "seed" in options:
            if "rng" in options:
                raise TypeError(TWICE.format(function.__name__))
            options["rng"] = options.pop("seed")
        if not options.get("progress") or _bar.get() is not None:
            return function(*args, **options)
        with product_bar(function.__name__):
            return function(*args, **options)

    return call


@contextmanager
def product_bar(name: str, **options: Any) -> Iterator[None]:
    """A bar that counts the products in the block; `options` are those of `Bar`."""
    with Bar(desc=name, unit=" products", **options) as bar:
        token = _bar.set(bar)
        try:
            yield
        finally:
            _bar.reset(token)


def advance(products: int, stage: str | None = None, total: int | None = None) -> None:
    """Count products on the bar, if there is one, or start its next stage."""
    if (bar := _bar.get()) is not None:
        if stage is not None:
            bar.reset(total)
            bar.set_description_str(stage)
        bar.update(products)
