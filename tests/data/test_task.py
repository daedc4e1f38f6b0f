"""Targets of a person's data, and answers of a network's outputs."""

import numpy as np
import pytest

import opflow as of
from opflow.data.task import Task

NAMES = np.array(["ham", "rum", "spam"])


def classes(names=NAMES, **more):
    mean = np.arange(1.0, len(names) + 1)
    mean /= mean.sum()
    return Task(of.Standardiser(mean, np.ones(len(names))), classes=np.asarray(names), **more)


@pytest.mark.parametrize("names", [NAMES, np.array([2, 5, 7]), np.array([False, True])])
def test_labels_go_there_and_back(names):
    task = classes(names)
    y = names[np.random.default_rng(0).integers(len(names), size=20)]
    targets = task.encode(y)
    np.testing.assert_array_equal(targets, (y[:, None] == names) - task.targets.mean)
    np.testing.assert_array_equal(task.answers(targets), y)
    np.testing.assert_array_equal(task.encode(y.astype(object)), targets)


def test_answers_are_of_the_outputs_with_the_mean_that_was_taken_off():
    # the outputs of a network that knows nothing say the most frequent class
    assert classes().answers(np.zeros((1, 3))).tolist() == ["spam"]


def test_values_keep_their_units():
    task = Task(of.Standardiser([100.0], [20.0]))
    assert task.encode([80.0, 120.0]).tolist() == [[-1.0], [1.0]]
    assert task.answers(np.array([[-1.0], [1.0]])).tolist() == [80.0, 120.0]
    two = Task(of.Standardiser([100.0, 0.0], [20.0, 1.0]))
    y = np.array([[80.0, 3.0]])
    assert two.answers(two.encode(y)).tolist() == y.tolist()


def test_probabilities_are_outputs_that_sum_to_one():
    task = classes()
    outputs = np.random.default_rng(0).standard_normal((50, 3))
    found = task.probabilities(outputs)
    wanted = np.maximum(outputs + task.targets.mean, 0)
    some = wanted.sum(axis=1) > 0
    assert 0 < some.sum() < 50
    total = wanted[some].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found[some], wanted[some] / total, rtol=1e-15)
    np.testing.assert_allclose(found[~some], 1 / 3)
    assert (found[some].argmax(axis=1) == (outputs + task.targets.mean)[some].argmax(axis=1)).all()


def test_inputs_are_standardised_where_that_is_asked_for():
    X = np.array([[1.0], [3.0]])
    assert classes().prepare(X) is X
    inputs = of.Standardiser.fit(X)
    np.testing.assert_array_equal(classes(inputs=inputs).prepare(X), inputs.transform(X))


@pytest.mark.parametrize(
    "task",
    [
        classes(),
        classes(NAMES.astype(object), inputs=of.Standardiser([0.0], [2.0], "float32")),
        classes([1, 2], columns=("a", "b"), recipe={"a": ["x", "y"]}, name="species"),
        Task(of.Standardiser([3.0], [0.5], "float32")),
    ],
)
def test_arrays_hold_all_of_it(task, tmp_path):
    assert Task.from_arrays({"residual": np.ones(2)}) is None
    np.savez(tmp_path / "task.npz", allow_pickle=False, residual=np.ones(2), **task.arrays())
    with np.load(tmp_path / "task.npz") as file:
        read = Task.from_arrays(dict(file))
    assert (read.columns, read.recipe, read.name) == (task.columns, task.recipe, task.name)
    for mine, theirs in ((task.targets, read.targets), (task.inputs, read.inputs)):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            assert theirs.dtype == mine.dtype
            np.testing.assert_array_equal([theirs.mean, theirs.scale], [mine.mean, mine.scale])
    np.testing.assert_array_equal(read.classes, task.classes)


@pytest.mark.parametrize("labels", [["ham", "eggs"], [1, 2], [True, False]])
def test_an_unknown_class_is_told(labels):
    with pytest.raises(
        ValueError, match=r"kind has the class (eggs|1|True), not .* ham, rum, spam"
    ):
        classes(name="kind").encode(labels)


def test_a_regression_has_no_probabilities():
    with pytest.raises(ValueError, match="there are no classes"):
        Task(of.Standardiser([0.0], [1.0])).probabilities(np.ones((1, 1)))


def test_labels_of_two_columns_are_refused():
    with pytest.raises(ValueError, match="one label a sample"):
        classes().encode([["ham", "rum"]])


def test_a_table_may_have_more_columns_in_another_order():
    pandas = pytest.importorskip("pandas")
    task = classes(columns=("a", "b"), inputs=of.Standardiser([1.0, 2.0], [1.0, 4.0]))
    table = pandas.DataFrame({"y": ["ham"], "b": [6], "a": [0.5]})
    assert task.prepare(table).tolist() == [[-0.5, 1.0]]
    with pytest.raises(ValueError, match="X lacks the columns a"):
        task.prepare(table[["b"]])
