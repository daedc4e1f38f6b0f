"""What opflow calls of CuPy is there, by the record that ``.ci/cupy-api`` holds to the real wheel.

Planted mistakes show that the check sees.
"""

import json
import shutil
from pathlib import Path

import pytest

from tests.device.calls import DEVICE, check

ROOT = Path(__file__).parents[2]
API = json.loads((Path(__file__).parent / "cupy_api.json").read_text())


def test_every_call_exists_with_a_compatible_signature() -> None:
    seen, problems = check(ROOT / "opflow", API, DEVICE)
    assert not problems
    # and it looked: through namespace(), op_namespace(), xp, what they were assigned to, methods
    assert {"cupy.einsum", "cupy.linalg.norm", "cupy.matmul", "cupy.empty_like", "cupy.unpackbits",
            "cupyx.scipy.sparse", "ndarray.astype", "ndarray.multiply", "ndarray.indices",
            "ndarray.flags"} <= set(seen)  # fmt: skip
    assert len(seen) > 1000


MISTAKES = [
    ("operators/rows.py", "xp.zeros((size, len(wanted)), dtype=op.dtype)",
     "xp.zeros((size, len(wanted)), dtpye=op.dtype)", "'dtpye'"),
    ("operators/lift.py", "namespace(d).tile(d, self.copies)", "namespace(d).tiled(d, self.copies)",
     "cupy has no tiled"),
    ("operators/khatri_rao.py", 'out[rows] = xp.einsum("bn,bcn->bc", factor, pushed)',
     'xp.einsum("bn,bcn->bc", factor, pushed, out=out[rows])', "'out'"),
    ("operators/gram_side.py", "times = xp.multiply if", "times = xp.multiplied if",
     "cupy has no multiplied"),
    ("operators/algebra.py", 'getattr(out.flags, "writeable", True)', "out.flags.writeable",
     "no .writeable"),
    ("operators/matrix.py", "counts.astype(float)", "counts.astype(float, device='gpu')",
     "'device'"),
    ("operators/matrix.py", "left.multiply(weights[None, :]).tocsr()",
     "left.multiply(weights[None, :]).tocsr(True, order='C')", "'order'"),
    ("relu/passes.py", "namespace(h).maximum(h, 0, out=h)",
     "namespace(h).maximum(h, 0, where=h > 0)", "'where'"),
    ("relu/features.py", "xp.abs(spectrum).max()", "xp.abs(spectrum).max(initial=0)", "'initial'"),
    ("relu/kernels.py", "phi.sum(axis=0).T", "phi.sum(axis=0, where=phi > 0).T", "'where'"),
    ("dynamics/flow.py", "xp.subtract(f, self.targets[s], out=residual[s])",
     "xp.subtract(f, self.targets[s], residual[s], casting='same_kind', order='C')", "'order'"),
    ("dynamics/adaptive.py", "xp.linalg.norm(mismatch)", "xp.linalg.vector_norm(mismatch)",
     "cupy.linalg has no vector_norm"),
    ("dynamics/adaptive.py", "empty = namespace(self._residual).empty_like",
     "empty = namespace(self._residual).empty_copy", "cupy has no empty_copy"),
    ("spectral/recursion.py", "xp.linalg.norm(r, axis=0)", "xp.linalg.norm(r, axes=0)", "'axes'"),
    ("arrays.py", "from cupyx.scipy import sparse", "from cupyx.scipy import sparsity",
     "cupyx.scipy has no sparsity"),
]  # fmt: skip


@pytest.mark.parametrize("module, right, wrong, message", MISTAKES, ids=lambda text: text[:30])
def test_a_planted_mistake_is_caught(module, right, wrong, message, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "opflow", tmp_path / "opflow")
    path = tmp_path / "opflow" / module
    text = path.read_text()
    assert right in text
    path.write_text(text.replace(right, wrong))
    _, problems = check(tmp_path / "opflow", API, DEVICE)
    assert problems
    assert all(message in p and p.startswith(f"opflow/{module}:") for p in problems)
