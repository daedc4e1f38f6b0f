"""The operator battery on device arrays; products move nothing."""

import cupy
import pytest
from hypothesis import given

from tests.device.counting import transfers
from tests.operators import battery
from tests.operators.battery import CHECKS, FACTORIES, Setting, settings_drawn, small_blocks

battery.use(cupy)

#: rows on disk and SciPy's operators are the host's
HOST = {"row_matrix", "gram_of_rows", "jacobian_of_rows", "external_scipy"}
HOST_CHECKS = {"converts_to_scipy", "composes_with_scipy"}
#: what may move an index that was given on the host, or read a number
ASKED = {"gives_sub_blocks", "refuses_other_shapes", "keeps_the_dtype", "survives_pickle",
         "multiplies_integer_vectors"}  # fmt: skip
#: products by iterations, which bring three numbers a column to the host to decide whether to go on
SOLVED = {"inverse"}


@pytest.mark.parametrize("check", sorted(set(CHECKS) - HOST_CHECKS))
@pytest.mark.parametrize("factory", sorted(set(FACTORIES) - HOST))
@given(setting=settings_drawn)
def test_operator(factory: str, check: str, setting: Setting) -> None:
    with small_blocks(setting.workspace):
        case = FACTORIES[factory](setting)
        with transfers() as made:
            CHECKS[check](case, setting.rng)
        assert check in ASKED or factory in SOLVED or not made
