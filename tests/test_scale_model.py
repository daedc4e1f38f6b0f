"""The simulation of docs/scale.md: its closed formulas without jitter, their means with it."""

import itertools
import json
import sys

import numpy as np
import pytest

import opflow as of
from benchmarks import scale_model as model
from opflow.cli.estimate import estimate

WIDTHS = [20, 30, 10]
MACHINE = model.Machine(flops=1e9, latency=3e-6, bandwidth=2e9)
RANKS = [1, 2, 3, 4, 7, 8, 13, 64, 100, 1024]
SIZE = 4.0 * model.parameters(WIDTHS)


@pytest.mark.parametrize("algorithm", model.ALGORITHMS)
@pytest.mark.parametrize("ranks", RANKS)
def test_without_jitter_the_simulation_is_the_closed_formula(algorithm, ranks):
    for vectors in (1, 5):
        found = model.simulate(
            7 * ranks, WIDTHS, ranks, MACHINE, algorithm=algorithm, vectors=vectors, products=3
        )
        compute = vectors * 7 * 4 * model.parameters(WIDTHS) / MACHINE.flops
        wire = model.allreduce_seconds(ranks, vectors * SIZE, MACHINE, algorithm)
        np.testing.assert_allclose(found["seconds"], compute + wire, rtol=1e-13 * ranks)
        np.testing.assert_allclose(found["efficiency"] * found["seconds"], compute)


@pytest.mark.parametrize("algorithm", model.ALGORITHMS)
def test_the_formulas_are_those_of_the_page(algorithm):
    _, latency, bandwidth = MACHINE
    expected = {  # of 8 ranks and of 12
        "doubling": (3 * (latency + SIZE / bandwidth), 5 * (latency + SIZE / bandwidth)),
        "halving": (
            6 * latency + 7 / 4 * SIZE / bandwidth,
            8 * latency + (2 + 7 / 4) * SIZE / bandwidth,
        ),
        "ring": (
            14 * latency + 7 / 4 * SIZE / bandwidth,
            22 * latency + 11 / 6 * SIZE / bandwidth,
        ),
    }[algorithm]
    found = [model.allreduce_seconds(ranks, SIZE, MACHINE, algorithm) for ranks in (8, 12)]
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("algorithm", model.ALGORITHMS)
@pytest.mark.parametrize("ranks", RANKS[:-1])
def test_nobody_is_done_before_the_last_has_begun(algorithm, ranks):
    for late in range(ranks):
        clocks = np.zeros(ranks)
        clocks[late] = 1e3
        assert (model.allreduce(clocks, SIZE, MACHINE, algorithm) >= 1e3).all()


def test_three_ranks_by_hand():
    machine = model.Machine(1.0, 0.0, 1.0)  # rank 2 hands over, 0 and 1 exchange, 0 tells 2
    ends = model.allreduce(np.array([0.0, 0.0, 5.0]), 1.0, machine, "doubling")
    np.testing.assert_array_equal(ends, [7.0, 7.0, 8.0])
    ends = model.allreduce(np.array([0.0, 9.0, 5.0]), 1.0, machine, "doubling")
    np.testing.assert_array_equal(ends, [10.0, 10.0, 11.0])


@pytest.mark.parametrize("ranks", [2, 8, 64, 1024])
def test_bytes_sent_do_not_grow_with_the_ranks_but_by_doubling(ranks):
    levels = np.log2(ranks)
    np.testing.assert_allclose(model.sent(ranks, SIZE, "doubling"), levels * SIZE)
    for algorithm in ("halving", "ring"):
        np.testing.assert_allclose(model.sent(ranks, SIZE, algorithm), 2 * (1 - 1 / ranks) * SIZE)


@pytest.mark.parametrize("algorithm", model.ALGORITHMS)
@pytest.mark.parametrize("ranks", [4, 16, 128])
def test_the_largest_shard_decides(algorithm, ranks):
    samples = 5 * ranks + ranks // 3
    assert model.shards(samples, ranks).sum() == samples
    found = model.simulate(samples, WIDTHS, ranks, MACHINE, algorithm=algorithm)["seconds"]
    whole = model.simulate(6 * ranks, WIDTHS, ranks, MACHINE, algorithm=algorithm)["seconds"]
    np.testing.assert_allclose(found, whole)


def test_one_slow_rank_sets_the_pace_of_all():
    options = {"algorithm": "halving", "products": 4}
    even = model.simulate(6400, WIDTHS, 64, MACHINE, **options)["seconds"]
    slow = model.simulate(6400, WIDTHS, 64, MACHINE, slow=1.5, **options)["seconds"]
    compute = model.product_flops(100, WIDTHS) / MACHINE.flops
    np.testing.assert_allclose(slow - even, compute / 2)
    jitter, seeds = 0.3, 200  # and its own delays are all that counts
    options = {"algorithm": "halving", "slow": 1e3, "jitter": jitter, "products": 1}
    seconds = [
        model.simulate(6400, WIDTHS, 64, MACHINE, seed=seed, **options)["seconds"]
        for seed in range(seeds)
    ]
    error = 1e3 * compute * jitter / np.sqrt(2 * seeds)
    assert abs(np.mean(seconds) - 1e3 * compute * (1 + jitter)) < 4 * error


@pytest.mark.parametrize("algorithm", model.ALGORITHMS)
def test_jitter_costs_the_largest_of_as_many_draws_as_ranks(algorithm):
    ranks, jitter, seeds = 64, 0.3, 400
    compute = model.product_flops(100, WIDTHS) / MACHINE.flops
    wire = model.allreduce_seconds(ranks, SIZE, MACHINE, algorithm)
    options = {"algorithm": algorithm, "products": 1, "jitter": jitter}
    seconds = [
        model.simulate(100 * ranks, WIDTHS, ranks, MACHINE, seed=seed, **options)["seconds"]
        for seed in range(seeds)
    ]
    k = np.arange(1, ranks + 1)
    mean = compute * (1 + jitter * (1 / k).sum()) + wire
    error = compute * jitter * np.sqrt((1 / k**2).sum() / 2 / seeds)
    assert abs(np.mean(seconds) - mean) < 4 * error


def test_noise_of_a_message_is_paid_by_whoever_waits_for_it():
    rng = np.random.default_rng(0)
    one = MACHINE.latency + SIZE / MACHINE.bandwidth
    ends = [
        model.allreduce(np.zeros(2), SIZE, MACHINE, "doubling", rng, 0.5).max() for _ in range(2000)
    ]
    assert abs(np.mean(ends) / one - 1.75) < 4 * 0.5 * np.sqrt(1.25 / 2000)


@pytest.mark.parametrize("ranks", [2, 16, 1024])
def test_at_the_crossover_half_the_time_is_communication(ranks):
    for widths, machine in itertools.product(model.NETWORKS, model.MACHINES.values()):
        even = model.crossover(widths, ranks, machine)
        samples = max(1, round(even))
        found = model.simulate(samples * ranks, widths, ranks, machine)["efficiency"]
        np.testing.assert_allclose(found, samples / (samples + even))


def test_from_the_turning_point_on_less_than_half_the_time_is_compute():
    for (machine, widths), samples in itertools.product(model.CASES, (10**6, 10**7)):
        ranks = model.turning_point(samples, widths, machine)
        before = 1024 if ranks is None else ranks // 2
        options = {"products": 1}
        assert model.simulate(samples, widths, before, machine, **options)["efficiency"] >= 0.5
        if ranks:
            found = model.simulate(samples, widths, ranks, machine, **options)
            assert found["efficiency"] < 0.5


def test_where_only_bandwidth_counts_the_crossover_knows_no_network():
    machine = MACHINE._replace(latency=0.0)
    for widths, item in itertools.product(model.NETWORKS, (4, 8)):
        found = model.crossover(widths, 1024, machine, item)
        limit = item * machine.flops / (2 * machine.bandwidth)
        np.testing.assert_allclose(found, 1023 / 1024 * limit)


@pytest.mark.parametrize("widths", model.NETWORKS)
def test_flops_and_memory_are_those_that_opflow_counts(widths):
    n, p = 1000, model.parameters(widths)
    expected = estimate(n, widths, 1, "float32", memory="1TB", eliminate=False)
    rows = 4 * n * sum(map(min, itertools.pairwise(widths)))
    assert expected.products["cached"][0].flops == model.product_flops(n, widths) + rows
    assert expected.routes[0].step.flops == model.step_flops(n, widths)
    for storage, (_, held) in expected.products.items():
        assert model.memory(n, widths, storage) == expected.data + held
    net = of.ReLUNetwork.random(widths, seed=0)
    fields = net.fields(np.ones((3, widths[0])))
    small = 4 * 3 * sum(map(min, itertools.pairwise(widths)))
    assert of.collective_kernel(fields).cost(1).flops == model.product_flops(3, widths) + small
    assert of.jacobian(fields).shape[1] == p  # what is reduced


def test_the_script_writes_tables_figures_and_a_picture(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib", reason="the script draws a picture")
    figures, picture = tmp_path / "scale.json", tmp_path / "scale.png"
    options = ["--jitter", "0.1", "--json", str(figures), "--plot", str(picture)]
    monkeypatch.setattr(sys, "argv", ["scale_model.py", *options])
    model.main()
    rows = json.loads(figures.read_text())
    assert len(rows) == len(model.MACHINES) * len(model.SAMPLES) * len(model.RANKS)
    assert all(0 < row["efficiency"] <= 1 for row in rows)
    assert picture.stat().st_size > 10_000
    assert capsys.readouterr().out.count("crossover at") == len(model.MACHINES)
