"""Compose the operators of the theory on the handwritten digits, without an N x N array.

pip install '.[demo]' && python examples/compose_operators.py
"""

import numpy as np
from scipy.sparse.linalg import cg, eigsh
from sklearn.datasets import load_digits

import opflow as of

digits = load_digits()
X = digits.data / 16.0
X -= X.mean(axis=0)
y = np.where(digits.target % 2 == 0, 1.0, -1.0)  # even or odd

# One hidden layer: K = (X Xᵀ) ∘ C, and the Hadamard product is found to be a Gram.
rng = np.random.default_rng(0)
W, v = rng.standard_normal((512, 64)) / 8, rng.standard_normal(512) / 512**0.5
gates = X @ W.T > 0
K = of.Hadamard(of.Gram(X), of.CoActivation(gates, weights=v**2))
fields = of.ReLUNetwork([W], v).fields(X)
same = of.collective_kernel(fields)
print(of.describe(K))
print("equals the network's kernel:", np.allclose(K @ y, same @ y))

# Its spectrum through SciPy, and a ridge regression with it.
top = eigsh(K, k=5, return_eigenvectors=False)[::-1]
print("largest eigenvalues:", np.round(top, 2), "  trace:", round(float(K.trace()), 2))
alpha, _ = cg(K + 0.1 * of.Identity(len(y)), y, rtol=1e-6)
print("ridge regression, training accuracy:", np.mean(np.sign(K @ alpha) == y))

# Three hidden layers: the weight-induced Gram operator of two samples, and one more step back.
net = of.ReLUNetwork.random([64, 128, 128, 128], seed=0)
fields = net.fields(X)
mu, nu = 0, 1
member = of.WeightGram(net.weights[2], fields.gates[2][mu], fields.gates[2][nu])
W2 = of.Weight(net.weights[1], symbol="W²")
J_mu, J_nu = (of.Mask(fields.gates[1][s]) @ W2 for s in (mu, nu))
earlier = of.pullback(member, J_mu, J_nu)
print(of.describe(earlier))

# Train, watching gates flip.
run = of.train(net, X, y, steps=100, observe=[of.observe.GateFlips()])
print(run)
print(run.note)
print("gates flipped in the last step, layer by layer:", run.observations["gate_flips"][-1])
