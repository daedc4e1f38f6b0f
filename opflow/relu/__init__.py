"""The theory: networks, their fields on a training set, and the kernels of the dynamics."""

from opflow.relu import hierarchy
from opflow.relu.fields import Fields
from opflow.relu.kernels import collective_kernel, jacobian, layer_kernels
from opflow.relu.network import ReLUNetwork

__all__ = ["Fields", "ReLUNetwork", "collective_kernel", "hierarchy", "jacobian", "layer_kernels"]
