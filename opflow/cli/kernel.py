"""The numbers of one kernel: its trace by layers, eigenpairs, norms, alignments and density."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import opflow as of
from opflow.cli.clock import Clock
from opflow.cli.folder import Arrays, Numbers
from opflow.evaluation.materialise import candidates
from opflow.machine.arrays import Array, to_host
from opflow.machine.workspace import op_namespace
from opflow.operators.describe import human
from opflow.plot.spectra import fit_ranks, power_law
from opflow.spectral import Estimate
from opflow.spectral.checks import DENSE
from opflow.spectral.traces.exact import WHOLE_BYTES

#: predicted seconds of the products beyond which the analysis reports its progress
LONG = 10.0
#: vectors of the product that is timed
PACED = 4
#: block products that find the eigenpairs of a flat spectrum
BLOCKS = 26
#: block products that find the eigenpairs of a usual, decaying spectrum
DECAYING = 11
#: products with a vector that a norm takes
SCALARS = 60
#: Lanczos steps per random vector of the effective rank
RANK_STEPS = 60
#: accuracy of the eigenpairs, relative to their eigenvalues
TOL = 1e-6


class Ask(NamedTuple):
    """What is asked of an analysis; the defaults are those of the command line.

    The density and the heat map are computed if they fit into the seconds (None), however long
    they take (True), or not at all (False).
    """

    top: int = 20
    density: bool | None = None
    steps: int = 100
    probes: int = 10
    heat_map: bool | None = None
    memory: str | None = None
    seed: int = 0
    seconds: float = 60.0
    progress: bool = False


class Kernel:
    """The kernel of fields, its trace, and the share of each layer in it."""

    def __init__(self, fields: of.Fields) -> None:
        self.layers = of.layer_kernels(fields)
        self.op: of.Operator = of.collective_kernel(fields)
        traces = np.array([float(layer.trace()) for layer in self.layers])
        self.trace = float(traces.sum())
        self.shares = traces / (self.trace or 1.0)


class Analysis(Kernel):
    """The numbers and arrays of a kernel on one machine, within a time and a memory.

    Numbers that do not fit, or were not asked for, stay None; `clock` keeps the reasons.
    """

    def __init__(self, fields: of.Fields, ask: Ask, budget: float, clock: Clock) -> None:
        super().__init__(fields)
        self.ask = ask
        self.clock = clock
        self.arrays: Arrays = {"layer_shares": self.shares}
        self.vectors: Any = None
        self.parameters = fields.network.parameters
        self.factored = self.op
        n = self.op.shape[0]
        self.top = min(ask.top, n)
        #: a small kernel is decomposed whole, which no time limits
        self.whole = n <= DENSE
        columns = max(self.top + 4, ask.probes)
        vectors = 4 * SCALARS
        if ask.density:
            vectors += ask.steps * ask.probes
        products = BLOCKS + vectors // columns
        forms = candidates(self.op, products, columns, budget / 2)
        factored = next(form for form in forms if form.how == "factored")
        used = next((form for form in forms if form.fits), factored)
        if used.seconds > clock.left():  # forming K may not pay for what fits
            products = max(1, int(products * clock.left() / used.seconds))
        self.talks = ask.progress and used.seconds > LONG
        self.how = used.how
        #: bytes left of --memory
        self.left = budget - used.held
        #: options of sums over the spectrum: estimates where all eigenvalues do not fit
        self.sums: Numbers = {}
        if not self.whole and WHOLE_BYTES * float(n) ** 2 > self.left:
            self.sums["how"] = "estimate"
        # factors tell how many eigenvalues are zero, a dense matrix does not
        self.op = of.materialise(self.op, products=products, columns=columns, memory=budget / 2)
        clock.pace = 0.0
        if not self.whole:
            started = time.perf_counter()
            self.op.matmat(op_namespace(self.op).ones((n, PACED), dtype=self.op.dtype))
            clock.pace = (time.perf_counter() - started) / PACED

    def numbers(self, y: Array) -> Numbers:
        """Everything that is a number, for targets y; arrays are kept."""
        found = {"layer_shares": self.shares.tolist(), "trace": number(self.trace)}
        shares = ", ".join(f"{100 * share:.3g} %" for share in self.shares)
        self._say(f"{self.clock.name}: tr K = {self.trace:.5g}, by layers {shares} ({self.how})")
        if self._allowed("eigenpairs", 8 * self.top + 40, ": ask for fewer by --top"):
            found |= self._eigenpairs()
        if self._allowed("norms", 80):
            found |= self._norms(found)
            found["alignment"] = self._alignments(y.ravel())
            probes = max(2, self.clock.fits(10, RANK_STEPS, 0.5))
            rank = partial(of.spectral.effective_rank, probes=probes, steps=RANK_STEPS, **self.sums)
            products = probes * RANK_STEPS
            found["effective_rank"] = self._number("effective_rank", products, rank, self.op)
        return found | self._null() | {"skipped": self.clock.skipped}

    def _say(self, text: str) -> None:
        if self.talks:
            print(text, file=sys.stderr)

    def _allowed(self, name: str, vectors: float, hint: str = "") -> bool:
        """Whether that many vectors fit into the memory left; if not, the reason is kept."""
        if self.whole:
            vectors = 4 * self.op.shape[0]
        need = float(vectors) * self.op.shape[0] * self.op.dtype.itemsize
        if need > self.left:
            sizes = f"{human(need, 'B', 1024)}, over the {human(max(self.left, 0), 'B', 1024)}"
            self.clock.skipped[name] = f"it would hold {sizes} left of --memory{hint}"
        return need <= self.left

    def _eigenpairs(self) -> Numbers:
        """The largest eigenpairs; a few of them rather than none."""
        clock = self.clock
        self.top = max(1, clock.fits(self.top + 4, DECAYING, 0.7) - 4)
        options: Any = {"memory": self.left, "tol": TOL, "how": "factored", "rng": self.ask.seed}
        work = partial(of.spectral.eigsh, self.op, self.top, **options)
        pairs = clock.run("eigenpairs", 5 * DECAYING, work, "fewer by --top, or more ")
        if pairs is None:
            return {}
        self.vectors = pairs.eigenvectors
        self.arrays |= {
            "eigenvalues": pairs.eigenvalues,
            "residual_norms": pairs.residuals,
            "eigenvectors": to_host(pairs.eigenvectors),
            "mode_shares": of.spectral.spectrum_shares(self.layers, self.vectors),
        }
        self._say(f"{clock.name}: λ_max(K) = {pairs.eigenvalues[0]:.5g}")
        if self.top < min(self.ask.top, self.op.shape[0]):
            clock.skipped["more eigenpairs"] = f"time is short after {self.top}: --seconds"
        law = None
        if ranks := fit_ranks(pairs.eigenvalues):
            fitted = power_law(pairs.eigenvalues, ranks)
            law = [fitted.exponent, fitted.factor, *ranks, fitted.r2]
        return {
            "eigenvalues": pairs.eigenvalues.tolist(),
            "largest_residual": float(pairs.residuals.max()),
            "converged": pairs.converged,
            "products": pairs.products,
            "how": f"{pairs.how.partition(',')[0]}, {self.how}",
            "power_law": law,
        }

    def _norms(self, found: Numbers) -> Numbers:
        """The largest eigenvalue, the Frobenius norm, and the participation ratio of both."""
        if self.vectors is not None and not self.whole:
            top = found["eigenvalues"][0]
            error = float(self.arrays["residual_norms"][0])
            norm: Any = number(Estimate(top, top - error, top + error, how="Lanczos"))
        else:
            norm = self._number("norm", SCALARS, of.spectral.norm, self.op)
        size = self._number("frobenius_norm", SCALARS, of.spectral.frobenius_norm, self.op)
        norms = {"norm": norm, "frobenius_norm": size}
        if size is not None and size["value"] is not None:
            ends = {"value": size["value"], "low": size["high"], "high": size["low"]}
            ratios = {name: (self.trace / end) ** 2 if end else 0.0 for name, end in ends.items()}
            norms["participation_ratio"] = size | ratios
        return norms

    def _alignments(self, y: Array) -> list[Numbers | None]:
        """The alignment with y of the kernel, then of each layer's."""
        align = of.spectral.alignment
        found = [self._number("alignment", SCALARS, align, self.op, y)]
        for layer in self.layers:
            found.append(self._number("alignment", SCALARS // len(self.layers), align, layer, y))
        values = [value and value["value"] for value in found]
        self.arrays["alignment"] = np.array(values, dtype=np.float64)
        return found

    def _number(
        self, name: str, products: int, function: Callable[..., float], *operands: Any
    ) -> Numbers | None:
        """A number that not every kernel has; the reason is kept if this one has none."""
        try:
            found = self.clock.run(name, products, partial(function, *operands))
        except ValueError as error:
            self.clock.skipped[name] = str(error)
            return None
        if found is None:
            return None
        if not np.isfinite(found):
            self.clock.skipped[name] = "it is not finite"
        return number(found)

    def _null(self) -> Numbers:
        """The density, with as many probes as there is time for unless it is asked for."""
        ask = self.ask
        if ask.density is False:
            return {}
        probes = ask.probes
        if not ask.density:
            probes = max(2, self.clock.fits(probes, ask.steps))
        vectors = probes * (min(ask.steps, self.op.shape[0]) + 6)
        if not self._allowed("density", vectors, ": fewer --steps or --probes"):
            return {}
        work = partial(self._density, probes)
        hint = "--density, or more "
        products = probes * ask.steps
        null = self.clock.run("density", products, work, hint, asked=bool(ask.density))
        if null is None:
            return {}
        return {"null": null, "probes": probes}

    def _density(self, probes: int) -> Numbers:
        op = self.op
        if self.parameters < op.shape[0]:
            op = self.factored
        options: Any = {"probes": probes, "steps": self.ask.steps, "rng": self.ask.seed}
        rho = of.spectral.density(op, log=True, **options, **self.sums)
        grid = rho.grid()
        low, high = rho.band(grid)
        below, above = rho.cdf_band(grid)
        self.arrays |= {
            "grid": grid,
            "density": rho(grid),
            "density_low": low,
            "density_high": high,
            "cdf": rho.cdf(grid),
            "cdf_low": below,
            "cdf_high": above,
            "null": np.array([rho.null, rho.null.low, rho.null.high, rho.order, rho.width]),
        }
        return number(rho.null)


def finite(value: float) -> float | None:
    """A number for JSON, which has no infinity and no NaN."""
    return float(value) if np.isfinite(value) else None


def number(value: float) -> Numbers:
    """An estimate for JSON; plain numbers are exact."""
    if not isinstance(value, Estimate):
        value = Estimate(value)
    return {
        "value": finite(value),
        "low": finite(value.low),
        "high": finite(value.high),
        "how": value.how,
        "products": value.products,
    }
