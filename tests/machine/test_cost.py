"""The machine profile: measured once, kept, overridden on request, never a reason to fail."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import opflow as of
from opflow.machine import cost

MEASURED = of.MachineProfile(1e11, 5e10, 2e10, 1.5e9, 2.4)


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Measuring gives MEASURED and is counted; the cache is in a folder of its own."""
    calls = []
    monkeypatch.setattr(cost, "measure", lambda: calls.append(1) or MEASURED)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("OPFLOW_PROFILE", raising=False)
    cost._profile.cache_clear()
    yield calls
    cost._profile.cache_clear()


def new_process():
    cost._profile.cache_clear()


def test_seconds_add_computing_sparse_computing_and_moving():
    rates = of.MachineProfile(float32=4.0, float64=2.0, bandwidth=5.0, sparse=1.0, gates=2.0)
    cost = of.Cost(flops=17.0, bytes=10.0, sparse=3.0, gates=6.0)
    assert rates.seconds(cost, np.float32) == 8 / 4 + 6 / 8 + 3 / 1 + 10 / 5
    assert rates.seconds(cost, np.float64) == 8 / 2 + 6 / 4 + 3 / 1 + 10 / 5


@pytest.mark.parametrize("rate", [0, -1.0, float("nan"), float("inf"), "fast", True, None])
@pytest.mark.parametrize("name", ["float32", "float64", "bandwidth", "sparse", "gates", "fresh"])
def test_a_rate_that_is_none_is_named(name, rate):
    with pytest.raises(ValueError, match=f"{name} must be a positive number"):
        of.MachineProfile(**{name: rate})


def test_it_is_measured_once_and_kept_between_processes(measured):
    assert of.machine_profile() == MEASURED
    assert of.machine_profile() is of.machine_profile()
    new_process()
    assert of.machine_profile() == MEASURED
    assert len(measured) == 1
    assert os.listdir(cost.cache_file().parent) == ["profile.json"]  # no temporary file is left


@pytest.mark.parametrize("kept", [
    "", "{", "[]", "null", "3", "\0\0", '{"KEY": 3}', '{"KEY": {"float32": 1e9}}'[:-1],
    '{"KEY": {"float32": -1e9}}', '{"KEY": {"float32": "fast"}}', '{"KEY": {"speed": 1e9}}',
    '{"KEY": null}', '{"KEY": {"float32": 1e9}}',
])  # fmt: skip
def test_a_cache_that_holds_no_profile_is_measured_anew_and_repaired(measured, kept):
    path = cost.cache_file()
    path.parent.mkdir(parents=True)
    path.write_text(kept.replace("KEY", cost._key()))
    assert of.machine_profile() == MEASURED
    assert len(measured) == 1
    assert json.loads(path.read_text())[cost._key()] == dataclasses.asdict(MEASURED)


def test_other_machines_keep_their_entries(measured, monkeypatch):
    of.machine_profile()
    here = cost._key()
    monkeypatch.setenv("OMP_NUM_THREADS", "1234")
    new_process()
    of.machine_profile()
    assert len(measured) == 2
    assert set(json.loads(cost.cache_file().read_text())) == {here, cost._key()}
    assert "1234" in cost._key()


@pytest.mark.parametrize("obstacle", ["file in the place of the folder", "folder in its place"])
def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(measured, tmp_path, obstacle):
    path = cost.cache_file()
    if obstacle.startswith("file"):
        (tmp_path / "cache").write_text("")
    else:
        path.mkdir(parents=True)
    assert of.machine_profile() == MEASURED
    new_process()
    assert of.machine_profile() == MEASURED
    assert len(measured) == 2
    if path.is_dir():
        assert os.listdir(path.parent) == ["profile.json"]


def test_the_environment_overrides_it(measured, monkeypatch, tmp_path):
    monkeypatch.setenv("OPFLOW_PROFILE", "default")
    assert of.machine_profile() == of.MachineProfile()
    path = tmp_path / "rates.json"
    path.write_text('{"float32": 7e9}')
    monkeypatch.setenv("OPFLOW_PROFILE", str(path))
    assert of.machine_profile() == of.MachineProfile(float32=7e9)
    assert not measured
    assert not cost.cache_file().exists()


@pytest.mark.parametrize("text", [None, "{", "[1]", '{"speed": 1}', '{"float32": 0}'])
def test_an_override_that_holds_no_profile_is_named(measured, monkeypatch, tmp_path, text):
    path = tmp_path / "rates.json"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv("OPFLOW_PROFILE", str(path))
    with pytest.raises(ValueError, match=r"OPFLOW_PROFILE=.*rates\.json holds no profile"):
        of.machine_profile()


def test_nothing_is_measured_unless_a_choice_is_asked_for(measured):
    K = of.Gram(np.ones((4, 3)))
    of.materialise(K)
    for how in ("factored", "tiled", "dense"):
        of.materialise(K, how=how)
    of.materialise(K, products=3, profile=of.MachineProfile())
    of.candidates(K, 3, profile=of.MachineProfile())
    net = of.ReLUNetwork.random([3, 4, 4], outputs=2, seed=0)
    of.collective_kernel(net.fields(np.eye(3)))
    assert not measured
    of.materialise(K, products=3)
    assert len(measured) == 1


def test_importing_measures_nothing(tmp_path):
    code = (
        "import opflow; from opflow.operators import profile;"
        "assert cost._profile.cache_info().misses == 0"
    )
    env = os.environ | {
        "XDG_CACHE_HOME": str(tmp_path),
        "PYTHONPATH": str(Path(of.__file__).parents[1]),
    }
    env.pop("OPFLOW_PROFILE", None)
    subprocess.run([sys.executable, "-c", code], check=True, env=env)
    assert not os.listdir(tmp_path)


def test_another_engine_of_gate_products_is_measured_anew(measured, monkeypatch):
    monkeypatch.delenv("OPFLOW_GATES", raising=False)
    of.machine_profile()
    monkeypatch.setenv("OPFLOW_GATES", "blas")
    new_process()
    of.machine_profile()
    assert len(measured) == 1 + (of.gate_engines() != ["blas"])


def test_without_an_engine_the_gain_of_gates_is_nominal(monkeypatch):
    monkeypatch.setenv("OPFLOW_GATES", "blas")
    assert cost._gates_over_gemm(np.random.default_rng(0)) is None


def test_measuring_gives_rates():
    rates = cost.measure()
    assert rates.sparse < rates.float32  # what the model takes for granted
    assert json.loads(json.dumps(dataclasses.asdict(rates))) == dataclasses.asdict(rates)
