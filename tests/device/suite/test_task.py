"""Data on the device are standardised there, and answers come from outputs there."""

import numpy as np
import pytest

import opflow as of
from opflow.data.task import Task
from opflow.machine.arrays import module_name
from tests.device.suite.sides import agree, problem, put


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_columns_are_standardised_where_they_are(sparse, dtype) -> None:
    _, X, _ = problem(sparse=sparse, dtype=dtype)
    host, device = of.Standardiser.fit(X), of.Standardiser.fit(put(X))
    np.testing.assert_allclose(device.mean, host.mean, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(device.scale, host.scale, rtol=1e-12)
    agree(device.transform(put(X)), host.transform(X))
    agree(host.inverse(put(X)), host.inverse(X))


def test_streamed_rows_are_standardised_on_their_way() -> None:
    net, X, y = problem()
    standardiser = of.Standardiser.fit(of.Streamed(X))
    rows = standardiser.transform(of.Streamed(X))
    assert module_name(rows) == "cupy"
    agree(rows[1:4], standardiser.transform(X)[1:4])
    run = of.train(net.to("gpu"), rows, put(y), steps=3, eliminate=False)
    host = of.train(net, standardiser.transform(X), y, steps=3, eliminate=False)
    np.testing.assert_allclose(run.losses, host.losses, rtol=1e-12)


def test_a_run_on_the_device_answers_in_the_terms_of_the_data() -> None:
    net, X, _ = problem(outputs=2)
    y = np.array([3, 7])[np.arange(len(X)) % 2]
    task = Task(of.Standardiser([0.5, 0.5], [1, 1]), np.array([3, 7]), of.Standardiser.fit(X))
    agree(task.encode(put(y)), task.encode(y))
    f = net(task.prepare(X))
    np.testing.assert_array_equal(task.answers(put(f)), task.answers(f))
    agree(task.probabilities(put(f)), task.probabilities(f))
    values = Task(of.Standardiser([5.0], [2.0]))
    agree(values.answers(put(f[:, :1])), values.answers(f[:, :1]))
    agree(values.encode(put(f[:, 0])), values.encode(f[:, 0]))
