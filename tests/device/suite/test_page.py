"""What ``docs/devices.md`` shows runs as it stands; :mod:`..ranks` has what takes several ranks."""

import re
from pathlib import Path

import numpy as np

from opflow.machine.arrays import module_name

PAGE = Path(__file__).parents[3] / "docs/devices.md"


def test_the_python_of_the_page_runs(tmp_path, monkeypatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    alone = [block for block in blocks if "comm" not in block]
    assert len(alone) == 2
    rng = np.random.default_rng(0)
    X, y, r = (rng.standard_normal((20, n)).astype("float32") for n in (784, 1, 1))
    names = {"np": np, "X": X, "y": y, "r": r}
    monkeypatch.chdir(tmp_path)
    np.save("X.npy", X)
    for block in alone:
        exec(block, names)
        assert module_name(names["run"].residual) == "cupy"
