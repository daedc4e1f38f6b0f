import numpy as np
import pylops
import pytest
import scipy.sparse as sp

from opflow.dynamics.storage import fingerprint as module
from opflow.dynamics.storage.fingerprint import fingerprint


class Rows:
    """Like a data set on disk: shape, dtype and row slices, and it counts what is read."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.read = array, array.shape, array.dtype, 0

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        block = self.array[rows]
        self.read += block.nbytes
        return block


def changed(x, at):
    x = x.copy()
    x[at] = np.nextafter(x[at], 9)
    return x


def test_any_bit_of_whole_arrays_counts():
    rng = np.random.default_rng(0)
    W, b = rng.standard_normal((6, 5)), rng.standard_normal(6)
    mine = fingerprint(W, None, b)
    assert mine == fingerprint(W.copy(order="F"), None, b.tolist())
    others = [fingerprint(changed(W, (i, j)), None, b) for i in range(6) for j in range(5)]
    others += [fingerprint(W, b), fingerprint(W, b, None), fingerprint(b, None, W)]
    others += [fingerprint(W.T, None, b), fingerprint(W.astype(np.float32), None, b)]
    others += [fingerprint(W.reshape(5, 6), None, b)]
    assert len({mine, *others}) == 37
    assert fingerprint(np.array(1.0)) != fingerprint(np.array(2.0))


@pytest.mark.parametrize("rows", [1, 2, 63, 1000, 5000])
@pytest.mark.parametrize("budget", [1, 4000, 60_000])
def test_a_sample_spans_the_rows_within_its_budget(rows, budget, monkeypatch):
    monkeypatch.setattr(module, "WHOLE", budget)
    monkeypatch.setattr(module, "SAMPLE", budget)
    x = np.random.default_rng(rows).standard_normal((rows, 8))
    on_disk = Rows(x)
    mine = fingerprint(on_disk)
    assert on_disk.read <= max(budget, 2 * 64)
    assert on_disk.read == x.nbytes if x.nbytes <= budget else on_disk.read > 0.6 * budget
    for at in [(0, 0), (rows - 1, 7)]:
        assert fingerprint(Rows(changed(x, at))) != mine
    assert fingerprint(x) == mine
    assert fingerprint(Rows(x[:-1])) != mine


def test_a_file_on_disk_is_its_array(tmp_path, monkeypatch):
    x = np.random.default_rng(0).standard_normal((300, 7)).astype(np.float32)
    disk = np.memmap(tmp_path / "x.bin", np.float32, "w+", shape=x.shape)
    disk[:] = x
    assert fingerprint(disk) == fingerprint(x)
    monkeypatch.setattr(module, "WHOLE", 2000)
    monkeypatch.setattr(module, "SAMPLE", 2000)
    assert fingerprint(disk) == fingerprint(x)


@pytest.mark.parametrize("form", ["csr", "csc", "coo"])
def test_sparse_values_and_places_count(form):
    x = sp.random_array((50, 40), density=0.2, format=form, rng=np.random.default_rng(0))
    mine = fingerprint(x)
    other = x.copy()
    other.data[17] *= 1.5
    moved = sp.csr_array(x)[::-1].asformat(form)
    assert mine == fingerprint(x.copy())
    assert len({mine, fingerprint(other), fingerprint(moved), fingerprint(x.toarray())}) == 4
    square = sp.csr_array(np.triu(np.ones((4, 4))))
    assert fingerprint(square) != fingerprint(square.T), "the same arrays, read by column"


def test_an_operator_counts_by_its_product_and_not_by_its_rounding():
    M = np.random.default_rng(0).standard_normal((30, 20))
    mine = fingerprint(pylops.MatrixMult(M))
    assert mine == fingerprint(pylops.MatrixMult(M * (1 + 1e-12)))
    for other in (M * 1.1, M[::-1], M[:, ::-1], M[:-1]):
        assert fingerprint(pylops.MatrixMult(np.ascontiguousarray(other))) != mine
