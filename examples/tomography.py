"""
A network behind projections: tomography
========================================

Rays through a body tell how much is on their way; the image of a slice is wanted. Few views leave
much of it open. Here the image is the output of a network on the points of the slice, trained by
gradient descent. Filtered back-projection and Tikhonov regularisation use the same data.
"""

import matplotlib.pyplot as plt
import numpy as np
import pylops
from scipy import sparse

import opflow as of

# %%
# The phantom of Shepp and Logan: ten ellipses of value, half axes, centre and angle.

n = 64
views = 5 * n // 16
ellipses = [
    (1, 0.69, 0.92, 0, 0, 0), (-0.8, 0.6624, 0.874, 0, -0.0184, 0),
    (-0.2, 0.11, 0.31, 0.22, 0, -18), (-0.2, 0.16, 0.41, -0.22, 0, 18),
    (0.1, 0.21, 0.25, 0, 0.35, 0), (0.1, 0.046, 0.046, 0, 0.1, 0), (0.1, 0.046, 0.046, 0, -0.1, 0),
    (0.1, 0.046, 0.023, -0.08, -0.605, 0), (0.1, 0.023, 0.023, 0, -0.606, 0),
    (0.1, 0.023, 0.046, 0.06, -0.605, 0),
]  # fmt: skip
points = of.coordinates((n, n), dtype="float32")
x, y = points[:, 1], -points[:, 0]
phantom = np.zeros(n * n, dtype="float32")
for value, a, b, right, up, degrees in ellipses:
    turned = np.exp(-1j * np.radians(degrees)) * (x - right + 1j * (y - up))
    phantom[(turned.real / a) ** 2 + (turned.imag / b) ** 2 <= 1] += value

# %%
# Parallel beams: a view has n rays, as far apart as the pixels, and each pixel is shared by the two
# nearest. The matrix is sparse. The noise is 1 % of the largest value.


def projections():
    angles = np.pi * np.arange(views)[:, None] / views
    place = (np.cos(angles) * x + np.sin(angles) * y + 1) * (n - 1) / 2
    ray = np.floor(place).astype("int32")
    ray, share = np.stack([ray, ray + 1]), np.stack([1 + ray - place, place - ray])
    hit = (ray >= 0) & (ray < n)
    rows = (ray + n * np.arange(views, dtype="int32")[:, None])[hit]
    columns = np.broadcast_to(np.arange(n * n, dtype="int32"), hit.shape)[hit]
    matrix = sparse.csr_array((2 / (n - 1) * share[hit], (rows, columns)), (views * n, n * n))
    return pylops.MatrixMult(matrix.astype("float32"), dtype="float32")


G = projections()
d = G @ phantom
noise = 0.01 * d.max() * np.random.default_rng(0).standard_normal(d.size, dtype="float32")
d += noise

# %%
# Filtered back-projection (FBP); Tikhonov, which penalises differences, the best of six weights.


def filtered(data, power):
    ramp = np.fft.rfftfreq(2 * n).clip(1 / (8 * n)) ** power
    spectrum = ramp * np.fft.rfft(data.reshape(views, n), 2 * n)
    return np.fft.irfft(spectrum, 2 * n)[:, :n].astype("float32").ravel()


def decibels(image):
    return -10 * np.log10(np.mean((image - phantom) ** 2))


def tikhonov(weight):
    stack = pylops.VStack([G, weight * differences])
    return sparse.linalg.lsqr(stack, np.pad(d, (0, 2 * n * n)), iter_lim=100)[0]


backprojection = np.pi / views * ((n - 1) / 2) ** 2 * (G.T @ filtered(d, 1))
differences = pylops.Gradient((n, n), kind="forward", dtype="float32")
smooth = max(map(tikhonov, np.geomspace(5e-3, 5e-2, 6)), key=decibels)

# %%
# The network fits views filtered by the root of the frequency, so that detail is learned sooner.
# The readout of "mean-field" is small, so that features have to move.

root = pylops.FunctionOperator(*[lambda v: filtered(v, 0.5)] * 2, d.size, dtype="float32")
A = root @ G
X = of.fourier_features(points, scale=2.0, count=64, seed=2) / 8
net = of.ReLUNetwork.random([128] * 6, scaling="mean-field", bias=True, seed=0, dtype="float32")
method = of.GradientDescent(momentum=0.99)
run = of.train(net, X, root @ d, measurement=A, method=method, steps=300, every=10, memory="1GB")
field = run.network(X)[:, 0]
ratio = np.linalg.norm(run.residual) / np.linalg.norm(root @ noise)
print(f"residual / noise {ratio:.2f} after {run.products} products")

# %%
# All images on one scale, and the error of the network.

images = {"phantom": phantom, "FBP": backprojection, "Tikhonov": smooth, "network": field}
fig, axes = plt.subplots(1, 5, figsize=(12, 2.9), layout="constrained")
for ax, (name, image) in zip(axes, images.items(), strict=False):
    ax.imshow(image.reshape(n, n), cmap="gray", vmin=0, vmax=0.6)
    ax.set(title=f"{name}, {decibels(image):.1f} dB" if ax is not axes[0] else name)
axes[4].imshow((field - phantom).reshape(n, n), cmap="RdBu_r", vmin=-0.4, vmax=0.4)
axes[4].set_title("network − phantom")
for ax in axes:
    ax.axis("off")

# %%
# The filter evens out the eigenvalues of the measured kernel. Training lets some 200 stand out.

fig, ax = plt.subplots(layout="constrained")
for label, network in {"start": net, "trained": run.network}.items():
    K = of.collective_kernel(network.fields(X)).todense()
    raw = G @ (G @ K).T
    for name, kernel, style in (("raw", raw, ":"), ("filtered", root @ (root @ raw).T, "-")):
        values = np.linalg.eigvalsh(kernel)[::-1]
        ax.semilogy(values / values[0], style, c=of.plot.ROLES[label], label=f"{label}, {name}")
ax.set(title="Measured kernel", xlabel="rank", ylabel="eigenvalue / largest", ylim=(1e-6, 1.5))
ax.legend()
plt.show()
