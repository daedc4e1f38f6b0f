"""Results scale as the mathematics does, as far as numbers reach.

A power of two changes exponents alone, so that what a factor of 2^400 changes beyond rounding, or
makes NaN of, is an overflow, an underflow, or a comparison with a constant.
"""

import numpy as np
import pytest

from .catalogue import ENTRIES, Part, Problem

#: (of the operator, of the vectors): exponents of 2, even for the sake of roots
FAR = [(1, 0), (-1, 0), (0, 1), (0, -1)]
CASES = [
    pytest.param(name, kind, id=f"{name}-{kind}")
    for name, found in ENTRIES.items()
    for kind in found.kinds
]
_plain: dict[tuple, dict[str, Part]] = {}


def plain(name, kind, dtype):
    key = (name, kind, dtype)
    if key not in _plain:
        with np.errstate(all="raise"):  # a caller may have asked for it
            _plain[key] = ENTRIES[name](Problem(kind, dtype))
    return _plain[key]


def exponents(entry, dtype):
    """How far the factors go: an operator to 2^±400, what is quadratic in them half as far."""
    reach = (60 if dtype is np.float32 else 400) // entry.powers // 2 * 2
    return [(4, -2), *((i * reach, j * reach) for i, j in FAR)]


def scaled(value, exponent):
    return np.ldexp(np.asarray(value, dtype=np.float64), int(exponent))


def agree(found, wanted, k, j, dtype):
    assert found.keys() == wanted.keys()
    wrong = {}
    for name, part in wanted.items():
        if isinstance(part.value, str):
            if found[name].value != part.value:
                wrong[name] = (found[name].value, part.value)
            continue
        a = scaled(found[name].value, -(k * part.op + j * part.data))
        b = np.asarray(part.value, dtype=np.float64)
        assert a.shape == b.shape, name
        finite = b[np.isfinite(b)]
        size = float(np.abs(finite).max(initial=0.0)) if part.size is None else part.size
        tolerance = 1000 * float(np.finfo(dtype).eps) * size
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        with np.errstate(invalid="ignore"):
            if not (same | (np.abs(a - b) <= tolerance)).all():
                wrong[name] = (a.ravel()[:3], b.ravel()[:3])
    assert not wrong, wrong


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_results_scale_with_the_operator_and_the_data(name, kind, dtype):
    entry, wanted = ENTRIES[name], plain(name, kind, dtype)
    for k, j in exponents(entry, dtype):
        found = entry(Problem(kind, dtype, 2.0**k, 2.0**j))
        try:
            agree(found, wanted, k, j, dtype)
        except AssertionError as error:
            raise AssertionError(f"operator times 2^{k}, data times 2^{j}: {error}") from None
