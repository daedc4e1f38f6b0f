"""Spectral analysis of a kernel whose samples are sharded, against that of one process."""

import numpy as np
import pytest

from tests.distributed import spectral
from tests.distributed.launch import needs_mpi, run

pytestmark = needs_mpi


@pytest.fixture(scope="module")
def alone():
    return spectral.found()


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spectral")
    run("spectral.py", 4, folder, timeout=300)
    return folder


@pytest.mark.thorough
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_sharded_is_what_one_process_finds(ranks, alone, sharded) -> None:
    with np.load(sharded / f"of-{ranks}.npz") as found:
        assert set(found) == set(alone)
        wrong = {}
        for name, want in alone.items():
            want, got = np.asarray(want), found[name]
            assert got.shape == want.shape, name
            with np.errstate(invalid="ignore"):
                gap = np.where(got == want, 0, abs(got - want)).max(initial=0)
            if not gap <= 1e-10 * max(1.0, abs(want).max(initial=0, where=np.isfinite(want))):
                wrong[name] = gap
    assert not wrong
