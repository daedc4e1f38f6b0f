"""Makes ``import opflow.hierarchy`` work: it is :mod:`opflow.relu.hierarchy` itself."""

import sys

from opflow.relu import hierarchy
from opflow.relu.hierarchy import *  # noqa: F403, for type checkers

sys.modules[__name__] = hierarchy
