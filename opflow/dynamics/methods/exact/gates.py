"""Gate events of an exact run: which pre-activation reaches zero next, and what follows there."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from opflow.dynamics.methods.exact.crossings import first_zero, may_vanish
from opflow.dynamics.methods.exact.distinct import Distinct
from opflow.dynamics.methods.exact.series import CLOSED, OPEN, SLIDES, Series
from opflow.machine.arrays import Array

#: velocities and forces below this part of the largest of their layer count as zero
STILL = 1e-10
#: rounds in which all gates that are wrong change at once; later ones change the first alone
BLOCKS = 8
#: pairs as rows of their samples and columns
Pairs = tuple[Array, ...]
#: and with gates for them as a third row
Places = Array


class Unsettled(ArithmeticError):
    """No gates at zero are found that agree with their velocities."""


class Gates:
    """The gates of all layers, (N, Σn_ℓ), and the pre-activations at zero that do not slide.

    Parameters
    ----------
    run : Distinct
    hidden : array (N, Σn_ℓ)
        The pre-activations of the start.
    """

    def __init__(self, run: Distinct, hidden: Array) -> None:
        self.run = run
        self.values = np.where(hidden > 0, OPEN, CLOSED)
        self.zero = hidden == 0
        #: the step to try next, and the unit of time of its series
        self.unit = 1.0
        #: how many gates at zero were closed, but not by their velocities
        self.unclear = 0

    def series(self, weights: Sequence[Array]) -> Series:
        """The series of these gates, of first order."""
        series = Series(self.run, weights, self.values, self.unit)
        series.grow()
        return series

    def first_event(self, series: Series, size: float) -> tuple[float, Places]:
        """When the first gates change, and to what; no places if none does until then."""
        h = series.hidden[: series.order + 1]
        free = np.nonzero((self.values != SLIDES) & (self.zero | may_vanish(h, size)))
        gates = self.values[free]
        c = (2.0 * gates - 1) * h[:, free[0], free[1]]
        _divide(c, self.zero[free], STILL * self.run.largest(h[1])[free[1]])
        slides = series.sliding
        places = [_places(free, 1 - gates), _places(slides, OPEN), _places(slides, CLOSED)]
        time, first = first_zero(np.hstack([c, *series.margins()]), size)
        return time, np.hstack(places)[:, first]

    def change(self, places: Places) -> None:
        """Give gates at zero these values."""
        samples, columns, gates = places
        self.values[samples, columns] = gates
        self.zero[samples, columns] = True

    def settle(self, weights: Sequence[Array], before: Array, stuck: bool) -> Series:
        """Find the gates at zero that agree with where they move the pre-activations.

        A pair that would return is closed, opened, or slides.  That is the complementarity problem
        of the velocity of least norm between those of all gates, solved by block pivots.

        Parameters
        ----------
        weights : list of arrays
        before : int array (N, Σn_ℓ)
            The gates before.
        stuck : bool
            Whether gates change again and again without moving.
        """
        if stuck:
            self._collapse(weights)
        if len(self.run.cuts) > 1:
            self._follow(weights, before)
        count = int((self.zero | (before == SLIDES)).sum())
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
                wrong[2] = CLOSED
                self.unclear += 1
            elif attempt > BLOCKS:
                wrong = wrong[:, :1]
            self.change(wrong)
        self.unclear += self._repelled(series, weights, before)
        return series

    def _join(self, series: Series) -> bool:
        """Let all that are one with a sliding pair slide; whether any did not."""
        slides = np.isin(series.tied, series.tied[series.sliding])
        found = bool((self.values[slides] != SLIDES).any())
        self.values[slides] = SLIDES
        return found

    def _collapse(self, weights: Sequence[Array]) -> None:
        """Close ReLU units that have lost all weights.

        Descent stays within a step of zero too, until a direction appears in which it leaves:
        where these units do, the flow is not unique.
        """
        for cut, W in zip(self.run.cuts, weights, strict=False):
            gates = self.values[:, cut]
            size = abs(W).max(axis=1)
            lost = (size <= STILL * size.max()) & gates.any(axis=0) & (self.run.slopes[cut] == 0)
            W[lost] = 0.0
            gates[:, lost] = CLOSED
            self.unclear += len(gates) * int(lost.sum())

    def _follow(self, weights: Sequence[Array], before: Array) -> None:
        """Let gates be as they were above the lowest layer that changes.

        Such a pre-activation may have no zero of its own, but follow one below: its velocity says.
        Where the inputs of its layer vanish it is at zero.
        """
        changed = (self.values != before).any(axis=0)
        if changed.any():
            above = self.run.layers > self.run.layers[changed.argmax()]
            self.values[:, above] = before[:, above]
        dead = Series(self.run, weights, self.values, self.unit).dead
        follow = dead[self.run.layers].T & ~self.run.biased[self.run.layers]
        follow[:, self.run.cuts[0]] = False
        self.values[follow] = np.where(before == SLIDES, CLOSED, before)[follow]
        self.zero[follow] = True

    def _wrong(self, series: Series) -> Places:
        """The gates at zero that do not agree with the series, and what to try in their place."""
        free = np.nonzero(self.zero & (self.values != SLIDES))
        samples, columns = free
        layers = self.run.layers
        gates = self.values[free]
        drives = np.bincount(series.tied.ravel(), series.drives.ravel())[series.tied[free]]
        slides = (1 - self.run.slopes[columns]) * drives > 0
        slides &= self.run.biased[layers[columns]] | ~series.dead[layers[columns], samples]
        wrong = (2 * gates - 1) * self._away(series, free) < 0
        small = -STILL * self.run.largest(series.drives)[series.sliding[1]]
        high, low = series.margins()[:, 0] < small
        change = _places(free, np.where(slides, SLIDES, 1 - gates))[:, wrong]
        leave = _places(series.sliding, np.where(low, CLOSED, OPEN))[:, low | high]
        places = np.hstack([change, leave])
        if not places.size:
            return places
        # lower layers first: upper ones move as these do
        found = layers[places[1]]
        return places[:, found == found.min()]

    def _away(self, series: Series, at: Pairs) -> Array:
        """The velocities of some pairs, or their accelerations where these are zero."""
        v = series.hidden[1][at]
        still = abs(v) <= STILL * self.run.largest(series.hidden[1])[at[1]]
        if still.any():
            if series.order < 2:
                series.grow()
            second = series.hidden[2]
            small = abs(second) <= STILL * self.run.largest(second)
            v[still] = np.where(small, 0.0, second)[at][still]
        return v

    def _repelled(self, series: Series, weights: Sequence[Array], before: Array) -> int:
        """How many gates at zero were left closed that would stay open as well."""
        closed = self.zero & (before == CLOSED) & (self.values == CLOSED)
        repelled = closed & ((1 - self.run.slopes) * series.drives < 0)
        if not repelled.any():
            return 0
        gates = np.where(repelled, OPEN, self.values)
        other = Series(self.run, weights, gates, self.unit)
        other.grow()
        v = other.hidden[1]
        return int((repelled & (v > STILL * self.run.largest(v))).sum())


def _places(at: Pairs, gates: Array | int) -> Places:
    return np.stack(np.broadcast_arrays(*at, gates))


def _divide(c: Array, zero: Array, still: Array) -> None:
    """Divide polynomials that are zero at the start by t, those that are still by t²."""
    for _ in range(2):
        c[:-1, zero] = c[1:, zero]
        c[-1, zero] = 0.0
        zero = zero & (abs(c[0]) <= still)
