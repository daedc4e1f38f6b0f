"""Functions of the fields, and networks at chosen moments."""

import numpy as np
import pytest

import opflow as of

METHODS = {
    "descent": {"method": of.GradientDescent(momentum=0.5)},
    "eliminated": {"eliminate": True},
    "flow": {"method": of.GradientFlow(weight_decay=0.1)},
    "truncated": {"method": of.TruncatedFlow(order=1)},
    "linearised": {"method": of.LinearisedFlow()},
    "accumulated": {"method": of.GradientDescent(0.01, accumulate="float64")},
}


def problem(dtype=np.float64, **options):
    rng = np.random.default_rng(0)
    options = {"bias": True, "readout_rate": 0.5, "slope": [0.1, 0.0]} | options
    net = of.ReLUNetwork.random([4, 8, 6], outputs=2, seed=0, dtype=dtype, **options)
    return net, *(rng.standard_normal((12, c)).astype(dtype) for c in (4, 2))


def equal(found, wanted):
    """Dicts of networks with the same bits."""
    assert list(found) == list(wanted) and len(found) > 0
    for step in wanted:
        assert type(found[step]) is of.ReLUNetwork
        assert found[step].digest() == wanted[step].digest()
        assert found[step].settings() == wanted[step].settings()


@pytest.mark.parametrize("name", METHODS)
def test_snapshots_are_the_networks_of_the_run_and_survive_files(name, tmp_path):
    net, X, y = problem(np.float32 if name == "accumulated" else np.float64)
    how = {"steps": 11} | METHODS[name]
    wanted = {}

    def see(moment):
        wanted[moment.step] = moment.network

    watch = {"see": see, "all": of.observe.Snapshots(), "some": of.observe.Snapshots([0, 2, 10])}
    run = of.train(net, X, y, observe=watch, **how)
    equal(run.observations["all"], wanted)
    equal(run.observations["some"], {step: wanted[step] for step in (0, 2, 10)})
    assert run.observations["all"][11].digest() == run.network.digest()
    if name != "truncated":  # whose losses are those of the fields
        losses = [0.5 * ((n(X) - y) ** 2).sum() for n in run.observations["all"].values()]
        if name != "linearised":
            decay = {"rtol": 1e-5 if net.dtype == np.float32 else 1e-10}
            np.testing.assert_allclose(losses, run.losses, **decay)
    run.save(tmp_path / "run.npz")
    loaded = of.Trajectory.load(tmp_path / "run.npz").observations
    assert loaded.keys() == run.observations.keys()
    equal(loaded["all"], wanted)
    equal(loaded["some"], run.observations["some"])
    for early in (0, 1, 4, 10):
        state = of.Checkpoint(tmp_path / f"{early}.npz", steps=3)
        for steps in (early, 11):
            new = {name: of.observe.Snapshots(watch[name].at) for name in ("all", "some")}
            again = of.train(net, X, y, observe=new, checkpoint=state, resume=True,
                             **how | {"steps": steps})  # fmt: skip
        equal(again.observations["all"], wanted)
        equal(again.observations["some"], run.observations["some"])


def test_moments_are_chosen_by_steps_or_by_what_is_seen(tmp_path):
    net, X, y = problem()
    low = of.observe.Snapshots(lambda moment: moment.loss < 0.5 * first)
    first = of.train(net, X, y, steps=0).losses[0]
    never = of.observe.Snapshots([])
    watch = {"low": low, "never": never, "odd": of.observe.Snapshots(range(1, 99, 2))}
    run = of.train(net, X, y, steps=60, every=3, observe=watch)
    seen = run.observations
    assert list(seen["low"]) == run.steps[run.losses < 0.5 * first].tolist() != []
    assert list(seen["odd"]) == [3, 9, 15, 21, 27, 33, 39, 45, 51, 57] and seen["never"] == {}
    run.save(tmp_path / "run.npz")
    assert of.Trajectory.load(tmp_path / "run.npz").observations["never"] == {}
    # an observer that is used again begins anew, and leaves earlier trajectories alone
    other = of.train(net, X, y, steps=1, observe=watch)
    assert list(other.observations["odd"]) == [1] and len(seen["odd"]) == 10
    high = of.train(net, X, 9 * y, steps=60, every=3, observe=[low])
    assert high.observations["snapshots"] == {} != seen["low"]
    for wrong in (3, iter([1])):
        with pytest.raises(TypeError, match="at must hold steps"):
            of.observe.Snapshots(wrong)


def test_a_moment_that_is_not_recorded_leaves_no_network():
    net, X, y = problem()

    def interrupt(moment):
        if moment.step == 3:
            raise KeyboardInterrupt

    run = of.train(net, X, y, steps=9, observe=[of.observe.Snapshots(), interrupt])
    assert run.interrupted and run.steps.tolist() == [0, 1, 2]
    assert list(run.observations["snapshots"]) == [0, 1, 2]


def test_names_that_begin_alike_do_not_mix(tmp_path):
    net, X, y = problem()
    names = ["a", "a_1", "a_1_0"] + [f"b{i}" for i in range(9)]
    watch = {name: of.observe.Snapshots([i]) for i, name in enumerate(names)}
    run = of.train(net, X, y, steps=12, observe=watch)
    run.save(tmp_path / "run.npz")
    loaded = of.Trajectory.load(tmp_path / "run.npz").observations
    for i, name in enumerate(names):
        assert list(loaded[name]) == [i]
        equal(loaded[name], run.observations[name])


def test_a_kernel_that_has_no_weights_has_no_network_to_keep():
    net, X, y = problem()
    rbf = lambda A, B: np.exp(-((A[:, None] - B) ** 2).sum(-1))  # noqa: E731
    with pytest.raises(ValueError, match="no weights on X"):
        of.train(net, X, y, gram=rbf, steps=2, observe=[of.observe.Snapshots()])


@pytest.mark.parametrize("name", ["descent", "eliminated", "flow", "linearised"])
def test_functions_see_the_fields_of_each_moment(name):
    net, X, y = problem()

    def linearity(fields):
        return of.features.target_linearity(fields, y, 1)

    watch = [
        of.observe.Function(linearity),
        of.observe.Function(lambda f: of.features.feature_ansatz(f, 2, start=net), "ansatz"),
        of.observe.Function(lambda f: of.features.agop(f, 1).todense(), "agop"),
        of.observe.Snapshots(),
    ]
    run = of.train(net, X, y, steps=4, observe=watch, **METHODS[name])
    seen = run.observations
    for i, network in enumerate(seen["snapshots"].values()):
        fields = (net if name == "linearised" else network).fields(X)
        ansatz = of.features.feature_ansatz(fields, 2, start=net)
        np.testing.assert_allclose(seen["linearity"][i], linearity(fields), rtol=1e-10)
        np.testing.assert_allclose(seen["ansatz"][i], ansatz, rtol=1e-7, atol=1e-12)
        np.testing.assert_allclose(seen["agop"][i], of.features.agop(fields, 1).todense(), 1e-8)
