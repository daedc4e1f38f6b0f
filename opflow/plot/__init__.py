"""Pictures of runs, spectra and kernels: each a function that returns the axes it drew on.

Each takes what the library gives (runs, eigenpairs, densities, operators, fields) or plain arrays,
one or several in a mapping of labels; `ax`, the axes to draw on if not those of a new figure; and
matplotlib's keywords of what it draws: `color`, `linewidth`, `label`, `cmap`, ….  What cannot be
drawn raises a TypeError or a ValueError that says what could.

matplotlib is imported when one is drawn: ``pip install '.[plot]'``.
"""

from opflow.plot.axes import COLOURS, ROLES
from opflow.plot.kernel import block_means, clustered, heat_map
from opflow.plot.layers import hierarchy_norms, layer_shares, mode_shares, network
from opflow.plot.modes import decay, modes, projections
from opflow.plot.predictions import confusion, predicted, residuals
from opflow.plot.spectra import density, eigenvalues, power_law
from opflow.plot.training import accuracy, alignment, held_out, loss, sharpness

__all__ = [
    "COLOURS",
    "ROLES",
    "accuracy",
    "alignment",
    "block_means",
    "clustered",
    "confusion",
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
    "network",
    "power_law",
    "predicted",
    "projections",
    "residuals",
    "sharpness",
]

__dir__ = __all__.copy  # for dir()
