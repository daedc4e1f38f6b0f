"""Rates of a machine: nominal ones, those of a file, and the seconds that they give."""

import json

import numpy as np
import pytest

import opflow as of


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


def test_rates_are_nominal_unless_a_file_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv("OPFLOW_PROFILE", raising=False)
    assert of.machine_profile() == of.MachineProfile()
    monkeypatch.setenv("OPFLOW_PROFILE", "default")
    assert of.machine_profile() == of.MachineProfile()
    path = tmp_path / "rates.json"
    path.write_text('{"float32": 7e9}')
    monkeypatch.setenv("OPFLOW_PROFILE", str(path))
    assert of.machine_profile() == of.MachineProfile(float32=7e9)


def test_choices_follow_the_file(monkeypatch, tmp_path):
    K = of.Gram(np.ones((40, 30)))
    path = tmp_path / "rates.json"
    path.write_text(json.dumps({"float64": 1e3}))
    monkeypatch.setenv("OPFLOW_PROFILE", str(path))
    slow = of.MachineProfile(float64=1e3)
    assert of.candidates(K, 9) == of.candidates(K, 9, profile=slow)
    assert of.candidates(K, 9) != of.candidates(K, 9, profile=of.MachineProfile())


@pytest.mark.parametrize("text", [None, "{", "[1]", '{"speed": 1}', '{"float32": 0}'])
def test_an_override_that_holds_no_profile_is_named(monkeypatch, tmp_path, text):
    path = tmp_path / "rates.json"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv("OPFLOW_PROFILE", str(path))
    with pytest.raises(ValueError, match=r"OPFLOW_PROFILE=.*rates\.json holds no profile"):
        of.machine_profile()
