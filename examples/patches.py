"""
A convolutional network from patches
====================================

Patches of images are the rows of the inputs, so all patches meet the same weights: one layer of a
network is a convolution. Average pooling and a fixed linear readout are a linear operator on its
outputs, the measurement. Of scikit-learn's digits, 800 are for training and 800 for testing.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import opflow as of

# %%
# An image of 8 x 8 pixels has 16 patches of 5 x 5. They are copied out of the images a block at a
# time, when the network reads them.

digits, labels = load_digits(return_X_y=True)
digits = (digits / 16).reshape(-1, 8, 8)
train, test = np.split(np.random.default_rng(0).permutation(len(digits))[:1600], 2)
X = of.patches(digits[train], 5)
print(X)

# %%
# Each of 32 filters gives a map of 4 x 4 entries. Pooling averages it over each quarter, and fixed
# random weights turn the 128 averages of an image into 10 outputs. In PyTorch that is Conv2d, ReLU,
# AvgPool2d(2) and a frozen Linear.

filters = 32
halves = np.kron(np.eye(2), np.full((1, 2), 0.5))
pool = of.FeatureLift(np.kron(halves, halves), filters)
readout = np.random.default_rng(1).standard_normal((10, pool.shape[0])) / pool.shape[0] ** 0.5


def measurement(X):
    return of.SampleLift(readout @ pool, samples=X.dims[0])


start = of.ReLUNetwork.random([25, filters], bias=True, seed=0)
net = of.ReLUNetwork(start.weights, np.eye(filters), biases=start.biases, rates=start.rates)
d = np.eye(10)[labels[train]].ravel()
run = of.train(net, X, d, measurement=measurement(X), steps=20, method=of.GaussNewton())

# %%
# Three fully connected networks on whole images are trained alike: with about as many parameters as
# the convolution, as many units as it has filters, and as many hidden values per image (512). The
# convolution is ahead of the first two, and of all where the digits are shifted by a pixel. On
# digits as in training the largest is the best, with 40 times the parameters. This order is the
# same for other seeds.


def accuracy(outputs):
    return 100 * np.mean(outputs.reshape(-1, 10).argmax(axis=1) == labels[test])


def convolved(images):
    Z = of.patches(images, 5)
    return measurement(Z) @ run.network(Z).ravel()


def fully_connected(width):
    start = of.ReLUNetwork.random([64, width], outputs=10, bias=True, seed=0)
    X, y = digits[train].reshape(-1, 64), d.reshape(-1, 10)
    trained = of.train(start, X, y, steps=20, method=of.GaussNewton()).network
    name = f"fully connected\n{start.parameters:,} parameters"
    return name, lambda images: trained(images.reshape(-1, 64))


models = {f"convolution\n{net.parameters:,} parameters": convolved}
models |= dict(fully_connected(width) for width in (12, filters, 16 * filters))
shifted = np.roll(digits[test], 1, axis=2)
found = {name: (accuracy(f(digits[test])), accuracy(f(shifted))) for name, f in models.items()}
for name, (centred, moved) in found.items():
    print(f"{' '.join(name.split())}: {centred:.1f} % of the test set, {moved:.1f} % shifted")

# %%
# Left: eight filters, and what the one that responds most makes of eight digits; each image has its
# own scale. Trained filters are four times as large as at the start, and not much smoother. Right:
# the accuracies.


def strip(images):
    return np.hstack([np.pad(image, 1, constant_values=np.nan) for image in images])


shown = [train[labels[train] == digit][0] for digit in range(8)]
Z = of.patches(digits[shown], 5)
outputs = run.network(Z)[:, :8]
maps = outputs[:, outputs.sum(axis=0).argmax()].reshape(Z.dims)
signed, grey = {"cmap": "RdBu_r", "vmin": -1, "vmax": 1}, {"cmap": "Greys"}
rows = [
    ("filters at the start", net.weights[0][:8].reshape(8, 5, 5), signed),
    ("filters, trained", run.network.weights[0][:8].reshape(8, 5, 5), signed),
    ("digits", digits[shown], grey),
    ("feature map", maps, grey),
    ("pooled", maps.reshape(8, 2, 2, 2, 2).mean(axis=(2, 4)), grey),
]
fig = plt.figure(figsize=(10, 4.6), layout="constrained")
left, right = fig.subfigures(1, 2, width_ratios=(1.4, 1))
for ax, (title, images, colours) in zip(left.subplots(len(rows), 1), rows, strict=True):
    ax.imshow(strip(images / abs(images).max(axis=(1, 2), keepdims=True)), **colours)
    ax.set(xticks=[], yticks=[])
    ax.set_ylabel(title, rotation=0, ha="right", va="center")
ax = right.subplots()
for i, label in enumerate(("test set", "shifted by one pixel")):
    values = [pair[i] for pair in found.values()]
    ax.barh(np.arange(4) + 0.4 * i, values, 0.4, color=of.plot.COLOURS[i], label=label)
ax.set(yticks=np.arange(4) + 0.2, yticklabels=found, xlabel="accuracy in %", xlim=(0, 100))
ax.invert_yaxis()
ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
plt.show()
