"""What the other methods miss of the exact flow, how many events there are, and what they cost.

    python benchmarks/exact_flow.py order events    # a few minutes
    python benchmarks/exact_flow.py digits digits10

The error in f is ‖f − f*‖/‖r(0)‖, that of the loss |loss − loss*|/loss*, each the largest of four
moments that end with the run.  Seconds are CPU seconds of one thread.
"""

import sys
import time

import numpy as np
from threadpoolctl import threadpool_limits

import opflow as of
from opflow.data.load import load


def highest(net, X):
    return of.spectral.largest_eigenvalue(of.collective_kernel(net.fields(X)), tol=1e-6).value


def measured(net, X, y, method, **options):
    """A run with its residuals at all moments, and its CPU seconds."""
    start = time.process_time()
    watch = {"r": lambda moment: moment.residual.copy()}
    run = of.train(net, X, y, method=method, observe=watch, eliminate=False, **options)
    return run, time.process_time() - start


def errors(run, exact):
    r, r_exact = run.observations["r"][1:], exact.observations["r"][1:]
    off = np.linalg.norm(r - r_exact, axis=(1, 2)).max()
    loss, true = run.losses[1:], exact.losses[1:]
    return off / np.linalg.norm(exact.observations["r"][0]), (abs(loss - true) / true).max()


def row(name, run, seconds, exact, first=None):
    """A row of the table; the order is that since the first row, error ~ products^-order."""
    off, loss = errors(run, exact)
    order = ""
    if first is not None:
        order = f"{np.log(first[1] / off) / np.log(run.products / first[0]):.2f}"
    print(f"| {name} | {run.products:,} | {seconds:.2f} | {off:.1e} | {loss:.1e} | {order} |",
          flush=True)  # fmt: skip
    return first or (run.products, off)


def heading(net, X, y, exact, seconds):
    kinds = exact.events["kind"]
    slides = [(kinds == kind).sum() for kind in ("slide in", "slide out")]
    left = (2 * exact.losses[-1]) ** 0.5 / np.linalg.norm(exact.observations["r"][0])
    print(f"\nN = {len(X)}, widths {net.widths}, {y.shape[1]} outputs: {len(kinds):,} events "
          f"({slides[0]:,} slide in, {slides[0] - slides[1]:,} slide at the end), "
          f"{exact.products:,} orders, {seconds:.2f} s, ‖r‖ × {left:.3f}\n")  # fmt: skip
    print("| method | products | seconds | error in f | in the loss | order |")
    print("|---|---|---|---|---|---|", flush=True)


def random_problem(n, widths, reach):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((n, widths[0])), rng.standard_normal((n, 1))
    net = of.ReLUNetwork.random(widths, seed=0)
    return net, X, y, reach / highest(net, X)


def order(n, widths, reach):
    net, X, y, until = random_problem(n, widths, reach)
    times = until * np.arange(1, 5) / 4
    exact, seconds = measured(net, X, y, of.ExactFlow(), times=times)
    heading(net, X, y, exact, seconds)
    methods = {"GradientDescent": of.GradientDescent}
    for p in range(net.depth - 1, -1, -1):
        methods[f"TruncatedFlow(order={p})"] = lambda step, p=p: of.TruncatedFlow(p, step)
    for name, method in methods.items():
        first = None
        for steps in 4 * int(reach) * 4 ** np.arange(4 if name == "GradientDescent" else 3):
            found = measured(
                net, X, y, method(until / steps), steps=int(steps), every=int(steps) // 4
            )
            first = row(f"{name}, {steps / reach:.0f} λ_max", *found, exact, first)
    for flow, most in ((of.GradientFlow, 8), (of.ExponentialFlow, 6)):
        first = None
        for tol in 10.0 ** -np.arange(1, most, 2):
            found = measured(net, X, y, flow(tol), times=times)
            first = row(f"{flow.__name__}({tol:g})", *found, exact, first)


def events():
    """Up to λ_max·t = 100."""
    print("\n| | N | n | events | a pair | slide in | at the end | orders | seconds | K moves by |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    cases = [("", n, [4, 32]) for n in (20, 40, 80, 160)]
    cases += [("", 40, [4, width]) for width in (8, 16, 64, 128)]
    cases += [("two layers", n, [4, 16, 16]) for n in (20, 40)]
    cases += [(f"α = {alpha:g}", 40, [4, 32]) for alpha in (0.03, 0.1, 0.3, 1.0, 3.0)]
    for name, n, widths in cases:
        net, X, y, until = random_problem(n, widths, 100.0)
        if name.startswith("α"):  # twins of opposite readout, which start at f = 0
            alpha = float(name[4:])
            W = np.vstack([net.weights[0][:16]] * 2)
            V = alpha * np.hstack([net.readout[:, :16], -net.readout[:, :16]])
            net = of.ReLUNetwork([W], V, rates=[net.rates[0] / alpha**2], readout_rate=1.0)
            until = 100 / highest(net, X)
        run, seconds = measured(net, X, y, of.ExactFlow(), until=until)
        kinds = run.events["kind"].tolist()
        slides = kinds.count("slide in")
        pairs = n * sum(widths[1:])
        moved = of.spectral.kernel_distance(
            *(of.collective_kernel(one.fields(X)) for one in (net, run.network))
        )
        print(f"| {name} | {n} | {widths[1]} | {len(kinds):,} | {len(kinds) / pairs:.2f} "
              f"| {slides:,} | {slides - kinds.count('slide out'):,} | {run.products:,} "
              f"| {seconds:.1f} | {float(moved):.2g} |", flush=True)  # fmt: skip


def digits(outputs=1):
    data = load("digits")
    X = np.ascontiguousarray(data.inputs[:250])
    y = np.ascontiguousarray(data.targets[:250, :outputs])
    net = of.ReLUNetwork.random([64, 100], outputs=outputs, seed=0)
    until = 2000 / highest(net, X)
    descent = measured(net, X, y, of.GradientDescent(), until=until, every=500)
    times = descent[0].times[1:]
    exact, seconds = measured(net, X, y, of.ExactFlow(), times=times)
    heading(net, X, y, exact, seconds)
    row("GradientDescent()", *descent, exact)
    for method in (of.GradientFlow(), of.ExponentialFlow(), of.GradientFlow(1e-6)):
        row(f"{method}", *measured(net, X, y, method, times=times), exact)


if __name__ == "__main__":
    tasks = {
        "order": lambda: order(50, [4, 24], 100),
        "deep": lambda: order(40, [4, 12, 12], 60),
        "events": events,
        "digits": digits,
        "digits10": lambda: digits(10),
    }
    with threadpool_limits(1):
        for task in sys.argv[1:]:
            tasks[task]()
