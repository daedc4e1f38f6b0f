"""The choice of form: factored, one Gram dense, tiled or dense, whichever is fastest.

Nothing is approximated and nothing is chosen silently: an operator stays factored until
:func:`materialise` is called, and what that returns says in its type what it is.
"""

from __future__ import annotations

from typing import NamedTuple

from opflow.evaluation.dense import Tiled, dense, dense_plan
from opflow.evaluation.packed import HEIGHT, pack, packed_stand_in
from opflow.evaluation.sides import (
    best_side,
    gram_sided,
    kept_bytes,
    kernels,
    paying_sides,
    replaced,
)
from opflow.interface.words import counted
from opflow.machine.cost import MachineProfile, machine_profile
from opflow.machine.workspace import operator_module, parse_memory
from opflow.operators.describe import human
from opflow.operators.matrix import Matrix
from opflow.operators.operator import Cost, Operator
from opflow.operators.prices import product_bytes
from opflow.operators.tiles import stand_in

WAYS = ("factored", "gram", "tiled", "dense", "packed")
#: bytes of a full matrix from which products of a packed one are no slower
PACKED_LEAST = 64 << 20
#: ... with as many columns
PACKED_COLUMNS = range(2, 41)
NOTHING = Cost(0.0, 0.0)


class Candidate(NamedTuple):
    """One way to evaluate an operator, with the costs that the cost model predicts for it.

    Attributes
    ----------
    how : str
        "factored", "gram", "tiled", "dense", "packed", or the name of an alternative.
    setup : float
        Flops before the first product.
    product, moved : float
        Flops of one product, and bytes it moves.
    held : float
        Bytes held at the peak beyond the operator itself, results of products included.
    seconds : float
        Of the set-up and all products.
    fits : bool
        Whether `held` is within the memory budget.

    See Also
    --------
    opflow.candidates : The candidates of an operator.
    opflow.materialise : Chooses one of them.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> K = of.Gram(np.ones((500, 4000)))
    >>> best, *others = of.candidates(K, products=100, profile=of.MachineProfile())
    >>> best.how, best.setup, best.fits
    ('dense', 1000000000.0, True)
    """

    how: str
    setup: float
    product: float
    moved: float
    held: float
    seconds: float
    fits: bool


def candidates(
    op: Operator,
    products: int,
    columns: int = 1,
    memory: float | str | None = None,
    profile: MachineProfile | None = None,
) -> list[Candidate]:
    """Compare the ways to evaluate an operator, fastest first.

    Parameters
    ----------
    op : Operator
    products, columns, memory, profile
        As in :func:`materialise`.

    Returns
    -------
    list of Candidate
        Sorted by `seconds`, those over the memory budget included.

    See Also
    --------
    opflow.materialise : Chooses among them.
    opflow.MachineProfile : The rates behind the times.
    opflow.Candidate : One of them.

    Notes
    -----
    Time is ``flops / rate + bytes / bandwidth`` of the set-up and of the products, and that of
    writing what is kept to fresh memory; flops on sparse data and of gates have rates of their
    own.  The time Python takes to start a product is not counted, so the order says nothing about
    operators of a few rows.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> K = of.Gram(np.ones((500, 4000)))
    >>> [c.how for c in of.candidates(K, products=100, profile=of.MachineProfile())]
    ['dense', 'factored', 'tiled']
    """
    budget = parse_memory(memory, operator_module(op))
    rates = profile or machine_profile()
    found = []

    def add(
        how: str, form: Operator, setup: Cost = NOTHING, kept: float = 0.0, peak: float = 0.0
    ) -> None:
        """`form` stands in for what will keep `kept` bytes, and hold `peak` while it is made."""
        product = form.cost(columns)
        seconds = rates.seconds(setup, op.dtype) + products * rates.seconds(product, op.dtype)
        seconds += kept / rates.fresh
        held = max(peak, kept + product_bytes(form, columns))
        fits = held <= budget
        found.append(Candidate(how, setup.flops, product.flops, product.bytes, held, seconds, fits))

    add("factored", op)
    add("tiled", Tiled(op))
    matrix = stand_in(op)
    forming = dense_plan(op, budget)
    size = matrix.cost(0).bytes
    add("dense", matrix, forming.cost, size, forming.held)
    on_host = operator_module(op) != "cupy"  # a device multiplies one matrix, not many tiles
    fast = on_host and size > PACKED_LEAST and columns in PACKED_COLUMNS
    if op.symmetric and op.shape[0] > HEIGHT and (fast or forming.held > budget):
        half = packed_stand_in(op)
        forming = dense_plan(op, budget, half.data.nbytes)
        add("packed", half, forming.cost, half.data.nbytes, forming.held)
    if sides := paying_sides(op, products, columns, budget, rates):
        form = replaced(op, {id(side.kernel): side.stand_in() for side in sides})
        setup = sum((side.forming for side in sides), NOTHING)
        add("gram", form, setup, sum(side.bytes for side in sides), kept_bytes(sides, budget))
    for name, form in op.alternatives().items():
        add(name, form)
    return sorted(found, key=lambda candidate: candidate.seconds)


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
    """Return the same operator, evaluated the cheapest way for the work ahead.

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
    how : str, optional
        Ask for one way instead of letting the cost model choose: ``"factored"``, ``"gram"``,
        ``"tiled"``, ``"dense"``, ``"packed"`` or a name in `op.alternatives()`.  Of a symmetric
        operator ``"dense"`` gives ``"packed"`` if only half of the matrix fits in `memory`.
    explain : bool, default False
        Print the candidates and what is predicted of each (for one product, if `products` is
        not given).
    profile : MachineProfile, optional
        The machine's rates; :func:`machine_profile` by default.

    Returns
    -------
    Operator
        `op` itself, an alternative of it, a :class:`Tiled`, a dense :class:`Matrix` or (half of
        one) a :class:`PackedSymmetric` with the same tags, or ("gram") `op` with kernels of
        Khatri–Rao products in it as :class:`GramSide`: those for which that pays, or all if it was
        asked for.

    Raises
    ------
    ValueError
        If `how` is none of these, or `products` or `columns` is not positive, or ``how="gram"``
        and `op` holds no Gram of a Khatri–Rao product, or ``how="packed"`` and `op` is not known
        to be symmetric.
    MemoryError
        If ``how="dense"``, ``"packed"`` or ``"gram"`` does not fit in `memory`.  Nothing was
        allocated then.

    See Also
    --------
    opflow.candidates : The ways and their predicted times.
    opflow.machine_profile : The rates they are compared by.
    opflow.Tiled : Exact sub-blocks, one at a time.
    opflow.PackedSymmetric : Half of a symmetric matrix.
    opflow.GramSide : One Gram of a kernel kept dense.

    Notes
    -----
    Per product and column, with P the width of the factor: factored 4·N·P flops; tiled N²/2
    entries formed for all columns and 2·N²; dense 2·N² and N² entries read, after N²/2 entries
    formed once; Gram-side, of widths p < q with P = p·q, N²·p for all columns and 2·N², after
    N²·q once; packed as dense, compared where dense does not fit, and not on a device for 2 to 40
    columns from 64 MiB on.  If nothing fits the budget the operator is returned as it is.

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
    budget = parse_memory(memory, operator_module(op))
    chosen = how or "factored"
    choosing = how is None and products is not None
    products = products or 1
    if explain or choosing:
        forms = candidates(op, products, columns, budget, profile)
        if choosing:
            chosen = next((form.how for form in forms if form.fits), chosen)
        if explain:
            print(_table(op, forms, products, columns, chosen))
    if chosen == "factored":
        return op
    if chosen == "tiled":
        return Tiled(op)
    if chosen == "dense" and op.symmetric and dense_plan(op, budget).held > budget:
        chosen = "packed"
    if chosen == "packed":
        return pack(op, budget)
    if chosen == "dense":
        data = dense(op, budget)
        return Matrix(data, symmetric=op.symmetric, psd=op.psd, symbol=op.symbol)
    if chosen != "gram":
        return op._alternatives[chosen]()
    if choosing:
        sides = paying_sides(op, products, columns, budget, profile or machine_profile())
    else:
        sides = [best_side(kernel, columns) for kernel in kernels(op)]
    return gram_sided(op, sides, budget)


def _table(op: Operator, forms: list[Candidate], products: int, columns: int, chosen: str) -> str:
    """The candidates for people, fastest first."""
    m, n = op.shape
    counts = ((products, "product"), (columns, "column"))
    work = [counted(number, noun) for number, noun in counts]
    lines = [
        f"{' of '.join(work)}, {m:,} × {n:,} {op.dtype}",
        f"{'':10}{'set-up':>12}{'a product':>12}{'moved':>10}{'held':>10}{'time':>10}",
    ]
    for form in forms:
        over = "  over the budget" * (not form.fits)
        note = over + "  chosen" * (form.how == chosen)
        lines.append(
            f"{form.how:10}{human(form.setup, 'flop'):>12}{human(form.product, 'flop'):>12}"
            f"{human(form.moved, 'B', 1024):>10}{human(form.held, 'B', 1024):>10}"
            f"{form.seconds:>8.2g} s{note}"
        )
    return "\n".join(lines)
