"""Tangent kernels and Jacobians of any PyTorch module, as lazy operators.

For every layer that multiplies its inputs a by a weight, the kernel's share is the Gram of
``φ ⊙ a``, summed over positions where the weight is shared; φ, the derivative of the outputs by
what the layer puts out, comes from hooks and backward passes.
"""

from opflow.interface.extras import install

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError(f"opflow.torch needs PyTorch: {install('torch')}") from error

from opflow.torch.hessian import hessian
from opflow.torch.kernels import cross_kernel, jacobian, kernel, layer_kernels
from opflow.torch.layers import linear_in

__all__ = ["cross_kernel", "hessian", "jacobian", "kernel", "layer_kernels", "linear_in"]
