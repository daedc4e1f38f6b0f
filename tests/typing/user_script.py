"""What a user writes, for type checkers: nothing that is asked for may be ``Any``."""

from collections.abc import Callable
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt

import opflow as of

Array = npt.NDArray[Any]

rng = np.random.default_rng(0)
X = rng.standard_normal((20, 3))
y = rng.standard_normal(20)
net = of.ReLUNetwork.random([3, 8], seed=0)
assert_type(net, of.ReLUNetwork)
assert_type(net(X), Array)
assert_type(net.weights, tuple[Array, ...])
assert_type(net.widths, tuple[int, ...])

fields = net.fields(X)
assert_type(fields.outputs, Array)
K = of.collective_kernel(fields)
assert_type(of.infinite_width(net, X), of.FunctionGram)
assert_type(K.T, of.Operator)
assert_type(K.H, of.Operator)
assert_type(K.shape, tuple[int, int])
assert_type(K + K, of.Operator)
assert_type(K - K, of.Operator)
assert_type(-K, of.Operator)
assert_type(2.0 * K, of.Operator)
assert_type(K @ K, of.Operator)
assert_type(K @ y, Array)
assert_type(K.T @ y, Array)
assert_type((K + K).T @ y, Array)
assert_type(K[0], Array)
assert_type(K.diagonal(), Array)
assert_type(K.todense(), Array)
assert_type(K.trace(), "np.floating[Any]")
assert_type(of.Gram(X) @ np.ones(20), Array)

run = of.train(net, X, y, steps=3, method=of.GradientDescent(seed=0))
assert_type(run, of.Trajectory)
assert_type(run.losses, Array)
assert_type(run.times, Array)
assert_type(run.residual, Array)
assert_type(run.network, of.ReLUNetwork)
assert_type(run.observations, dict[str, Any])  # arrays, and what observers keep of their own
assert_type(run.predict(X), Array)

pairs = of.spectral.eigsh(K, 2, seed=0, progress=False)
assert_type(pairs, of.spectral.Eigenpairs)
assert_type(pairs.eigenvalues, Array)
values, vectors = pairs
assert_type(values, Array)
assert_type(of.spectral.svds(K, 2, rng=0).left, Array)
assert_type(of.spectral.expm(K, y, 1.0), Array)
assert_type(of.spectral.sqrtm(K, y), Array)
assert_type(of.spectral.solve(K, y, 1.0).x, Array)
assert_type(of.spectral.kernel_regression(K, y, 1.0).fitted, Array)
found = of.spectral.posterior(K, y, 1.0)
assert_type(found.mean, Array)
assert_type(found.log_marginal_likelihood, of.spectral.Estimate)
assert_type(found.influence, of.Operator)
assert_type(of.spectral.projections(vectors, y), Array)
assert_type(of.spectral.trace(K, seed=1), of.spectral.Estimate)
assert_type(of.spectral.logdet(K, 1.0, seed=1, progress=False), of.spectral.Estimate)
assert_type(of.spectral.density(K, seed=1), of.spectral.Density)
assert_type(of.spectral.density(K)(values), Array)
assert_type(of.spectral.alignment(K, y, seed=np.random.default_rng(0)), of.spectral.Estimate)
alpha, beta, _ = of.spectral.lanczos(K, 3)
assert_type(alpha, Array)

norm: Callable[..., of.spectral.Estimate] = of.spectral.norm
