r"""The weight-induced Gram hierarchy: how fields move, and through which operators.

Under gradient flow ``dh^ℓ/dt = −H_ℓ r`` and ``dψ^ℓ/dt = −Ψ_ℓ r``.  Sample pair by sample pair
these velocities are sums over the *members* of two recursions, the backward pullback B and its
dual, the forward pushforward F, each a chain of masked weights.  Layers are counted 1..L.

A *Gram factor* is one step of a recursion, a sandwich ``Wᵀ D_μ · D_ν W`` or ``W D_μ · D_ν Wᵀ``;
the members B^{(m,m)} = F^{(m,m)} = I have none.  ``order=p`` keeps the members with at most p.
"""

from opflow.relu.hierarchy.members import Members, members, pullback, pushforward
from opflow.relu.hierarchy.velocities import (
    conjugate_velocity,
    field_errors,
    field_velocities,
    hidden_velocity,
    split,
)

__all__ = [
    "Members",
    "conjugate_velocity",
    "field_errors",
    "field_velocities",
    "hidden_velocity",
    "members",
    "pullback",
    "pushforward",
    "split",
]

__dir__ = __all__.copy  # for dir()
