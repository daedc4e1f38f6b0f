"""Makes ``import opflow.observe`` work: it is :mod:`opflow.dynamics.observe` itself."""

import sys

from opflow.dynamics import observe
from opflow.dynamics.observe import *  # noqa: F403, for type checkers

sys.modules[__name__] = observe
