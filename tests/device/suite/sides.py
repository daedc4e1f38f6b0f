"""One problem on the host and on the device, and how results of the two are compared."""

import numpy as np
import scipy.sparse as sp

import opflow as of
from opflow.machine.arrays import is_sparse, module_name, to_device, to_host


def put(x):
    """An array or sparse matrix on the device."""
    return to_device(x, "gpu")


def problem(depth=2, outputs=1, bias=False, sparse=False, dtype=np.float64, samples=11, seed=0):
    """Network, inputs and targets on the host.

    With biases and several outputs the units are leaky and absolute, and the readout is trained.
    """
    rng = np.random.default_rng(seed)
    net = of.ReLUNetwork.random([5, *[7, 6, 8][:depth]], outputs=outputs, bias=bias, seed=rng,
                                dtype=dtype)  # fmt: skip
    if bias:
        net = net.replace(
            net.weights, [rng.standard_normal(b.shape).astype(dtype) for b in net.biases]
        )
    if bias and outputs > 1:
        arrays = net.arrays() | {"output_bias": rng.standard_normal(outputs).astype(dtype)}
        settings = net.settings() | {"slope": (0.3, -1.0, 1.0)[:depth], "readout_rate": 0.5}
        net = of.ReLUNetwork.from_arrays(arrays, settings)
    X = rng.standard_normal((samples, 5))
    X = (sp.csr_matrix(X * (rng.random(X.shape) < 0.6)) if sparse else X).astype(dtype)
    return net, X, rng.standard_normal((samples, outputs)).astype(dtype)


def agree(device, host, factor: float = 1e3) -> None:
    """Equal to rounding, and where it was computed."""
    assert module_name(device) == "cupy"
    device = to_host(device.toarray() if is_sparse(device) else device)
    host = host.toarray() if is_sparse(host) else np.asarray(host)
    assert (device.shape, device.dtype) == (host.shape, host.dtype)
    eps = np.finfo(host.dtype).eps if host.dtype.kind == "f" else 0
    np.testing.assert_allclose(device, host, rtol=factor * eps,
                               atol=factor * eps * max(1, abs(host).max(initial=0)))  # fmt: skip
