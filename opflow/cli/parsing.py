"""How the options of the command line are read: values with their bounds, errors in one line."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from opflow.interface.words import near

#: what other tools call our options
ELSEWHERE = {
    **dict.fromkeys(("--lr", "--learning-rate", "--step-size"), "--step"),
    **dict.fromkeys(("--epochs", "--iterations"), "--steps"),
    **dict.fromkeys(("--hidden", "--layers"), "--widths"),
    **{"--batch-size": "--batch", "--optimizer": "--method", "--output": "--out"},
}


class Parser(argparse.ArgumentParser):
    """One line for every error, whole names of options, and a hint where a name is nearly one."""

    def __init__(self, **how: Any) -> None:
        shown = partial(argparse.RawDescriptionHelpFormatter, max_help_position=28, width=100)
        super().__init__(allow_abbrev=False, formatter_class=shown, **how)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        # argparse would first miss the option that was meant.
        known = self._option_string_actions
        if self._subparsers is None:
            for word in itertools.takewhile(lambda word: word != "--", args or ()):
                name = word.partition("=")[0]
                if name.startswith("--") and name not in known:
                    meant = ELSEWHERE.get("--lr" if name.startswith("--lr") else name)
                    hint = f"; {meant} is its name here" if meant in known else near(name, known)
                    self.error(f"there is no option {name}{hint}")
        return super().parse_known_args(args, namespace)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = list(action.choices)
            told = f"{value!r} is none of {', '.join(choices)}{near(value, choices)}"
            raise argparse.ArgumentError(action, told)

    def error(self, message: str) -> NoReturn:  # one line, no usage before it
        self.exit(2, f"opflow: error: {message} (see {self.prog} --help)\n")


def widths(text: str) -> list[int]:
    """Units of the layers."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be like 256,256,256") from None
    if min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: every width must be at least 1")
    return found


def at_least(least: int) -> Callable[[str], int]:
    """Integers from `least` on, also as 1e6."""

    def count(text: str) -> int:
        value = _number(text)
        if not (value >= least and value == int(value)):
            raise argparse.ArgumentTypeError(f"{text!r} must be an integer of at least {least}")
        return int(value)

    return count


def _number(text: str) -> float:
    """A finite number, or NaN, which no bound holds for."""
    with contextlib.suppress(ValueError):
        if math.isfinite(value := float(text)):
            return value
    return math.nan


def _between(low: float, high: float, words: str) -> Callable[[str], float]:
    def real(text: str) -> float:
        value = _number(text)
        if not low < value < high:
            raise argparse.ArgumentTypeError(f"{text!r} must be {words}")
        return value

    return real


positive = _between(0, math.inf, "positive")
fraction = _between(0, 1, "between 0 and 1, as 0.2")


def step_size(text: str) -> float | str:
    """A step size, or auto."""
    if text == "auto":
        return text
    return _between(0, math.inf, "positive, or auto")(text)


def interval(text: str) -> dict[str, float | None]:
    """Steps, or seconds as 600s."""
    value = _number(text.removesuffix("s"))
    if text.endswith("s") and value > 0:
        return {"steps": None, "seconds": value}
    if not (value >= 1 and value == int(value)):
        raise argparse.ArgumentTypeError(f"{text!r} must be steps, as 100, or seconds, as 600s")
    return {"steps": int(value), "seconds": None}
