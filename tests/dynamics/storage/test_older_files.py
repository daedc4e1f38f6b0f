"""Files of older versions: a checkpoint is resumed, a trajectory loaded."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import opflow as of
from opflow.dynamics.storage import state_file
from opflow.dynamics.storage.checkpoint import load

#: a checkpoint after 10 of 20 steps, and the trajectory of all
OLD = Path(__file__).parent / "written_by_0.1"


GIVEN = {
    "method": of.GradientDescent(step=1e-2, momentum=0.5),
    "observe": [of.observe.GateFlips(), of.observe.Balancedness()],
}


def train(**how):
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((12, 5)), rng.standard_normal((12, 2))
    return of.train(
        of.ReLUNetwork.random([5, 4, 3], outputs=2, bias=True, seed=1),
        X,
        Y,
        steps=20,
        every=5,
        **how,
    )


def assert_same(run, wanted):
    np.testing.assert_array_equal(run.times, wanted.times)
    np.testing.assert_array_equal(run.steps, wanted.steps)
    assert run.products == wanted.products and run.observations.keys() == wanted.observations.keys()
    pairs = [(run.losses, wanted.losses), (run.residual, wanted.residual)]
    pairs += [(run.observations[name], wanted.observations[name]) for name in wanted.observations]
    pairs += zip(run.network.weights, wanted.network.weights, strict=True)
    pairs += zip(run.network.biases, wanted.network.biases, strict=True)
    for mine, theirs in pairs:
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-12 * abs(theirs).max(initial=1))


@pytest.mark.parametrize("name", ["checkpoint.npz", "checkpoint.npz.1"])
def test_a_checkpoint_of_0_1_is_resumed(tmp_path, name):
    shutil.copyfile(OLD / name, tmp_path / "old.npz")
    run = train(checkpoint=tmp_path / "new.npz", resume=tmp_path / "old.npz", **GIVEN)
    assert_same(run, of.Trajectory.load(OLD / "trajectory.npz"))


def test_a_checkpoint_of_0_1_goes_on_with_the_default_step_it_had(tmp_path):
    old = OLD / "auto_checkpoint.npz"
    run = train(checkpoint=tmp_path / "new.npz", resume=old)
    wanted = of.Trajectory.load(OLD / "auto_trajectory.npz")
    assert run.products == wanted.products  # λ_max is not measured anew
    np.testing.assert_allclose(run.times, wanted.times, rtol=1e-12)
    np.testing.assert_allclose(run.losses, wanted.losses, rtol=1e-12)


def test_a_trajectory_of_0_1_is_that_of_this_version():
    assert_same(train(**GIVEN), of.Trajectory.load(OLD / "trajectory.npz"))


def test_a_checkpoint_in_shards_says_who_can_read_it(tmp_path):
    head = {
        "format": "opflow checkpoint",
        "schema": 1,
        "version": "0.1.0",
        "identity": {},
        "meta": {"step": 3},
        "by_sample": [],
        "shards": [{}, {}],
    }
    state_file.write(tmp_path / "run.npz", {"metadata": np.array(json.dumps(head))}, keep=1)
    with pytest.raises(ValueError, match=r"files of 2 ranks, written by opflow 0\.1\.0.*finish"):
        load(tmp_path / "run.npz", {})
