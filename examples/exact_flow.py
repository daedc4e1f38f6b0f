"""
The exact gradient flow
=======================

A pre-activation that reaches zero crosses it, or is driven back from both sides and stays: it
*slides*. :class:`opflow.ExactFlow` follows the gradient flow through every such event. It shows
what gates do, and how far other methods, which step over the events, are from the flow.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap

import opflow as of

# %%
# One hidden layer of 24 units on 50 random samples, up to a time of 60 over the largest eigenvalue.


def problem(n, widths, reach):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((n, widths[0])), rng.standard_normal((n, 1))
    net = of.ReLUNetwork.random(widths, seed=0)
    top = of.spectral.largest_eigenvalue(of.collective_kernel(net.fields(X))).value
    return net, X, y, np.linspace(0, reach / top, 401)


net, X, y, times = problem(50, [4, 24], 60.0)
watch = {"r": lambda m: m.residual.copy(), "h": lambda m: m.network.fields(X).preactivations[0]}
fine = of.train(net, X, y, method=of.ExactFlow(), times=times[1:], observe=watch)
coarse = of.train(net, X, y, method=of.GradientDescent(times[1]), steps=400, observe=watch)
print(*(f"{(fine.events['kind'] == kind).sum()} {kind}" for kind in np.unique(fine.events["kind"])))

# %%
# Left: the gates that change, one row for a unit and a sample: closed (grey), open (blue), sliding
# (orange). Right: three pre-activations that come to zero and stay there. Descent (thin, about a
# tenth of the largest stable step) zigzags.

h, zigzag = (run.observations["h"].reshape(len(run.times), -1) for run in (fine, coarse))
state = np.where(abs(h) < 1e-9, 2, h > 0)
changed = state != state[0]
rows = [i for i in changed.argmax(axis=0).argsort() if changed[:, i].any()]
stay = sorted(np.flatnonzero(state[-1] == 2), key=lambda i: (state[:, i] == 2).argmax())
fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4), layout="constrained")
shades = ListedColormap(["0.9", of.plot.COLOURS[5], of.plot.COLOURS[1]])
left.pcolormesh(times, np.arange(len(rows)), state[:, rows].T, cmap=shades)
left.set(title="Gates", xlabel="time", ylabel="unit and sample")
for i, colour in zip(stay[4:10:2], of.plot.COLOURS, strict=False):
    right.plot(times, zigzag[:, i], color=colour, lw=0.7)
    right.plot(times, h[:, i], color=colour, lw=2)
right.set(title="Pre-activations that slide", xlabel="time", xlim=(0, 3), ylim=(-0.08, 0.08))
plt.show()

# %%
# Left: the largest error at 20 moments. Right: the hierarchy in three layers of 12 units. Order 2
# is all of it, and nears the flow as the step shrinks; lower orders do not.


def errors(run):
    r, true = run.observations["r"], fine.observations["r"][::20]
    return np.linalg.norm(r - true, axis=(1, 2))[1:] / np.linalg.norm(true[0])


def follow(method, steps=0):
    how = {"steps": steps, "every": steps // 20} if steps else {"times": times[20::20]}
    return of.train(net, X, y, method=method, observe=watch, **how)


fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4), layout="constrained")
left.set_prop_cycle(color=of.plot.COLOURS)
right.set_prop_cycle(color=of.plot.COLOURS[3:])
runs = [follow(of.GradientDescent(times[-1] / n), n) for n in (240, 960, 3840, 15360)]
found = {"GradientDescent": runs}
for flow in (of.GradientFlow, of.ExponentialFlow):
    found[flow.__name__] = [follow(flow(tol)) for tol in (1e-1, 1e-3, 1e-5)]
for name, runs in found.items():
    points = [(run.products, errors(run).max()) for run in runs]
    left.loglog(*zip(*points, strict=True), "o-", label=name)
    print(name, *(f"{n} products: {off:.1e}" for n, off in points), sep="  ")
left.loglog([100, 10000], [0.06, 0.0006], "k--", lw=1, label="first order")
left.set(title="Distance from the exact flow", xlabel="products", ylabel="error / ‖r(0)‖")
left.legend()
net, X, y, times = problem(20, [4, 12, 12, 12], 40.0)
fine = of.train(net, X, y, method=of.ExactFlow(), times=times[1:], observe=watch)
for p, n in ((0, 3200), (1, 3200), (2, 400), (2, 3200)):
    run = follow(of.TruncatedFlow(p, times[-1] / n), n)
    right.semilogy(run.times[1:], errors(run), label=f"order {p}, {n:,} steps")
right.set(title="The truncated hierarchy", xlabel="time", ylabel="error / ‖r(0)‖", ylim=(None, 9))
right.legend(loc="upper right", ncols=2)
plt.show()
