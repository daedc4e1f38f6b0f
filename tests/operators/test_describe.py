"""The tree a person reads."""

import numpy as np
import pytest

import opflow as of
from opflow.operators.describe import human


@pytest.fixture
def K():
    X, gates = np.ones((6, 2)), np.ones((6, 5), dtype=bool)
    return of.Hadamard(of.Gram(X), of.CoActivation(gates)) + 0.5 * of.Identity(6)


def test_every_node_has_a_line_with_its_class_shape_and_tags(K):
    lines = str(of.describe(K)).splitlines()
    names = ["Sum", "Gram", "KhatriRao", "Matrix", "PackedGates", "Scaled", "Identity"]
    shapes = ["6 × 6", "6 × 6", "6 × 10", "6 × 2", "6 × 5", "6 × 6", "6 × 6"]
    assert len(lines) == len(names)
    for line, name, shape in zip(lines, names, shapes, strict=True):
        assert name in line
        assert shape in line
        assert "float64" in line
        assert ("psd" in line) == (shape == "6 × 6")


def test_the_branches_show_the_nesting(K):
    lines = str(of.describe(K)).splitlines()
    assert [line.find(line.lstrip("│├└─ ")) for line in lines] == [0, 3, 6, 9, 9, 3, 6]


def test_flops_and_bytes_are_those_of_cost(K):
    first = str(of.describe(K)).splitlines()[0]
    assert human(K.cost().flops, "flop") in first
    assert human(K.cost().bytes, "B", 1024) in first


def test_a_gram_costs_two_products_with_its_factor():
    G = of.Gram(np.ones((10, 3)))
    assert G.cost().flops == 4 * 10 * 3
    assert G.cost(7).flops == 7 * 4 * 10 * 3


def test_the_kernel_costs_four_flops_a_sample_and_weight():
    N, p, q = 10_000, 40, 30
    J = of.KhatriRao(np.ones((N, p), dtype=np.float32), np.ones((N, q), dtype=np.float32))
    assert of.Gram(J).cost().flops == pytest.approx(4 * N * p * q, rel=0.1)


def test_notebooks_get_an_escaped_table(K):
    html = of.describe(of.Matrix(np.ones((2, 2)), symbol="<b>&"))._repr_html_()
    assert "&lt;b&gt;&amp;" in html
    assert "<b>" not in html
    assert of.describe(K)._repr_html_().count("<tr>") == 1 + 7
    assert K._repr_html_() == of.describe(K)._repr_html_()


def test_a_symbol_names_an_operator(K):
    named = of.Gram(np.ones((3, 2)), symbol="A⁰")
    assert named.symbol == "A⁰"
    assert "A⁰" in str(of.describe(named))
    assert "A⁰" in repr(named)
    assert of.describe(named) == named.describe()


def test_long_formulas_are_cut():
    total = sum(of.Gram(np.ones((3, 2)), symbol=f"kernel{i}") for i in range(20))
    first = str(of.describe(total)).splitlines()[0]
    assert "..." in first
    assert len(first) < 160


@pytest.mark.parametrize("number, unit, base, text", [
    (0, "flop", 1000, "0 flop"), (999, "flop", 1000, "999 flop"),
    (64.2e9, "flop", 1000, "64.2 Gflop"), (2048, "B", 1024, "2 KiB"),
    (3 * 2.0**40, "B", 1024, "3 TiB"),
])  # fmt: skip
def test_numbers_are_readable(number, unit, base, text):
    assert human(number, unit, base) == text
