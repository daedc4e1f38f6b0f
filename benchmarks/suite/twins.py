"""Twins in JAX of two modules, and the structured derivatives of neural-tangents for them."""

from __future__ import annotations

from typing import Any

from benchmarks.suite.modules import ModuleProblem
from benchmarks.suite.problems import SetUp


def _twin(p: ModuleProblem) -> tuple[Any, Any]:
    """The function of parameters and inputs, and the parameters by their names in torch."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    jax.config.update("jax_enable_x64", p.X.dtype == "float64")
    jax.config.update("jax_platforms", "cpu")

    def gelu(x: Any) -> Any:
        return jax.nn.gelu(x, approximate=False)

    def mlp(q: Any, x: Any) -> Any:
        for i in (0, 2, 4):
            x = (gelu(x) if i else x) @ q[f"{i}.weight"].T + q[f"{i}.bias"]
        return x

    def cnn(q: Any, x: Any) -> Any:
        for i, stride in ((0, 1), (2, 2)):
            x = lax.conv_general_dilated(x, q[f"{i}.weight"], (stride, stride), ((1, 1), (1, 1)))
            x = gelu(x + q[f"{i}.bias"][:, None, None])
        return x.reshape(len(x), -1) @ q["5.weight"].T + q["5.bias"]

    parameters = {name: jnp.asarray(a) for name, a in p.parameters.items()}
    return {"MLP": mlp, "CNN": cnn}[p.what.module], parameters


def neural_tangents(p: ModuleProblem) -> SetUp:
    """The kernel of all outputs by structured derivatives (arXiv:2206.08720), compiled."""
    import jax
    import neural_tangents as nt
    import numpy as np

    f, parameters = _twin(p)
    X = jax.numpy.asarray(p.X)
    outputs = p.what.widths[-1]

    def set_up() -> Any:
        kernel = jax.jit(
            nt.empirical_ntk_fn(
                f, trace_axes=(), vmap_axes=0,
                implementation=nt.NtkImplementation.STRUCTURED_DERIVATIVES,
            )
        )  # fmt: skip

        def call() -> Any:
            K = np.asarray(kernel(X, None, parameters))
            return K.transpose(0, 2, 1, 3).reshape(len(X) * outputs, -1)

        call()  # compilation is set-up
        return call

    return set_up
