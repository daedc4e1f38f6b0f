"""``by_class``: ``singledispatch`` whose rules may leave a case to the general one."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, singledispatch
from typing import Any, Generic, TypeVar

R = TypeVar("R")


class by_class(Generic[R]):
    """:func:`functools.singledispatch`, with rules that may return ``NotImplemented``.

    The function that is decorated, the general rule, then gives the result.
    """

    def __init__(self, general: Callable[..., R]) -> None:
        self.general = general
        self._rules = singledispatch(general)
        self.dispatch: Any = cache(self._rules.dispatch)  # faster than the cache of singledispatch

    def register(self, *kind_and_rule: Any) -> Any:
        """Add a rule, as a decorator or as a function of a class and the rule."""
        self.dispatch.cache_clear()
        return self._rules.register(*kind_and_rule)

    def __call__(self, *arguments: Any) -> R:
        found = self.dispatch(type(arguments[0]))(*arguments)
        if found is NotImplemented:
            return self.general(*arguments)
        return found
