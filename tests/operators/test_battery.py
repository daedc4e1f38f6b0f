"""Every operator passes every check of the battery."""

import numpy as np
import pytest
from hypothesis import given

import opflow as of

from .battery import CHECKS, FACTORIES, Case, Setting, settings_drawn, small_blocks


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("factory", FACTORIES)
@given(setting=settings_drawn)
def test_operator(factory: str, check: str, setting: Setting) -> None:
    with small_blocks(setting.workspace):
        CHECKS[check](FACTORIES[factory](setting), setting.rng)


def test_every_public_operator_is_in_the_registry() -> None:
    def classes(op):
        yield type(op)
        for part in op.operands:
            yield from classes(part)

    setting = Setting(9, 4, 4, 2, np.float64, "none", 8 << 20, seed=0)
    seen = {c for f in FACTORIES.values() for c in classes(f(setting).op)}
    public = {
        value
        for name in of.operators.__all__
        if isinstance(value := getattr(of, name), type) and issubclass(value, of.Operator)
    }
    assert public - {of.Operator} <= seen


def test_the_battery_refuses_an_error_above_rounding() -> None:
    A = np.random.default_rng(0).standard_normal((5, 4))
    case = Case(of.Matrix(A), lambda A: A, A)
    for check in ("equals_its_dense_reference", "multiplies_vectors", "gives_sub_blocks"):
        wrong = Case(of.Matrix(A * (1 + 1e-12)), lambda A: A, A)
        CHECKS[check](case, np.random.default_rng(1))
        with pytest.raises(AssertionError, match="allowed"):
            CHECKS[check](wrong, np.random.default_rng(1))
