"""The largest eigenpairs of K, set-up included: opflow against ARPACK and LOBPCG on autodiff.

    python benchmarks/eigenpairs.py                                  # N = 5,000, float64, tol 1e-6
    python benchmarks/eigenpairs.py --samples 20000 --dtype float32 --tol 1e-4 --memory 2GiB

Every contender is a process of its own, in turn; it times from the network and the data to the
eigenpairs (set-up and, for opflow, the decision how to evaluate K; imports, and JAX's compilation
of the product, are left out) and tells the products it took and the peak memory of the process.
Before anything is printed, the eigenvalues are compared with opflow's, or without it with those of
the first contender, and residuals of all contenders are measured with one and the same product.
torch, JAX and curvlinops run where they are installed (``pip install '.[bench]'``).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

CONTENDERS = {
    "opflow": "opflow, the cost model's choice",
    "factored": "opflow, K never formed",
    "jax": "SciPy eigsh on JAX linearize",
    "torch": "SciPy LOBPCG on torch linearize",
    "curvlinops": "SciPy eigsh on curvlinops J Jᵀ",
}


def problem(args: argparse.Namespace) -> tuple[Any, Any]:
    import opflow as of

    rng = np.random.default_rng(0)
    X = rng.standard_normal((args.samples, args.features), dtype=np.float32).astype(args.dtype)
    return of.ReLUNetwork.random(
        [args.features, *args.widths], scaling="standard", seed=0, dtype=args.dtype
    ), X


def solve_opflow(net: Any, X: Any, args: argparse.Namespace, how: str | None) -> tuple[Any, ...]:
    import opflow as of

    start = time.perf_counter()
    K = of.collective_kernel(net.fields(X))
    # a third of the tolerance: residuals no larger than those of ARPACK, which exceeds its own
    pairs = of.spectral.eigsh(K, args.pairs, tol=args.tol / 3, memory=args.memory, how=how)
    return time.perf_counter() - start, *pairs, pairs.products, pairs.how


def arpack(product: Any, args: argparse.Namespace) -> tuple[Any, Any, int]:
    import scipy.sparse.linalg as spla

    count = 0

    def matvec(x: Any) -> Any:
        nonlocal count
        count += 1
        return product(x.reshape(-1).astype(args.dtype, copy=False))

    op = spla.LinearOperator((args.samples,) * 2, matvec=matvec, dtype=args.dtype)
    v0 = np.random.default_rng(1).standard_normal(args.samples).astype(args.dtype)
    values, vectors = spla.eigsh(op, args.pairs, tol=args.tol, v0=v0)
    return values[::-1], vectors[:, ::-1], count


def solve_jax(net: Any, X: Any, args: argparse.Namespace) -> tuple[Any, ...]:
    import jax

    jax.config.update("jax_enable_x64", True)
    weights, v = [jax.numpy.asarray(W) for W in net.weights], net.readout

    def set_up() -> Any:
        x = jax.numpy.asarray(X)

        def f(ws: Any) -> Any:
            a = x
            for W in ws:
                a = jax.nn.relu(a @ W.T)
            return (a @ v.T)[:, 0]

        _, push = jax.linearize(f, weights)
        pull = jax.vjp(f, weights)[1]
        return jax.jit(lambda s: push(pull(s)[0]))

    start = time.perf_counter()
    product = set_up()
    prepared = time.perf_counter() - start
    np.asarray(product(X[:, 0]))  # compiles
    start = time.perf_counter()
    found = arpack(lambda x: np.asarray(product(x)), args)
    return prepared + time.perf_counter() - start, *found, "ARPACK"


def module_of(net: Any, readout: bool) -> Any:
    import torch

    layers: list[Any] = []
    for W in (*net.weights, net.readout) if readout else net.weights:
        linear = torch.nn.Linear(W.shape[1], W.shape[0], bias=False)
        linear.weight = torch.nn.Parameter(torch.from_numpy(W))
        layers += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*(layers[:-1] if readout else layers))


def solve_torch(net: Any, X: Any, args: argparse.Namespace) -> tuple[Any, ...]:
    import torch
    from torch.func import functional_call, linearize, vjp, vmap

    torch.set_num_threads(args.threads)
    module, v = module_of(net, readout=False), torch.from_numpy(net.readout)
    x = torch.from_numpy(X)
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    start = time.perf_counter()

    def f(p: Any) -> Any:
        return (functional_call(module, p, (x,)) @ v.T)[:, 0]

    pull, push = vjp(f, parameters)[1], linearize(f, parameters)[1]
    count = 0

    def product(S: Any) -> Any:
        nonlocal count
        count += S.shape[1]
        return vmap(lambda s: push(pull(s)[0]), in_dims=1, out_dims=1, chunk_size=1)(S)

    torch.manual_seed(0)
    first = torch.randn(args.samples, args.pairs, dtype=x.dtype)
    values, vectors = lobpcg(product, first, args)
    return time.perf_counter() - start, values, vectors, count, "LOBPCG"


def lobpcg(product: Any, first: Any, args: argparse.Namespace) -> tuple[Any, Any]:
    """SciPy's, on torch's block product: torch's own wants a matrix, not a product."""
    import scipy.sparse.linalg as spla
    import torch

    op = spla.LinearOperator(
        (args.samples,) * 2,
        matvec=lambda x: product(torch.from_numpy(x.reshape(-1, 1))).numpy()[:, 0],
        matmat=lambda S: product(torch.from_numpy(np.ascontiguousarray(S))).numpy(),
        dtype=args.dtype,
    )
    values, vectors = spla.lobpcg(op, first.numpy(), tol=args.tol, maxiter=500)
    return values, vectors


def solve_curvlinops(net: Any, X: Any, args: argparse.Namespace) -> tuple[Any, ...]:
    import torch
    from curvlinops import JacobianLinearOperator, TransposedJacobianLinearOperator

    torch.set_num_threads(args.threads)
    module = module_of(net, readout=True)
    trained = list(module.parameters())[:-1]
    x = torch.from_numpy(X)
    data = [(x, torch.zeros(len(X), 1, dtype=x.dtype))]
    start = time.perf_counter()
    J = JacobianLinearOperator(module, trained, data, check_deterministic=False)
    JT = TransposedJacobianLinearOperator(module, trained, data, check_deterministic=False)
    found = arpack(lambda s: (J @ (JT @ torch.from_numpy(s))).detach().numpy(), args)
    return time.perf_counter() - start, *found, "ARPACK"


def one(args: argparse.Namespace) -> None:
    net, X = problem(args)
    solvers = {
        "opflow": lambda: solve_opflow(net, X, args, None),
        "factored": lambda: solve_opflow(net, X, args, "factored"),
        "jax": lambda: solve_jax(net, X, args),
        "torch": lambda: solve_torch(net, X, args),
        "curvlinops": lambda: solve_curvlinops(net, X, args),
    }
    seconds, values, vectors, products, how = solvers[args.one]()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    np.savez(args.file, values=values, vectors=vectors, peak=peak, seconds=seconds)
    print(json.dumps({"seconds": seconds, "products": products, "how": how, "peak": peak}))


def compare(args: argparse.Namespace) -> None:
    import opflow as of

    told: dict[str, list[dict[str, Any]]] = {name: [] for name in args.contenders}
    worst = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.rounds):
            for name in list(told):
                file = Path(folder) / f"{name}.npz"
                done = subprocess.run(
                    [sys.executable, __file__, *sys.argv[1:], "--one", name, "--file", str(file)],
                    capture_output=True, text=True,
                )  # fmt: skip
                if done.returncode:
                    if "ModuleNotFoundError" not in done.stderr:
                        sys.exit(done.stderr)
                    print(f"{CONTENDERS[name]}: not installed, not timed")
                    del told[name]
                    continue
                told[name].append(json.loads(done.stdout.splitlines()[-1]))
                print(f"round {number + 1}, {name}: {told[name][-1]['seconds']:.2f} s", flush=True)
        net, X = problem(args)
        K = of.collective_kernel(net.fields(X))
        if not told:
            sys.exit("no contender is installed")
        base = "opflow" if "opflow" in told else next(iter(told))
        reference = np.load(Path(folder) / f"{base}.npz")["values"]
        for name in told:
            with np.load(Path(folder) / f"{name}.npz") as found:
                values, U = found["values"].astype(float), found["vectors"].astype(args.dtype)
            gaps = np.linalg.norm(K @ U - U * values.astype(args.dtype), axis=0)
            worst[name] = float((gaps / values).max())
            if not np.allclose(values, reference, rtol=10 * args.tol):
                sys.exit(f"{name}: its eigenvalues differ by {abs(values / reference - 1).max()}")
    units = [run["seconds"] for run in told[base]]
    print(
        f"\nN = {args.samples:,}, d = {args.features}, widths {args.widths}, {args.dtype}, "
        f"{args.pairs} pairs, tol {args.tol:g}, {args.threads} threads, {args.rounds} rounds"
    )
    columns = ("median s", f"× {base}", "products", "residual", "peak MiB")
    print(f"{'':34}" + "".join(f"{column:>13}" for column in columns))
    for name, runs in told.items():
        times = [run["seconds"] for run in runs]
        ratio = statistics.median(t / o for t, o in zip(times, units, strict=True))
        print(f"{CONTENDERS[name]:34}{statistics.median(times):13.2f}{ratio:13.1f}"
              f"{runs[-1]['products']:13,}{worst[name]:13.1e}"
              f"{max(run['peak'] for run in runs) / 2**20:13,.0f}  {runs[-1]['how']}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=5_000)
    parser.add_argument("--features", type=int, default=784)
    parser.add_argument("--widths", type=int, nargs="+", default=[512])
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--tol", type=float, default=1e-6)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float64")
    parser.add_argument("--memory", help="opflow's budget beyond the fields, as 2GiB")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    args = parser.parse_args()
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(args.threads)
    os.environ["JAX_PYLOPS"] = "0"  # else PyLops imports JAX, whose memory is not opflow's
    if args.one:
        one(args)
    else:
        compare(args)


if __name__ == "__main__":
    main()
