"""What opflow calls of CuPy is there, by the record that ``.ci/cupy-api`` holds to the real wheel.

Planted mistakes show that the check sees.
"""

import json
import shutil
from pathlib import Path

import pytest

from tests.device.calls import check

ROOT = Path(__file__).parents[2]
API = json.loads((Path(__file__).parent / "cupy_api.json").read_text())


def test_every_call_exists_with_a_compatible_signature() -> None:
    seen, problems = check(ROOT / "opflow", API)
    assert not problems
    # and it looked: through namespace(), op_namespace(), xp, what they were assigned to, methods
    assert {"cupy.einsum", "cupy.linalg.norm", "cupy.matmul", "cupy.empty_like", "cupy.unpackbits",
            "cupyx.scipy.sparse", "ndarray.astype", "ndarray.multiply", "ndarray.indices",
            "ndarray.flags", "cupyx.empty_pinned", "cupy.cuda.Stream.record",
            "cupy.cuda.Device.mem_info", "cupy.cuda.MemoryPool.get_limit"} <= set(seen)  # fmt: skip
    assert len(seen) > 1000


MISTAKES = [
    ("machine/workspace.py", "xp.zeros((size, len(wanted)), dtype=op.dtype)",
     "xp.zeros((size, len(wanted)), dtpye=op.dtype)", "'dtpye'"),
    ("operators/kronecker.py", "namespace(X).concatenate(out)",
     "namespace(X).concatenated(out)",
     "cupy has no concatenated"),
    ("operators/row_products.py", 'out[rows] = xp.einsum("bn,bcn->bc", factor, pushed)',
     'xp.einsum("bn,bcn->bc", factor, pushed, out=out[rows])', "'out'"),
    ("evaluation/gram_side.py", "times = xp.multiply if", "times = xp.multiplied if",
     "cupy has no multiplied"),
    ("operators/operator.py", "block.flags.owndata", "block.flags.writeable", "no .writeable"),
    ("operators/matrix.py", "counts.astype(float)", "counts.astype(float, device='gpu')",
     "'device'"),
    ("operators/matrix.py", "left.multiply(weights[None, :]).tocsr()",
     "left.multiply(weights[None, :]).tocsr(True, order='C')", "'order'"),
    ("relu/units.py", "xp.maximum(h, 0, out=h)", "xp.maximum(h, 0, where=h > 0)", "'where'"),
    ("relu/features.py", "xp.abs(spectrum).max()", "xp.abs(spectrum).max(initial=0)", "'initial'"),
    ("relu/transport.py", "(phi**2).sum(axis=2)", "(phi**2).sum(axis=2, where=phi > 0)", "'where'"),
    ("dynamics/objectives.py", "xp.subtract(f, y[s], out=out[s])",
     "xp.subtract(f, y[s], out[s], casting='same_kind', order='C')", "'order'"),
    ("machine/ranks.py", "linalg.norm(A, axis=axis)", "linalg.vector_norm(A, axis=axis)",
     "cupy.linalg has no vector_norm"),
    ("dynamics/methods/gradient_flow.py", "residual = namespace(r).empty_like(r)",
     "residual = namespace(r).empty_copy(r)", "cupy has no empty_copy"),
    ("spectral/krylov/recursion.py", "(v * w).sum(axis=1)", "(v * w).sum(axes=1)", "'axes'"),
    ("spectral/functions/conjugate_gradients.py", "x.take(which, axis=1)",
     "x.take(which, axes=1)", "'axes'"),
    ("machine/streams.py", "xp.cuda.Event(disable_timing=True)", "xp.cuda.Event(timing=False)",
     "'timing'"),
    ("machine/streams.py", "xp.cuda.Stream(non_blocking=True)",
     "xp.cuda.CopyStream(non_blocking=True)",
     "cupy.cuda has no CopyStream"),
    ("machine/streams.py", "done = self._stream.record(_event(xp))",
     "done = self._stream.mark(_event(xp))",
     "cupy.cuda.Stream has no .mark"),
    ("machine/streams.py", "xp.cuda.get_current_stream().record(_event(xp))",
     "xp.cuda.get_current_stream().record(at=_event(xp))", "'at'"),
    ("machine/streams.py", "stream=self._stream)", "queue=self._stream)", "'queue'"),
    ("machine/streams.py", "from cupyx import empty_pinned", "from cupyx import empty_locked",
     "cupyx has no empty_locked"),
    ("machine/workspace.py", "pool.free_bytes()", "pool.free_memory()",
     "cupy.cuda.MemoryPool has no .free_memory"),
    ("machine/workspace.py", "xp.cuda.Device().mem_info[0]", "xp.cuda.Device().memory[0]",
     "cupy.cuda.Device has no .memory"),
    ("cli/devices.py", ".empty(rows.shape, dtype=rows.dtype)",
     ".empty(rows.shape, type=rows.dtype)",
     "'type'"),
    ("machine/arrays.py", "from cupyx.scipy import sparse", "from cupyx.scipy import sparsity",
     "cupyx.scipy has no sparsity"),
]  # fmt: skip


@pytest.mark.parametrize("module, right, wrong, message", MISTAKES, ids=lambda text: text[:30])
def test_a_planted_mistake_is_caught(module, right, wrong, message, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "opflow", tmp_path / "opflow")
    path = tmp_path / "opflow" / module
    text = path.read_text()
    assert right in text
    path.write_text(text.replace(right, wrong))
    _, problems = check(tmp_path / "opflow", API)
    assert problems
    assert all(message in p and p.startswith(f"opflow/{module}:") for p in problems)
