"""A run ends with the first moment at which its condition holds, resumed or not."""

import numpy as np
import pytest

import opflow as of

METHODS = {
    "descent": {},
    "momentum and decay": {"method": of.GradientDescent(momentum=0.5, weight_decay=0.1)},
    "batches": {"method": of.GradientDescent(step=1e-3, batch=7, rng=3)},
    "every third": {"every": 3},
    "eliminated": {"eliminate": True},
    "flow": {"method": of.GradientFlow()},
    "flow with decay": {"method": of.GradientFlow(weight_decay=0.1)},
    "linearised": {"method": of.LinearisedFlow(), "times": [0.01, 0.02, 0.04, 0.08, 0.16, 0.32]},
    "truncated": {"method": of.TruncatedFlow(order=1)},
    "Gauss-Newton": {"method": of.GaussNewton()},
}


def problem(k=2):
    rng = np.random.default_rng(0)
    net = of.ReLUNetwork.random([5, 7, 6], outputs=k, bias=True, seed=1)
    return net, rng.standard_normal((31, 5)), rng.standard_normal((31, k))


def same(run, other, end=None):
    """The moments of one run are those of the other, up to its end."""
    for name in ("times", "losses", "steps"):
        np.testing.assert_array_equal(getattr(run, name), getattr(other, name)[:end])
    for name, values in run.observations.items():
        np.testing.assert_array_equal(values, other.observations[name][:end])


@pytest.mark.parametrize("name", METHODS)
def test_a_run_ends_with_the_first_moment_at_which_the_condition_holds(name, tmp_path):
    net, X, y = problem()
    how = {"steps": 12, "observe": [of.observe.ResidualNorm()]} | METHODS[name]
    full = of.train(net, X, y, **how)
    assert full.stopped == ""
    level = full.losses[len(full.losses) // 2]
    first = int(np.argmax(full.losses <= level))
    assert 0 < first < len(full.losses) - 1

    def low_enough(moment):
        return moment.loss <= level

    run = of.train(net, X, y, stop=low_enough, **how)
    same(run, full, first + 1)
    assert run.stopped == "low_enough" and not run.interrupted
    assert repr(run).endswith("ended by stop=low_enough>") and "ended by" not in repr(full)
    run.save(tmp_path / "run.npz")
    assert of.Trajectory.load(tmp_path / "run.npz").stopped == "low_enough"
    if name != "linearised":  # whose network is not the model
        f = run.network(X)
        if name != "truncated":
            np.testing.assert_allclose(run.residual, f - y, atol=1e-12)


def test_it_is_asked_at_every_moment_after_the_observers():
    net, X, y = problem()
    asked = []

    def stop(moment):
        asked.append(moment.step)
        assert len(moment.observations["loss"]) == len(asked)
        assert moment.observations["loss"][-1] == moment.loss
        np.testing.assert_allclose(moment.residual, moment.predict(X) - y, atol=1e-12)

    run = of.train(net, X, y, steps=7, every=3, stop=stop, observe=[of.observe.Loss()])
    assert asked == run.steps.tolist() == [0, 3, 6, 7] and run.stopped == ""
    run = of.train(net, X, y, steps=7, stop=lambda moment: np.bool_(True))
    assert run.steps.tolist() == [0] and "<lambda>" in repr(run)
    run = of.train(net, X, y, steps=7, stop=lambda moment: moment.step == 7)
    assert run.stopped and run.steps[-1] == 7  # true where the run ends anyway


def no_better(moment):
    """No better on held-out data than two moments before."""
    seen = moment.observations["held_out_loss"]
    return len(seen) > 2 and seen[-1] >= seen[-3]


@pytest.mark.parametrize("every", [1, 2])
def test_a_resumed_run_stops_where_the_uninterrupted_one_does(every, tmp_path):
    net, X, y = problem()
    rng = np.random.default_rng(5)
    new = rng.standard_normal((9, 5))
    truth = np.tanh(new[:, :2])
    y = np.tanh(X[:, :2]) + 0.5 * y  # noise that is fitted in the end

    def train(**options):
        return of.train(net, X, y, every=every, observe=[of.observe.HeldOutLoss(new, truth)],
                        method=of.GradientDescent(0.01), **options)  # fmt: skip

    whole = train(steps=200)
    full = train(steps=200, stop=no_better)
    last = int(full.steps[-1])
    assert full.stopped == "no_better" and 4 <= last < 200
    for early in (0, 1, last - 1, last, last + 1):
        state = of.Checkpoint(tmp_path / f"{early}.npz", steps=2)
        train(steps=early, checkpoint=state, stop=no_better)
        run = train(steps=200, checkpoint=state, stop=no_better, resume=True)
        same(run, full)
        np.testing.assert_array_equal(run.residual, full.residual)
        again = train(steps=200, checkpoint=state, stop=no_better, resume=True)
        same(again, full)  # what has stopped stays so
        assert run.stopped == again.stopped == "no_better"
    # without the condition it goes on, and is the run that never had one
    same(train(steps=200, checkpoint=state, resume=True), whole)


def test_what_is_asked_of_a_resumed_run_is_its_moment(tmp_path):
    net, X, y = problem()
    how = {"steps": 20, "checkpoint": tmp_path / "run.npz", "resume": True}
    seen = []

    def stop(moment):
        seen.append([moment.step, moment.loss, *(moment.residual**2).sum(axis=0)])
        return moment.step == 6

    for _ in range(2):
        run = of.train(net, X, y, stop=stop, **how)
        assert run.stopped == "stop" and run.steps[-1] == 6
    assert seen[-1] == seen[-2] and seen[-1][1:] != seen[-3][1:]


def test_what_is_no_condition_or_fails_is_told():
    net, X, y = problem()
    for wrong in (0.1, "loss", True):
        with pytest.raises(TypeError, match="stop must be a callable of a moment"):
            of.train(net, X, y, steps=1, stop=wrong)
    with pytest.raises(KeyError, match="accuracy"):
        of.train(net, X, y, steps=1, stop=lambda m: m.observations["accuracy"][-1] > 1)
    with pytest.raises(ValueError, match="steps or until"):
        of.train(net, X, y, stop=lambda m: m.loss < 1)
