r"""
How the kernel moves, layer by layer
====================================

At finite width the kernel :math:`K = \sum_\ell \eta_\ell A^{\ell-1} \circ D^\ell` moves with the
Grams A of activations and D of conjugate fields, and it jumps where a gate flips. On 200 digits and
three layers of 64 units it moves by over 70 % of its norm. The integral of :math:`dK/dt` between
flips accounts for most of that, flips for the rest. In the first steps the flips dominate.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import opflow as of

# %%
# The run keeps its network at every step.

X, digit = load_digits(return_X_y=True)
X, y = X[:200] / 16 - X[:200].mean(axis=0) / 16, np.where(digit[:200] % 2 == 0, 1.0, -1.0)
net = of.ReLUNetwork.random([64, 64, 64, 64], seed=4)
seen = of.observe.Snapshots()
run = of.train(net, X, y, steps=200, method=of.GradientDescent(step=0.015), observe=[seen])
fields = [network.fields(X) for network in seen.networks.values()]

# %%
# A finite difference confirms the velocity, unless gates flip within its step.

start = of.collective_kernel(fields[0]).todense()
dK = of.kernel_velocity(fields[0], fields[0].outputs[:, 0] - y).todense()
for step in (1e-7, 1e-5, 0.015):
    moved = of.train(net, X, y, steps=1, method=of.GradientDescent(step)).network.fields(X)
    error = np.linalg.norm((of.collective_kernel(moved).todense() - start) / step - dK)
    flips = sum((a != b).sum() for a, b in zip(fields[0].gates, moved.gates, strict=True))
    print(f"step {step:g}: {flips} flips, relative error {error / np.linalg.norm(dK):.1g}")

# %%
# :func:`opflow.layer_kernel_velocities` gives two parts of every layer: activations move, and
# conjugate fields do. Their sum, added up along the run, is the smooth part of the motion.

sizes, moves, smooth = [], [], np.zeros_like(start)
for f in fields:
    change = of.collective_kernel(f).todense() - start
    moves.append(np.linalg.norm([change, smooth, change - smooth], axis=(1, 2)))
    velocities = of.layer_kernel_velocities(f, f.outputs[:, 0] - y)
    parts = np.array([part.todense() for layer in velocities for part in layer])
    sizes.append(np.linalg.norm(parts, axis=(1, 2)))
    smooth = smooth + run.step * parts.sum(axis=0)
moves = np.array(moves) / np.linalg.norm(start)
print("relative to K(0): change {:.2f}, integral {:.2f}, difference {:.2f}".format(*moves[-1]))

# %%
# The kernel slows down as the residual falls. The difference is mostly due to gate flips.

plt.rc("axes", prop_cycle=plt.cycler(color=of.plot.COLOURS))
fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
names = r"$A^0\circ\dot{D}^1$ $\dot{A}^1\circ{D}^2$ $A^1\circ\dot{D}^2$ $\dot{A}^2\circ{D}^3$"
axes[0].semilogy(run.times, np.array(sizes)[:, 1:5], label=names.split())
axes[1].plot(run.times, moves, label=("change of K", "integral of dK/dt", "difference: gate flips"))
axes[0].set(xlabel="time", ylabel="Frobenius norm of the part", title="velocity", ylim=(0.1, 10))
axes[1].set(xlabel="time", ylabel="norm relative to K(0)", title="motion", ylim=(0, 1.05))
for ax in axes:
    ax.legend(frameon=False)
plt.show()
