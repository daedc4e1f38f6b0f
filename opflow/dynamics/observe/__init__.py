"""Observers: what a run records on its way.

An observer is any callable of a :class:`Moment`; what it returns (a number or an array) is kept
under its name: its attribute `name`, or that of the function or the class.  One that remembers
earlier moments has methods ``state()``, a dict of arrays, and ``restore(arrays)``, so that a
resumed run observes as if it had not stopped.  Those here cost what their docstrings say.

Of a run with a communicator, every rank calls every observer and must get one value: what an
observer sums over the samples of the moment it completes by ``moment.space``, and the names of
arrays of its memory that have rows by sample stand in its attribute ``by_sample``.
"""

from opflow.dynamics.observe.chosen import Function, Snapshots
from opflow.dynamics.observe.eigenpairs import HessianEigenvalues, TopEigenpairs
from opflow.dynamics.observe.fields import GateFlips, TruncationError
from opflow.dynamics.observe.fit import Accuracy, HeldOutLoss, Loss, ResidualNorm
from opflow.dynamics.observe.kernel import Alignment, KernelDistance, Sharpness, Spectrum
from opflow.dynamics.observe.moment import Moment
from opflow.dynamics.observe.weights import Balancedness, GramClosure
from opflow.relu.invariants import balances

__all__ = [
    "Accuracy",
    "Alignment",
    "Balancedness",
    "Function",
    "GateFlips",
    "GramClosure",
    "HeldOutLoss",
    "HessianEigenvalues",
    "KernelDistance",
    "Loss",
    "Moment",
    "ResidualNorm",
    "Sharpness",
    "Snapshots",
    "Spectrum",
    "TopEigenpairs",
    "TruncationError",
    "balances",
]

__dir__ = __all__.copy  # for dir()
