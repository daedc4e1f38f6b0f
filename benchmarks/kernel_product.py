"""One product with K against its own bare GEMMs and against automatic differentiation.

Every contender computes the same product on the same network, data and vector; results are
compared first, then timed in turn (round robin), and medians and ratios are printed.  The
yardstick "bare GEMMs" is the two matrix products a layer that any factored product must do, on
preallocated arrays, with nothing else.

    python benchmarks/kernel_product.py                     # W2 and W3, float32
    python benchmarks/kernel_product.py --workloads W1 W5 --dtype float64 --threads 1

torch, JAX and curvlinops are timed where they are installed (``pip install 'opflow[bench]'``).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable

WORKLOADS = {
    "W1": (2_000, 784, [512]),
    "W2": (20_000, 784, [512]),
    "W3": (10_000, 784, [512, 512, 512]),
    "W4": (4_000, 3_072, [1024, 1024]),
    "W5": (100_000, 64, [256, 256]),
}


def bare_gemms(fields, r) -> Callable:
    """The two GEMMs a layer, at their best: whole arrays, output preallocated."""
    import numpy as np

    pairs = list(zip(fields.activations[:-1], fields.conjugates, strict=True))
    grads = [np.empty((phi.shape[1], a.shape[1]), r.dtype) for a, phi in pairs]
    pushed = [np.empty_like(phi) for _, phi in pairs]

    def run():
        for (a, phi), g, z in zip(pairs, grads, pushed, strict=True):
            np.matmul(phi.T, a, out=g)
            np.matmul(a, g.T, out=z)

    return run


def torch_contenders(net, X, r, threads) -> dict[str, Callable]:
    import torch
    from torch.func import functional_call, jvp, linearize, vjp

    torch.set_num_threads(threads)
    layers = []
    for W in net.weights:
        layers += [torch.nn.Linear(W.shape[1], W.shape[0], bias=False), torch.nn.ReLU()]
    module = torch.nn.Sequential(*layers)
    params = {
        name: torch.from_numpy(W)
        for (name, _), W in zip(module.named_parameters(), net.weights, strict=True)
    }
    x, v, rt = torch.from_numpy(X), torch.from_numpy(net.readout), torch.from_numpy(r)

    def f(p):
        return (functional_call(module, p, (x,)) @ v.T)[:, 0]

    def jvp_vjp():
        return jvp(f, (params,), (vjp(f, params)[1](rt)[0],))[1].numpy()

    pull = vjp(f, params)[1]
    push = linearize(f, params)[1]

    def cached():
        return push(pull(rt)[0]).numpy()

    return {"torch jvp∘vjp": jvp_vjp, "torch linearize, cached": cached}


def jax_contenders(net, X, r) -> dict[str, Callable]:
    import jax
    import numpy as np

    jax.config.update("jax_enable_x64", True)
    weights, x, v = [jax.numpy.asarray(W) for W in net.weights], jax.numpy.asarray(X), net.readout
    rj = jax.numpy.asarray(r)

    def f(ws):
        a = x
        for W in ws:
            a = jax.nn.relu(a @ W.T)
        return (a @ v.T)[:, 0]

    @jax.jit
    def jvp_vjp(s):
        return jax.jvp(f, (weights,), (jax.vjp(f, weights)[1](s)[0],))[1]

    _, push = jax.linearize(f, weights)
    pull = jax.vjp(f, weights)[1]
    cached = jax.jit(lambda s: push(pull(s)[0]))
    return {
        "JAX jvp∘vjp, jit": lambda: np.asarray(jvp_vjp(rj)),
        "JAX linearize, cached": lambda: np.asarray(cached(rj)),
    }


def curvlinops_contenders(net, X, r) -> dict[str, Callable]:
    import torch
    from curvlinops import JacobianLinearOperator, TransposedJacobianLinearOperator

    layers = []
    for W in (*net.weights, net.readout):
        linear = torch.nn.Linear(W.shape[1], W.shape[0], bias=False)
        linear.weight = torch.nn.Parameter(torch.from_numpy(W))
        layers += [linear, torch.nn.ReLU()]
    module = torch.nn.Sequential(*layers[:-1])
    trained = list(module.parameters())[:-1]
    data = [(torch.from_numpy(X), torch.zeros(len(X), 1, dtype=torch.from_numpy(X).dtype))]
    rt = torch.from_numpy(r)
    J = JacobianLinearOperator(module, trained, data, check_deterministic=False)
    JT = TransposedJacobianLinearOperator(module, trained, data, check_deterministic=False)
    return {"curvlinops J @ Jᵀ": lambda: (J @ (JT @ rt)).detach().numpy()}


def measure(name: str, dtype: str, threads: int, rounds: int) -> None:
    import numpy as np

    import opflow as of

    n, d, widths = WORKLOADS[name]
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d), dtype=np.float32).astype(dtype)
    r = rng.standard_normal(n, dtype=np.float32).astype(dtype)
    net = of.ReLUNetwork.random([d, *widths], scaling="standard", seed=0, dtype=dtype)
    fields = net.fields(X)
    K = of.collective_kernel(fields)
    reference = K @ r
    contenders: dict[str, Callable] = {"opflow": lambda: K @ r}
    for make in (
        lambda: torch_contenders(net, X, r, threads),
        lambda: jax_contenders(net, X, r),
        lambda: curvlinops_contenders(net, X, r),
    ):
        try:
            contenders |= make()
        except ImportError as error:
            print(f"   not timed: {error}")
    # Two correct float32 programs may differ where a gate is within rounding of 0.
    tolerance = 1e-2 if dtype == "float32" else 1e-11
    for label, run in contenders.items():
        error = float(np.linalg.norm(run() - reference) / np.linalg.norm(reference))
        if not error < tolerance:
            sys.exit(f"{name}: {label} differs from opflow by {error:.2e}")
    contenders = {"bare GEMMs": bare_gemms(fields, r), **contenders}

    times: dict[str, list[float]] = {label: [] for label in contenders}
    for _ in range(rounds):
        for label, run in contenders.items():
            time.sleep(0.02)  # let idle worker threads of the last library go to sleep
            run()
            start = time.perf_counter()
            run()
            times[label].append(time.perf_counter() - start)
    tracemalloc.start()
    K @ r
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    medians = {label: statistics.median(t) for label, t in times.items()}
    flops = 4.0 * n * net.parameters
    print(f"\n{name}: N = {n:,}, d = {d:,}, widths {widths}, {dtype}, {threads} threads")
    print(f"   {'':28}{'median ms':>10}{'GFLOP/s':>10}{'× opflow':>10}{'GEMM share':>12}")
    for label, median in medians.items():
        shares = [g / t for g, t in zip(times["bare GEMMs"], times[label], strict=True)]
        print(
            f"   {label:28}{1e3 * median:10.1f}{flops / median / 1e9:10.0f}"
            f"{median / medians['opflow']:10.2f}{statistics.median(shares):12.2f}"
        )
    print(f"   peak memory of one opflow product beyond the fields: {peak / 2**20:.1f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workloads", nargs="+", default=["W2", "W3"], choices=WORKLOADS)
    parser.add_argument("--dtype", nargs="+", default=["float32"], choices=["float32", "float64"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=11)
    args = parser.parse_args()
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(args.threads)
    for name in args.workloads:
        for dtype in args.dtype:
            measure(name, dtype, args.threads, args.rounds)


if __name__ == "__main__":
    main()
