"""What the other methods miss of the exact flow, how many events there are, and what they cost.

    python benchmarks/exact_flow.py order deep events digits digits10    # six CPU minutes and more

The error in f is ‖f − f*‖/‖r(0)‖, that of the loss |loss − loss*|/loss*, each the largest of four
or five moments that end with the run.  Seconds are CPU seconds of one thread.
"""

import sys
import time

import numpy as np
from threadpoolctl import threadpool_limits

import opflow as of
from opflow.data.load import load


def highest(net, X):
    return of.spectral.largest_eigenvalue(of.collective_kernel(net.fields(X)), tol=1e-6).value


def random_problem(n, widths, reach):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((n, widths[0])), rng.standard_normal((n, 1))
    net = of.ReLUNetwork.random(widths, seed=0)
    return net, X, y, reach / highest(net, X)


def measured(net, X, y, method, **options):
    """A run with its residuals at all moments, and its CPU seconds."""
    start = time.process_time()
    watch = {"r": lambda moment: moment.residual.copy()}
    run = of.train(net, X, y, method=method, observe=watch, eliminate=False, **options)
    return run, time.process_time() - start


def line(*cells):
    print("|", *(f"{cell} |" for cell in cells), flush=True)


def exact_run(net, X, y, times):
    """The yardstick, above its table."""
    run, seconds = measured(net, X, y, of.ExactFlow(), times=times)
    kinds = run.events["kind"].tolist()
    slides = kinds.count("slide in")
    print(f"\nN = {len(X)}, widths {net.widths}, {y.shape[1]} outputs: {len(kinds):,} events, "
          f"{slides:,} slide in, {slides - kinds.count('slide out'):,} slide at the end, "
          f"{run.products:,} orders, {seconds:.2f} s\n")  # fmt: skip
    line("method", "products", "seconds", "error in f", "in the loss", "order")
    line(*["---"] * 6)
    return run


def row(name, run, seconds, exact, first=None):
    """A row of the table; the order is that since the first row, error ~ products^-order."""
    r, true = run.observations["r"], exact.observations["r"]
    off = np.linalg.norm(r - true, axis=(1, 2)).max() / np.linalg.norm(true[0])
    loss = abs(run.losses / exact.losses - 1).max()
    order = ""
    if first is not None:
        order = f"{np.log(first[1] / off) / np.log(run.products / first[0]):.2f}"
    line(name, f"{run.products:,}", f"{seconds:.2f}", f"{off:.1e}", f"{loss:.1e}", order)
    return first or (run.products, off)


def order(n, widths, reach):
    net, X, y, until = random_problem(n, widths, reach)
    times = until * np.arange(1, 5) / 4
    exact = exact_run(net, X, y, times)
    stepped = {"GradientDescent": of.GradientDescent}
    for p in reversed(range(net.depth)):
        stepped[f"TruncatedFlow(order={p})"] = lambda step, p=p: of.TruncatedFlow(p, step)
    for name, method in stepped.items():
        first = None
        for steps in 4 * reach * 4 ** np.arange(4 if name == "GradientDescent" else 3):
            how = {"steps": int(steps), "every": int(steps) // 4}
            found = measured(net, X, y, method(until / steps), **how)
            first = row(f"{name}, {steps // reach} λ_max", *found, exact, first)
    for flow, most in ((of.GradientFlow, 8), (of.ExponentialFlow, 6)):
        first = None
        for tol in 10.0 ** -np.arange(1, most, 2):
            found = measured(net, X, y, flow(tol), times=times)
            first = row(f"{flow.__name__}({tol:g})", *found, exact, first)


def events():
    """Counts by size and initial scale, up to λ_max·t = 100, and how far the kernel moves."""
    print()
    line("", "N", "n", "events", "a pair", "slide in", "at the end", "orders", "s", "K moves by")
    line(*["---"] * 10)
    cases = [("", n, [4, 32]) for n in (20, 40, 80, 160)]
    cases += [("", 40, [4, width]) for width in (8, 128)]
    cases += [("two layers", n, [4, 16, 16]) for n in (20, 40)]
    cases += [(alpha, 40, [4, 32]) for alpha in (0.03, 0.1, 0.3, 1.0, 3.0)]
    for name, n, widths in cases:
        net, X, y, until = random_problem(n, widths, 100.0)
        if isinstance(name, float):  # twins of opposite readout, which start at α f = 0
            W = np.vstack([net.weights[0][:16]] * 2)
            V = name * np.hstack([net.readout[:, :16], -net.readout[:, :16]])
            net = of.ReLUNetwork([W], V, rates=[net.rates[0] / name**2], readout_rate=1.0)
            until = 100 / highest(net, X)
        run, seconds = measured(net, X, y, of.ExactFlow(), until=until)
        kinds = run.events["kind"].tolist()
        slides = kinds.count("slide in")
        K, end = (of.collective_kernel(one.fields(X)).todense() for one in (net, run.network))
        line(name, n, widths[1], len(kinds), f"{len(kinds) / (n * sum(widths[1:])):.2f}", slides,
             slides - kinds.count("slide out"), f"{run.products:,}", f"{seconds:.1f}",
             f"{np.linalg.norm(end - K) / np.linalg.norm(K):.2g}")  # fmt: skip


def digits(outputs=1):
    data = load("digits")
    X = np.ascontiguousarray(data.inputs[:250])
    y = np.ascontiguousarray(data.targets[:250, :outputs])
    net = of.ReLUNetwork.random([64, 100], outputs=outputs, seed=0)
    descent = measured(net, X, y, of.GradientDescent(), until=2000 / highest(net, X), every=500)
    times = descent[0].times[1:]
    exact = exact_run(net, X, y, times)
    row("GradientDescent()", *descent, exact)
    for method in (of.GradientFlow(), of.ExponentialFlow(), of.GradientFlow(1e-6)):
        row(f"{method}", *measured(net, X, y, method, times=times), exact)


if __name__ == "__main__":
    tasks = {"order": lambda: order(50, [4, 24], 100), "events": events, "digits": digits}
    tasks |= {"deep": lambda: order(40, [4, 12, 12], 60), "digits10": lambda: digits(10)}
    with threadpool_limits(1):
        for task in sys.argv[1:]:
            tasks[task]()
