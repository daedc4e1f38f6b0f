r"""
A photograph learned from the positions of its pixels
=====================================================

A network learns the colours of scikit-learn's ``china.jpg`` from random Fourier features of each
pixel's position (Tancik et al., 2020, `arXiv:2006.10739 <https://arxiv.org/abs/2006.10739>`_). The
rows of features are computed when they are read, so that no N × d matrix exists, and training forms
no N × N kernel. Every fifth pixel each way is used here, 11,008 of 273,280.
"""

import itertools

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_image

import opflow as of

# %%
# :func:`opflow.train` takes any object with ``shape``, ``dtype`` and row slicing.

picture = load_sample_image("china.jpg")[::5, ::5].astype(np.float32) / 255
height, width = picture.shape[:2]
waves = 2 * np.pi * 8 * np.random.default_rng(0).standard_normal((2, 64), dtype=np.float32)


class FourierFeatures:
    shape, dtype = (height * width, 128), np.dtype(np.float32)

    def __getitem__(self, rows):
        pixels = np.arange(height * width)[rows]
        phase = np.stack(np.divmod(pixels, width), axis=1).astype(np.float32) / width @ waves
        return np.concatenate([np.cos(phase), np.sin(phase)], axis=1) / 8


X, y = FourierFeatures(), (picture - picture.mean(axis=(0, 1))).reshape(-1, 3)
net = of.ReLUNetwork.random([128, 128, 128], outputs=3, seed=0, dtype=np.float32)

# %%
# Descent in batches of 1,024 pixels starts with the step :math:`1/\lambda_{\max}(K/N)`, estimated
# from 1,000 pixels. The step falls to a tenth of it before each of the pictures.

rows = np.sort(np.random.default_rng(1).choice(len(y), 1000, replace=False))
step = 1000 / of.spectral.largest_eigenvalue(of.collective_kernel(net.fields(X[rows]))).value
shown = {}
for i, (a, b) in enumerate(itertools.pairwise((0, 4, 16, 64, 256, 1024))):
    sizes = np.linspace(step, 0.1 * step, b - a)
    method = of.GradientDescent(sizes.__getitem__, momentum=0.95, batch=1024, rng=i)
    run = of.train(net, X, y, method=method, steps=b - a, every=b - a, loss="mean")
    net, fitted = run.network, picture + run.residual.reshape(picture.shape)
    title = f"step {b:,}: {-10 * np.log10((run.residual**2).mean()):.1f} dB"
    shown[title] = np.clip(fitted, 0, 1)
    print(title)

# %%
# Large areas come first, then edges, then windows and leaves, to a peak signal-to-noise ratio of
# about 23 dB. For all pixels take ``[::1, ::1]`` above, more waves, wider layers and some minutes.

shown["photograph"] = picture
fig, axes = plt.subplots(2, 3, figsize=(9, 4.2), layout="constrained")
for ax, (title, image) in zip(axes.flat, shown.items(), strict=True):
    ax.imshow(image)
    ax.set_title(title)
    ax.axis("off")
plt.show()
