"""Every function of opflow.spectral on one kernel, its samples here or sharded over the ranks.

Run by ``mpiexec``, it saves what the ranks found; imported, it gives what one process does.
"""

import itertools
import sys
import warnings
from unittest import mock

import numpy as np

import opflow as of
from opflow.machine.ranks import LOCAL
from opflow.spectral import blocks, compare
from opflow.spectral.density import quadrature
from opflow.spectral.eigen import eigsh
from opflow.spectral.traces import exact, norms, structure

S, TIMES, GRID = of.spectral, [0.0, 0.01, 0.1], np.linspace(0.0, 20.0, 7)
CASES = {
    "k1": dict(widths=[5, 12, 8], outputs=1, samples=70),
    "k2": dict(widths=[5, 9, 6], outputs=2, samples=36, bias=True),
}
#: what the outputs of a sample have a part in, beyond the products
OF_OUTPUTS = ("eigsh", "svds", "diag++", "alignment", "projections", "decay", "regression", "solve",
              "trace", "nystrom")  # fmt: skip


def shards(samples: int, ranks: int) -> list[slice]:
    """Ragged, and the last but one of three or more is empty."""
    weights = np.arange(1.0, ranks + 1)
    if ranks > 2:
        weights[-2] = 0
    edges = np.rint(samples * np.append(0, np.cumsum(weights)) / weights.sum()).astype(int)
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


class Problem:
    """A network, the rows of this rank, its kernel and some vectors."""

    def __init__(self, widths, outputs, samples, comm, bias=False, seed=0):
        rng = np.random.default_rng(seed)
        self.comm, n = comm, samples * outputs
        self.net = of.ReLUNetwork.random(widths, outputs=outputs, bias=bias, seed=1)
        X = rng.standard_normal((samples, widths[0]))
        y, B = rng.standard_normal((samples, outputs)), rng.standard_normal((n, 3))
        here = slice(0, samples) if comm is None else shards(samples, comm.size)[comm.rank]
        rows = slice(here.start * outputs, here.stop * outputs)
        self.y, self.B, self.b = y[here], B[rows], B[rows, 0]
        new = {} if comm is None else {"comm": comm}
        self.fields = self.net.fields(X[here], **new)
        self.moved = of.ReLUNetwork.random(widths, outputs=outputs, bias=bias, seed=2)
        self.J = of.jacobian(self.fields)
        self.K, self.other = (
            of.Gram(self.J),
            of.Gram(of.jacobian(self.moved.fields(X[here], **new))),
        )
        self.layers = of.layer_kernels(self.fields)
        self.space = self.K.space
        self.new = self.net.fields(rng.standard_normal((4, widths[0])))

    def rows(self, x):
        """All rows of what is spread over the ranks: the first has them, and it alone saves."""
        return self.space.gather(x)

    def spanned(self, vectors):
        """The projector on a space, which does not depend on signs."""
        U = self.rows(vectors)
        return None if U is None else U @ U.T

    def pairs(self, found, rows=True):
        vectors = found.eigenvectors
        projector = self.spanned(vectors) if rows else vectors @ vectors.T
        assert found.converged
        return [found.eigenvalues, projector]

    def singular(self, found):
        right = found.right
        return [found.singular_values, self.spanned(found.left), right @ right.T]

    def solved(self, b, **options):
        solution = S.solve(self.K, b, 10.0, tol=1e-12, **options)
        return [self.rows(solution.x), solution.iterations, solution.products]

    def regression(self):
        found = S.kernel_regression(self.K, self.y, 10.0, tol=1e-12)
        cross = of.CrossGram(of.jacobian(self.new), self.J)
        return [*map(self.rows, (found.coefficients, found.fitted)), found.predict(cross)]


def ends(estimate):
    return [float(estimate), estimate.low, estimate.high, estimate.products]


def bands(rho):
    return [rho(GRID), rho.cdf(GRID), *rho.cdf_band(GRID), *ends(rho.null)]


#: name: function of a problem; what it gives is the same on all ranks, or rows of the first
ESTIMATED = {
    "lanczos": lambda p: [*S.lanczos(p.K, 6)[:2], p.rows(S.lanczos(p.K, 6)[2])],
    "largest_eigenvalue": lambda p: S.largest_eigenvalue(p.K)[:3],
    "block_lanczos": lambda p: [np.linalg.eigvalsh(S.block_lanczos(p.K, 3, p.B)[0])],
    "eigsh": lambda p: p.pairs(S.eigsh(p.K, 5)),
    "eigsh, smallest of a sum": lambda p: [S.eigsh(sum(p.layers), 3, which="SA").eigenvalues],
    "eigsh, warm": lambda p: p.pairs(S.eigsh(p.other, 4, start=S.eigsh(p.K, 4).start)),
    "eigsh of Gauss-Newton": lambda p: p.pairs(S.eigsh(of.Gram(p.J.T), 4), rows=False),
    "eigh of Gauss-Newton": lambda p: p.pairs(S.eigh(p.J.T @ p.J), rows=False),
    "trace of Gauss-Newton": lambda p: ends(S.trace(of.Gram(p.J.T), how="exact")),
    "svds": lambda p: p.singular(S.svds(p.J, 4)),
    "quadrature": lambda p: ends(S.quadrature(p.K, probes=4, steps=5).trace(np.log1p)),
    "density": lambda p: bands(S.density(p.K, probes=5, steps=5)),
    # its bands hold the square root of what rounding leaves of n minus a count
    "logdet": lambda p: ends(S.logdet(p.K, 0.5, probes=5, steps=6)),
    "effective_dimension": lambda p: ends(S.effective_dimension(p.K, 0.5, probes=5, steps=6)),
    "effective_rank": lambda p: ends(S.effective_rank(p.K, probes=5, steps=6)),
    "trace": lambda p: ends(S.trace(p.K)),
    "xtrace": lambda p: ends(S.trace(p.K, how="xtrace", products=40)),
    "xnystrace": lambda p: ends(S.trace(p.K, how="xnystrace", products=20)),
    "trace of a product": lambda p: ends(S.trace(p.K @ p.K, products=20)),
    "diagonal": lambda p: [p.rows(S.diagonal(p.K).values)],
    "diag++": lambda p: [*map(p.rows, S.diagonal(p.K, how="diag++", products=30)[:2])],
    "frobenius_norm": lambda p: ends(S.frobenius_norm(p.K, products=30)),
    "norm": lambda p: ends(S.norm(p.K, products=20)),
    "condition_number": lambda p: ends(S.condition_number(p.K, 0.1, products=15)),
    "participation_ratio": lambda p: ends(S.participation_ratio(p.K, products=30)),
    "sharpness": lambda p: ends(S.sharpness(p.K, 0.01, products=15).ratio),
    "alignment": lambda p: ends(S.alignment(p.K, p.y)),
    "alignment of columns": lambda p: ends(S.alignment(p.K, p.B, products=30)),
    "alignment, centred": lambda p: ends(S.alignment(p.K, p.y, centred=True)),
    "kernel_alignment": lambda p: ends(S.kernel_alignment(p.K, p.other)),
    "kernel_distance": lambda p: ends(S.kernel_distance(p.K, p.other)),
    "principal_angles": lambda p: [S.principal_angles(p.B[:, :2], p.B + 1, space=p.space)],
    "projections": lambda p: [S.projections(p.B, p.y, space=p.space)],
    "projections of columns": lambda p: [S.projections(p.B[:, :2], p.B, space=p.space)],
    "decay": lambda p: [S.decay([1.0, 2, 3], p.B, p.y, TIMES, space=p.space)],
    "layer_shares": lambda p: [S.layer_shares(p.layers)],
    "spectrum_shares": lambda p: [S.spectrum_shares(p.layers, p.B)],
    "expm": lambda p: [p.rows(S.expm(p.K, p.B, 0.02))],
    "phi1": lambda p: [p.rows(S.phi1(p.K, p.b, 0.05))],
    "phi": lambda p: [p.rows(S.phi(p.K, p.B, 0.02, 2))],
    "funm": lambda p: [p.rows(S.funm(p.K, np.tanh, p.B, size=9))],
    "sqrtm": lambda p: [p.rows(S.sqrtm(p.K, p.b, size=12))],
    "solve": lambda p: p.solved(p.b),
    "solve for columns": lambda p: p.solved(p.B),
    "solve with nystrom": lambda p: p.solved(p.b, preconditioner="nystrom", rank=20),
    "solve with jacobi": lambda p: p.solved(p.B, preconditioner="jacobi"),
    "nystrom": lambda p: [p.rows(S.nystrom(p.K, 0.1, 9) @ p.B)],
    "diagonal of nystrom": lambda p: [p.rows(S.nystrom(p.K, 0.1, 9).diagonal())],
    "jacobi": lambda p: [p.rows(S.jacobi(p.K, 0.1) @ p.B)],
    "kernel_regression": lambda p: p.regression(),
}
EXACT = {
    "frobenius_norm, narrow": lambda p: ends(S.frobenius_norm(p.K))[:3],
    "logdet, narrow": lambda p: ends(S.logdet(p.K, 0.5))[:3],
    "effective_rank, narrow": lambda p: ends(S.effective_rank(p.K))[:3],
    "density, narrow": lambda p: bands(S.density(p.K))[:4],
    "svds, narrow": lambda p: p.singular(S.svds(p.J, 4)),
    "density of Gauss-Newton": lambda p: bands(S.density(of.Gram(p.J.T)))[:4],
}


def found(comm=None) -> dict:
    """Arrays by ``case/function/number``."""
    out = {}

    def note(case: str, functions, problem) -> None:
        for name, function in functions.items():
            for i, value in enumerate(function(problem)):
                out[f"{case}/{name}/{i}"] = value

    # what is small or cheap for one process is estimated all the same, as it is when sharded
    small = [mock.patch.object(m, "DENSE", 0) for m in (structure, exact)]
    small += [
        mock.patch.object(m, "use_lapack", lambda *_, **__: False) for m in (norms, quadrature)
    ]
    small += [mock.patch.object(eigsh, "_lapack_pays", lambda *_: False)]
    never = [mock.patch.object(m, "use_entries", lambda *_: False) for m in (structure, compare)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", S.ConvergenceWarning)
        for case, arguments in CASES.items():
            for patch in small + never:
                patch.start()
            chosen = [n for n in ESTIMATED if case == "k1" or any(part in n for part in OF_OUTPUTS)]
            note(case, {n: ESTIMATED[n] for n in chosen}, Problem(comm=comm, **arguments))
            for patch in small + never:
                patch.stop()
        note("narrow", EXACT, Problem([5, 4], 1, 40, comm))
    return out


def agreed(comm, results: dict) -> None:
    """What all ranks have is the same on all, to the last bit."""
    names = {name for name, value in results.items() if value is None}
    names = set().union(*comm.allgather(names))  # rows, which the first rank alone has
    for name, value in results.items():
        if name not in names and comm.size > 1:
            assert len(set(comm.allgather(np.asarray(value).tobytes()))) == 1, name


def refusals(comm) -> None:
    """What a sharded operator cannot do is said, on all ranks; no seed is one seed."""
    p = Problem(comm=comm, **CASES["k1"])
    assert len(set(comm.allgather(float(S.trace(p.K, how="xtrace", rng=None))))) == 1
    estimate = S.trace(of.Gram(p.J.T), how="xtrace", rng=None)
    assert len(set(comm.allgather(float(estimate)))) == 1
    assert len(set(comm.allgather(float(S.logdet(p.K, 1.0, how="estimate", rng=None))))) == 1
    assert len(set(comm.allgather(S.eigsh(of.Gram(p.J.T), 3, rng=None).eigenvalues.tobytes()))) == 1
    spoiled = p.b + (np.nan if comm.rank == comm.size - 1 else 0.0)
    P = S.jacobi(p.K, 1.0)
    for message, call in {
        "no entries": lambda: S.eigh(p.K),
        "can only be estimated": lambda: big(p.K),
        "K1 must be sharded": lambda: S.kernel_distance(p.K, of.Gram(np.ones((70, 1)))),
        "preconditioner must be sharded": lambda: S.solve(p.K, p.b, preconditioner=np.eye(70)),
        "b contains NaN": lambda: S.solve(p.K, spoiled, 1.0),
        "posterior takes no sharded op": lambda: S.posterior(p.K, p.b, 1.0),
        "y contains NaN": lambda: S.alignment(p.K, spoiled),
        "must be PSD": lambda: S.solve(p.K, p.b, 1.0, preconditioner=-1.0 * P),
        "entries of a sharded preconditioner are not available": lambda: P.block([0], [0]),
    }.items():
        try:
            call()
        except (ValueError, TypeError) as error:
            assert message in str(error), (message, error)
        else:
            raise AssertionError(message)


def big(K):
    with mock.patch.object(structure, "DENSE", 10):
        S.trace(K @ K, how="exact")


if __name__ == "__main__":
    from tests.distributed.groups import groups

    assert blocks.distribution_of(of.Identity(3)) is LOCAL
    for comm in groups():
        results = found(comm)
        agreed(comm, results)
        refusals(comm)
        if comm.rank == 0:
            np.savez(f"{sys.argv[1]}/of-{comm.size}.npz", **results)
