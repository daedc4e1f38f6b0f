"""The theory: networks, their fields on a training set, and what the fields make."""

from opflow.relu import features, hierarchy
from opflow.relu.fields import Fields
from opflow.relu.infinite_width import infinite_width
from opflow.relu.invariants import weight_gram_velocity
from opflow.relu.jacobian import jacobian
from opflow.relu.kernel_velocity import (
    KernelVelocity,
    kernel_velocity,
    layer_kernel_velocities,
)
from opflow.relu.kernels import collective_kernel, cross_kernel, layer_kernels, measured_kernel
from opflow.relu.network import ReLUNetwork

__all__ = [
    "Fields",
    "KernelVelocity",
    "ReLUNetwork",
    "collective_kernel",
    "cross_kernel",
    "features",
    "hierarchy",
    "infinite_width",
    "jacobian",
    "kernel_velocity",
    "layer_kernel_velocities",
    "layer_kernels",
    "measured_kernel",
    "weight_gram_velocity",
]
