"""How an operator is evaluated: factored, Gram-side, in tiles or dense, by a cost model.

Nothing is approximated and nothing is chosen silently: an operator stays factored until
:func:`materialise` is called, and what that returns says in its type what it is.
"""

from __future__ import annotations

from typing import NamedTuple

from opflow.evaluation.dense import Tiled, dense, dense_plan
from opflow.evaluation.gram_side import (
    Side,
    best_side,
    gram_sided,
    kept_bytes,
    kernels,
    replaced,
)
from opflow.machine.cost import MachineProfile, machine_profile
from opflow.machine.workspace import operator_module, parse_memory
from opflow.operators.describe import human
from opflow.operators.matrix import Matrix
from opflow.operators.operator import Cost, Operator
from opflow.operators.prices import product_bytes
from opflow.operators.tiles import stand_in

WAYS = ("factored", "gram", "tiled", "dense")
NOTHING = Cost(0.0, 0.0)


class Candidate(NamedTuple):
    """One way to evaluate an operator, and what the cost model predicts for it."""

    #: "factored", "gram", "tiled", "dense", or the name of an alternative of the operator
    how: str
    #: flops before the first product
    setup: float
    #: flops and bytes moved of one product
    product: float
    moved: float
    #: bytes held at the peak beyond the operator itself, results of products included
    held: float
    #: of the set-up and all products
    seconds: float
    #: whether `held` is within the memory budget
    fits: bool


def candidates(
    op: Operator,
    products: int,
    columns: int = 1,
    memory: float | str | None = None,
    profile: MachineProfile | None = None,
) -> list[Candidate]:
    """The ways to evaluate an operator, fastest first.

    Parameters
    ----------
    op : Operator
    products, columns, memory, profile
        As in :func:`materialise`.

    Returns
    -------
    list of Candidate

    Notes
    -----
    Time is ``flops / rate + bytes / bandwidth`` of the set-up and of the products, and that of
    writing what is kept to fresh memory; flops on sparse data and of gates have rates of their
    own.  The time Python takes to start a product is
    not counted, so the order says nothing about operators of a few rows.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> K = of.Gram(np.ones((500, 4000)))
    >>> [c.how for c in of.candidates(K, products=100, profile=of.MachineProfile())]
    ['dense', 'factored', 'tiled']
    """
    budget = parse_memory(memory, operator_module(op))
    return [way.candidate for way in _ways(op, products, columns, budget, profile)]


def materialise(
    op: Operator,
    *,
    products: int | None = None,
    columns: int = 1,
    memory: float | str | None = None,
    how: str | None = None,
    explain: bool = False,
    profile: MachineProfile | None = None,
) -> Operator:
    """The same operator, evaluated the cheapest way for the work ahead.

    Parameters
    ----------
    op : Operator
    products : int, optional
        How many products will be asked for.  Without it, and without `how`, the operator is
        returned as it is: factored.
    columns : int, default 1
        Vectors in each product.
    memory : float or str, optional
        Bytes the evaluation may hold beyond the operator itself (``"4GB"``); half of what is
        free by default.
    how : {"factored", "gram", "tiled", "dense"} or a name in `op.alternatives()`, optional
        Ask for one way instead of letting the cost model choose.
    explain : bool, default False
        Print the candidates and what is predicted of each (for one product, if `products` is
        not given).
    profile : MachineProfile, optional
        The machine's rates; :func:`machine_profile` by default.

    Returns
    -------
    Operator
        `op` itself, an alternative of it, a :class:`Tiled`, a dense :class:`Matrix` with the
        same tags, or ("gram") `op` with kernels of Khatri–Rao products in it as
        :class:`GramSide`: those for which that pays, or all if it was asked for.

    Raises
    ------
    ValueError
        If `how` is none of these, or `products` or `columns` is not positive, or ``how="gram"``
        and `op` holds no Gram of a Khatri–Rao product.
    MemoryError
        If ``how="dense"`` or ``how="gram"`` does not fit in `memory`; nothing was allocated.

    Notes
    -----
    Per product and column, with P the width of the factor: factored 4·N·P flops; tiled N²/2
    entries formed for all columns and 2·N²; dense 2·N² and N² entries read, after N²/2 entries
    formed once; Gram-side, of widths p < q with P = p·q, N²·p for all columns and 2·N², after
    N²·q once.  If nothing fits the budget the operator is returned as it is.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> K = of.Gram(np.ones((500, 4000)))
    >>> with of.gate_options(threads=1):
    ...     dense = of.materialise(K, products=100, explain=True, profile=of.MachineProfile())
    100 products of 1 column, 500 × 500 float64
                    set-up   a product     moved      held      time
    dense          1 Gflop   500 kflop  1.91 MiB  5.72 MiB   0.032 s  chosen
    factored        0 flop     8 Mflop  30.6 MiB  70.3 KiB    0.18 s
    tiled           0 flop     1 Gflop    46 MiB   520 KiB     2.2 s
    >>> type(dense).__name__, of.materialise(K) is K
    ('Matrix', True)
    """
    for name, value in (("products", products), ("columns", columns)):
        if value is not None and not value >= 1:
            raise ValueError(f"{name} must be at least 1, not {value!r}")
    names = [*WAYS, *op._alternatives]
    if how not in (None, *names):
        raise ValueError(f"how must be one of {', '.join(map(repr, names))}, not {how!r}")
    if how == "gram" and not kernels(op):
        raise ValueError(f"how='gram' needs a Gram of a Khatri–Rao product in {op!r}")
    chosen, sides = how or "factored", None
    if explain or (how is None and products is not None):
        ways = _ways(op, products or 1, columns, parse_memory(memory, operator_module(op)), profile)
        if how is None and products is not None:
            best = next((way for way in ways if way.candidate.fits), None)
            chosen, sides = (best.candidate.how, best.sides) if best else (chosen, None)
        if explain:
            print(_table(op, [way.candidate for way in ways], products or 1, columns, chosen))
    if chosen == "factored":
        return op
    if chosen == "tiled":
        return Tiled(op)
    if chosen == "dense":
        data = dense(op, memory)
        return Matrix(data, symmetric=op.symmetric, psd=op.psd, symbol=op.symbol)
    if chosen == "gram":
        asked = sides or [best_side(kernel, columns) for kernel in kernels(op)]
        return gram_sided(op, asked, parse_memory(memory, operator_module(op)))
    return op._alternatives[chosen]()


class _Way(NamedTuple):
    candidate: Candidate
    sides: list[Side] | None = None


def _ways(
    op: Operator, products: int, columns: int, budget: float, profile: MachineProfile | None
) -> list[_Way]:
    """The candidates, fastest first; with them the kernels that take the Gram side."""
    rates = machine_profile() if profile is None else profile
    ways = []

    def add_way(
        how: str,
        form: Operator,
        setup: Cost = NOTHING,
        held: float = 0.0,
        peak: float = 0.0,
        sides: list[Side] | None = None,
    ) -> None:
        """Of `form`, which stands in for what will hold `held`, and `peak` while forming."""
        product = form.cost(columns)
        seconds = rates.seconds(setup, op.dtype) + products * rates.seconds(product, op.dtype)
        seconds += held / rates.fresh
        held = max(peak, held + product_bytes(form, columns))
        ways.append(
            _Way(
                Candidate(
                    how, setup.flops, product.flops, product.bytes, held, seconds, held <= budget
                ),
                sides,
            )
        )

    add_way("factored", op)
    add_way("tiled", Tiled(op))
    forming, matrix = dense_plan(op, budget), stand_in(op)
    add_way("dense", matrix, forming.cost, matrix.cost(0).bytes, forming.held)
    if sides := _paying_sides(op, products, columns, budget, rates):
        setup = sum((dense_plan(side.kept).cost for side in sides), NOTHING)
        held = sum(stand_in(side.kept).cost(0).bytes for side in sides)
        form = replaced(op, {id(side.kernel): side.stand_in() for side in sides})
        add_way("gram", form, setup, held, kept_bytes(sides, budget), sides)
    for name, form in op.alternatives().items():
        add_way(name, form)
    return sorted(ways, key=lambda way: way.candidate.seconds)


def _paying_sides(
    op: Operator, products: int, columns: int, budget: float, rates: MachineProfile
) -> list[Side]:
    """The kernels that are faster on their Gram side, the most saving first, within the budget.

    All of them if none is, and those that pay if none fits: to be shown, not to be chosen.
    """

    def saving(side: Side) -> float:
        forming = rates.seconds(dense_plan(side.kept).cost, op.dtype)
        forming += stand_in(side.kept).cost(0).bytes / rates.fresh
        products_saved = rates.seconds(side.kernel.cost(columns), op.dtype) - rates.seconds(
            side.stand_in().cost(columns), op.dtype
        )
        return products * products_saved - forming

    sides = sorted((best_side(kernel, columns) for kernel in kernels(op)), key=saving, reverse=True)
    paying = [side for side in sides if saving(side) > 0] or sides
    fitting: list[Side] = []
    for side in paying:
        if kept_bytes([*fitting, side], budget) <= budget:
            fitting.append(side)
    return fitting or paying


def _table(op: Operator, forms: list[Candidate], products: int, columns: int, chosen: str) -> str:
    """The candidates for people, fastest first."""
    m, n = op.shape
    plural = "" if products == 1 else "s", "" if columns == 1 else "s"
    lines = [
        f"{products:,} product{plural[0]} of {columns:,} column{plural[1]}, "
        f"{m:,} × {n:,} {op.dtype}",
        f"{'':10}{'set-up':>12}{'a product':>12}{'moved':>10}{'held':>10}{'time':>10}",
    ]
    for form in forms:
        note = "  chosen" if form.how == chosen else ""
        lines.append(
            f"{form.how:10}{human(form.setup, 'flop'):>12}{human(form.product, 'flop'):>12}"
            f"{human(form.moved, 'B', 1024):>10}{human(form.held, 'B', 1024):>10}"
            f"{form.seconds:>8.2g} s{note if form.fits else '  over the budget' + note}"
        )
    return "\n".join(lines)
