"""Makes ``import opflow.features`` work: it is :mod:`opflow.relu.features` itself."""

import sys

from opflow.relu import features
from opflow.relu.features import *  # noqa: F403, for type checkers

sys.modules[__name__] = features
