"""Pictures of runs, spectra and kernels: each a function that returns the axes it drew on.

matplotlib is imported when one is drawn: ``pip install '.[plot]'``.
"""

from opflow.plot.axes import COLOURS
from opflow.plot.decay import decay, projections
from opflow.plot.kernel import block_means, clustered, heat_map
from opflow.plot.layers import hierarchy_norms, layer_shares, mode_shares, modes
from opflow.plot.spectra import density, eigenvalues, power_law
from opflow.plot.training import accuracy, alignment, held_out, loss, sharpness

__all__ = [
    "COLOURS",
    "accuracy",
    "alignment",
    "block_means",
    "clustered",
    "decay",
    "density",
    "eigenvalues",
    "heat_map",
    "held_out",
    "hierarchy_norms",
    "layer_shares",
    "loss",
    "mode_shares",
    "modes",
    "power_law",
    "projections",
    "sharpness",
]

__dir__ = __all__.copy  # for dir()
