"""
A network behind an operator: deconvolution
===========================================

A blurred and noisy signal is given, and the sharp one is wanted. Here it is the output of a network
on the points of a line, trained by gradient descent through PyLops's convolution. Tikhonov
regularisation on the same data does about as well, with other errors.
"""

import matplotlib.pyplot as plt
import numpy as np
import pylops

import opflow as of

# %%
# The signal has two boxes and a ramp. The blur has a width of 6 points; the noise is 1 %.

n, rng = 200, np.random.default_rng(0)
t = np.linspace(-1, 1, n)
model = 1.0 * (abs(t + 0.5) < 0.15) + 0.6 * (abs(t) < 0.1) + (t > 0.3) * (t < 0.8) * (t - 0.3)
pulse = np.exp(-0.5 * (np.arange(-20, 21) / 6) ** 2)
G = pylops.signalprocessing.Convolve1D(n, pulse / pulse.sum(), offset=20)
d = G @ model + 0.01 * rng.standard_normal(n)

# %%
# Tikhonov: least squares with a penalty on second differences, its weight the best of 20.


def error(found):
    return np.linalg.norm(found - model) / np.linalg.norm(model)


def tikhonov(weight):
    stack = pylops.VStack([G, weight * pylops.SecondDerivative(n)])
    return np.linalg.lstsq(stack.todense(), np.concatenate([d, np.zeros(n)]), rcond=None)[0]


classical = min(map(tikhonov, np.geomspace(1e-3, 1e2, 20)), key=error)

# %%
# The network sees Fourier features of the points. 400 steps bring its residual down to the noise.

X = of.fourier_features(of.coordinates(n), scale=2.5, count=64, seed=2) / 8
net = of.ReLUNetwork.random([128, 128, 128], seed=0)
run = of.train(net, X, d, measurement=G, steps=400)
field = run.network(X)[:, 0]
residual = np.linalg.norm(run.residual) / n**0.5
print(f"residual {residual:.4f} per point, of a noise of 0.01")
print(f"relative error: Tikhonov {error(classical):.2f}, network {error(field):.2f}")

# %%
# Left: both solutions. Right: the spectrum of the measured kernel :math:`G K G^T`. Its fast decay
# is the blur: modes below the noise are not recovered, they come from the network's start.

fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
left.plot(t, model, color="0.6", lw=3, label="true signal")
left.plot(t, classical, color=of.plot.COLOURS[1], label="Tikhonov")
left.plot(t, field, color=of.plot.COLOURS[0], label="network")
left.set(title="Deconvolution", xlabel="position", ylabel="signal")
left.legend(loc="upper right")
for label, network in {"start": net, "trained": run.network}.items():
    K = of.measured_kernel(network.fields(X), G)
    values = of.spectral.eigh(K.todense()).eigenvalues
    right.semilogy(np.sort(values)[::-1].clip(1e-16), color=of.plot.ROLES[label], label=label)
right.set(title="Measured kernel", xlabel="rank", ylabel="eigenvalue", ylim=(1e-14, None))
right.legend()
plt.show()
