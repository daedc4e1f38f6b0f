"""The gates of an exact run: which pre-activation is next to reach zero, and what follows there."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from opflow.dynamics.methods.exact.crossings import first_zero, may_vanish
from opflow.dynamics.methods.exact.series import CLOSED, OPEN, SLIDES, Flowing, Series
from opflow.machine.arrays import Array

#: velocities and forces below this part of the largest of their layer count as zero
STILL = 1e-10
#: rounds in which all gates that are wrong change at once; later ones change the first alone
BLOCKS = 8
#: rows of layers, samples, units and gates
Places = Array


class Unsettled(ArithmeticError):
    """No gates at zero are found that agree with their velocities."""


class Gates:
    """The gates of all layers, and the pre-activations that are at zero without sliding.

    Parameters
    ----------
    flowing : Flowing
    hidden : list of arrays (N, n_ℓ)
        The pre-activations of the start.
    """

    def __init__(self, flowing: Flowing, hidden: Sequence[Array]) -> None:
        self.flowing = flowing
        self.values = [np.where(h > 0, OPEN, CLOSED) for h in hidden]
        self.zero = [h == 0 for h in hidden]
        #: the step to try next, and the unit of time of its series
        self.unit = 1.0
        #: how many gates at zero were closed, but not by their velocities
        self.unclear = 0

    @property
    def _deep(self) -> bool:
        return len(self.values) > 1

    def series(self, weights: Sequence[Array]) -> Series:
        """The series of these gates, of first order."""
        return self._first_order(weights, self.values)

    def _first_order(self, weights: Sequence[Array], gates: Sequence[Array]) -> Series:
        series = Series(self.flowing, weights, gates, self.unit)
        series.grow()
        return series

    def copies(self) -> list[Array]:
        """The gates as they are."""
        return [gates.copy() for gates in self.values]

    def leave(self) -> None:
        """The run has moved: no pre-activation is at zero but those that slide."""
        self.zero = [np.zeros(gates.shape, dtype=bool) for gates in self.values]

    def first_event(self, series: Series, size: float) -> tuple[float, Places]:
        """When the first gates change, and to what; no places if none does until then."""
        polynomials = []
        places = []
        for i, known in enumerate(series.hidden):
            h = known[: series.order + 1]
            free = self.values[i] != SLIDES
            near = self.zero[i] | may_vanish(h, size)
            at = np.nonzero(free & near)
            gate = self.values[i][at]
            c = (2.0 * gate - 1) * np.stack([part[at] for part in h])
            _divide(c, self.zero[i][at], STILL * abs(h[1]).max())
            polynomials.append(c)
            places.append(_places(i, at, 1 - gate))
        if series.sliding:
            u = np.zeros((series.order + 1, sum(len(p.units) for p in series.sliding)))
            g = u.copy()
            u[:-1] = series.held
            g[:-1] = series.driven
            slope = np.concatenate(
                [np.full(len(p.units), self.flowing.slopes[p.layer]) for p in series.sliding]
            )
            if self._deep:
                one = series.together()
                u = u @ one
                g = g @ one
            polynomials += [g - u, u - slope * g]
            for end in (OPEN, CLOSED):
                places += [_places(p.layer, (p.samples, p.units), end) for p in series.sliding]
        time, first = first_zero(np.hstack(polynomials), size)
        return time, np.hstack(places)[:, first]

    def change(self, places: Places) -> None:
        """Give gates at zero these values."""
        for i, (gates, zero) in enumerate(zip(self.values, self.zero, strict=True)):
            _, samples, units, values = places[:, places[0] == i]
            gates[samples, units] = values
            zero[samples, units] = True

    def settle(self, weights: Sequence[Array], before: Sequence[Array], stuck: bool) -> Series:
        """Find the gates at zero that agree with where they move the pre-activations.

        A pair that would return is closed, opened, or slides.  That is the complementarity problem
        of the velocity of least norm between those of all gates, solved by block pivots.

        Parameters
        ----------
        weights : list of arrays
        before : list of arrays
            The gates before.
        stuck : bool
            Whether gates change again and again without moving.
        """
        if stuck:
            self._collapse(weights)
        self._follow(weights, before)
        count = sum(int((z | (g == SLIDES)).sum()) for z, g in zip(self.zero, before, strict=True))
        most = BLOCKS + 4 * count
        for attempt in itertools.count():
            series = self.series(weights)
            wrong = self._wrong(series)
            if not wrong.size and not self._join(series):
                break
            if attempt > most + BLOCKS:
                raise Unsettled(f"no gates of {count} pre-activations at zero fit their velocities")
            if attempt == most:
                self._collapse(weights)
                continue
            if attempt == BLOCKS:  # ReLU'(0) = 0 decides where nothing else does
                wrong[3] = CLOSED
                self.unclear += 1
            elif attempt > BLOCKS:
                wrong = wrong[:, :1]
            self.change(wrong)
        self.unclear += self._repelled(series, weights, before)
        return series

    def _join(self, series: Series) -> bool:
        """Let all that are one with a sliding pair slide; whether any did not."""
        found = False
        for i, gates in enumerate(self.values[1:], 1):
            dead = series.dead(i)
            slides = dead[:, None] & (gates[dead] == SLIDES).any(axis=0)
            found |= bool((gates[slides] != SLIDES).any())
            gates[slides] = SLIDES
        return found

    def _collapse(self, weights: Sequence[Array]) -> None:
        """Close ReLU units that have lost all weights.

        Descent stays within a step of zero too, until a direction appears in which it leaves:
        where these units do, the flow is not unique.
        """
        for gates, W, slope in zip(self.values, weights, self.flowing.slopes, strict=False):
            size = abs(W).max(axis=1)
            units = (size <= STILL * size.max()) & gates.any(axis=0)
            if not slope and units.any():
                W[units] = 0.0
                gates[:, units] = CLOSED
                self.unclear += len(gates) * int(units.sum())

    def _follow(self, weights: Sequence[Array], before: Sequence[Array]) -> None:
        """Let gates be as they were above the lowest layer that changes.

        Such a pre-activation may have no zero of its own, but follow one below: its velocity says.
        Where the inputs of its layer vanish it is at zero.
        """
        if not self._deep:
            return
        changes = [not np.array_equal(a, b) for a, b in zip(self.values, before, strict=True)]
        if any(changes):
            lowest = changes.index(True) + 1
            self.values[lowest:] = [gates.copy() for gates in before[lowest:]]
        series = Series(self.flowing, weights, self.values, self.unit)
        for i, gates in enumerate(self.values[1:], 1):
            if self.flowing.biased[i]:
                continue
            dead = series.dead(i)
            gates[dead] = np.where(before[i][dead] == SLIDES, CLOSED, before[i][dead])
            self.zero[i][dead] = True

    def _wrong(self, series: Series) -> Places:
        """The gates at zero that do not agree with the series, and what to try in their place."""
        start = 0
        if series.sliding:
            one = series.together() if self._deep else 1.0
            held = np.dot(series.held[0], one)
            driven = np.dot(series.driven[0], one)
        for i, slope in enumerate(self.flowing.slopes):
            # Lower layers first: upper ones move as these do.
            free = np.nonzero(self.zero[i] & (self.values[i] != SLIDES))
            gates = self.values[i][free]
            wrong = (2 * gates - 1) * _away(series, i, free) < 0
            slides = (1 - slope) * _driven(series, i)[free] > 0
            if not self.flowing.biased[i]:
                slides &= ~series.dead(i)[free[0]]
            places = [_places(i, free, np.where(slides, SLIDES, 1 - gates))[:, wrong]]
            for p in series.sliding:
                if p.layer == i:
                    part = slice(start, start + len(p.units))
                    start = part.stop
                    u = held[part]
                    g = driven[part]
                    small = STILL * abs(series.drives[i]).max()
                    low = u - slope * g < -small
                    high = g - u < -small
                    found = _places(i, (p.samples, p.units), np.where(low, CLOSED, OPEN))
                    places.append(found[:, low | high])
            if any(part.size for part in places):
                break
        return np.hstack(places)

    def _repelled(self, series: Series, weights: Sequence[Array], before: Sequence[Array]) -> int:
        """How many gates at zero were left closed that would stay open as well."""
        trial = [
            np.where(zero & (old == CLOSED) & (new == CLOSED) & ((1 - slope) * g < 0), OPEN, new)
            for zero, old, new, slope, g in zip(
                self.zero, before, self.values, self.flowing.slopes, series.drives, strict=True
            )
        ]
        if all(np.array_equal(a, b) for a, b in zip(trial, self.values, strict=True)):
            return 0
        other = self._first_order(weights, trial)
        moved = zip(trial, self.values, other.hidden, strict=True)
        return sum(int(((a != b) & (h[1] > STILL * abs(h[1]).max())).sum()) for a, b, h in moved)


def _driven(series: Series, layer: int) -> Array:
    """What drives the units of a layer, (N, n_ℓ), summed over samples that are one there."""
    drives = series.drives[layer]
    if not layer:
        return drives
    first = series.tied(layer)
    total = np.zeros_like(drives)
    np.add.at(total, first, drives)
    return total[first]


def _away(series: Series, layer: int, at: tuple[Array, ...]) -> Array:
    """The velocities of some pairs, or their accelerations where these are zero."""
    h = series.hidden[layer]
    v = h[1][at]
    still = abs(v) <= STILL * abs(h[1]).max()
    if still.any():
        if series.order < 2:
            series.grow()
        second = h[2][at]
        second[abs(second) <= STILL * abs(h[2]).max()] = 0.0
        v = np.where(still, second, v)
    return v


def _places(layer: int, at: tuple[Array, ...], gates: Array | int) -> Places:
    full = np.empty((4, len(at[0])), dtype=np.int64)
    full[0] = layer
    full[1:3] = at
    full[3] = gates
    return full


def _divide(c: Array, zero: Array, still: float) -> None:
    """Divide polynomials that are zero at the start by t, those that are still by t²."""
    for _ in range(2):
        c[:-1, zero] = c[1:, zero]
        c[-1, zero] = 0.0
        zero = zero & (abs(c[0]) <= still)
