"""What a product with K costs on R ranks: a simulation of the allreduce against compute.

Samples are sharded.  A product is n·2P flops on the n samples of a rank (Jᵀr), one allreduce of P
numbers, and n·2P flops again (J·).  Every rank has a clock; a round of the allreduce moves it to
when both its own last round and its peer's are over, plus latency plus bytes over bandwidth.  The
rates of the machines below are nominal: they are parameters, nothing that was measured.

    python benchmarks/scale_model.py                          # tables, a few seconds
    python benchmarks/scale_model.py --widths 64 256 256 --jitter 0.2 --noise 1 --json scale.json
    python benchmarks/scale_model.py --plot docs/figures/scale.png
    mpiexec -n 2 python benchmarks/scale_model.py --measure   # a real Allreduce on these ranks
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

ALGORITHMS = ("doubling", "halving", "ring")
SAMPLES = (10**6, 10**7, 10**8, 10**9)
RANKS = (1, 4, 16, 64, 256, 1024)
NETWORKS = ([784, 512], [784, 512, 512, 512], [64, 256, 256])


class Machine(NamedTuple):
    """Flops a second of a rank, and the seconds of a message: latency + bytes / bandwidth."""

    flops: float
    latency: float
    bandwidth: float


MACHINES = {
    "100 Gflop/s, 10 Gbit/s, 20 us": Machine(1e11, 20e-6, 1.25e9),
    "100 Gflop/s, 100 Gbit/s, 2 us": Machine(1e11, 2e-6, 12.5e9),
    "10 Tflop/s, 10 Gbit/s, 20 us": Machine(1e13, 20e-6, 1.25e9),
    "10 Tflop/s, 100 Gbit/s, 2 us": Machine(1e13, 2e-6, 12.5e9),
}
CASES = list(itertools.product(MACHINES.values(), NETWORKS))
NAMES = [name for name in MACHINES for _ in NETWORKS]
PLOTTED = [list(MACHINES)[i] for i in (0, 3, 2)]


def parameters(widths: Sequence[int]) -> int:
    """P."""
    return sum(a * b for a, b in itertools.pairwise(widths))


def product_flops(samples: float, widths: Sequence[int]) -> float:
    """One product with K, cached conjugates, one output."""
    return 4.0 * samples * parameters(widths)


def step_flops(samples: float, widths: Sequence[int]) -> float:
    """One full-batch step of gradient descent."""
    return 2.0 * samples * (3 * parameters(widths) - widths[0] * widths[1])


def memory(samples: float, widths: Sequence[int], storage: str = "cached", item: int = 4) -> float:
    """Bytes a rank holds for products: X, y, r, fields and three arrays shaped like the weights."""
    *lower, top = widths[1:]
    fields = {
        "cached": 2 * (sum(lower) + top) * item,
        "packed": sum(lower) * item + -(-top // 8),
        "recomputed": 0,
    }[storage]
    return samples * ((widths[0] + 2) * item + fields) + 3 * parameters(widths) * item


def shards(samples: int, ranks: int) -> np.ndarray:
    """Samples of each rank, as even as they go."""
    return samples // ranks + (np.arange(ranks) < samples % ranks)


def rounds(ranks: int, algorithm: str) -> Iterator[tuple[np.ndarray, float]]:
    """Of every round, the rank each receives from (-1: none) and the share of the array sent.

    ``doubling`` exchanges the whole array with ranks at distance 1, 2, 4, …; ``halving`` scatters
    the sum in halves and gathers it again (Rabenseifner); ``ring`` passes parts of 1/R around
    twice.  The first two work on a power of two: ranks beyond it hand in their array first and
    get the sum last.
    """
    everyone = np.arange(ranks)
    if algorithm == "ring":
        for _ in range(2 * (ranks - 1)):
            yield (everyone - 1) % ranks, 1 / ranks
        return
    power = 1 << (ranks.bit_length() - 1)
    distances = [1 << k for k in range(power.bit_length() - 1)]
    beyond = everyone[power:]
    handed, taken = (np.full(ranks, -1) for _ in range(2))
    handed[beyond - power], taken[beyond] = beyond, beyond - power
    if beyond.size:
        yield handed, 1.0
    shares = [(d, 1.0) for d in distances]
    if algorithm == "halving":
        shares = [(d, d / power) for d in distances]
        shares = shares[::-1] + shares
    for distance, share in shares:
        yield np.where(everyone < power, everyone ^ distance, -1), share
    if beyond.size:
        yield taken, 1.0


def allreduce_seconds(ranks: int, size: float, machine: Machine, algorithm: str) -> float:
    """The closed formula; `size` is in bytes."""
    _, latency, bandwidth = machine
    whole = latency + size / bandwidth
    if algorithm == "ring":
        return 2 * (ranks - 1) * (latency + size / ranks / bandwidth)
    levels = ranks.bit_length() - 1
    folds = 2 * whole * (ranks != 1 << levels)
    if algorithm == "doubling":
        return folds + levels * whole
    return folds + 2 * levels * latency + 2 * (1 - 0.5**levels) * size / bandwidth


def best_algorithm(ranks: int, size: float, machine: Machine) -> str:
    return min(ALGORITHMS, key=lambda name: allreduce_seconds(ranks, size, machine, name))


def allreduce(
    clocks: np.ndarray,
    size: float,
    machine: Machine,
    algorithm: str,
    rng: Any = None,
    noise: float = 0.0,
) -> np.ndarray:
    """The clocks after it; a message takes 1 + noise·e times its time, e exponential."""
    for source, share in rounds(len(clocks), algorithm):
        cost: Any = machine.latency + share * size / machine.bandwidth
        if noise:
            cost = cost * (1 + noise * rng.standard_exponential(len(clocks)))
        heard = np.maximum(clocks, clocks[source]) + cost
        clocks = np.where(source >= 0, heard, clocks)
    return clocks


def simulate(
    samples: int,
    widths: Sequence[int],
    ranks: int,
    machine: Machine,
    *,
    algorithm: str | None = None,
    vectors: int = 1,
    item: int = 4,
    products: int = 10,
    jitter: float = 0.0,
    noise: float = 0.0,
    slow: float = 1.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Seconds a product, over `products` in a row, and the efficiency: compute / (R · time).

    A rank's halves of a product each take 1 + jitter·e times their time, e exponential, drawn
    anew for each; `slow` multiplies the time of rank 0.  `noise` is the like for messages.
    """
    rng = np.random.default_rng(seed)
    size = float(item * vectors * parameters(widths))
    algorithm = algorithm or best_algorithm(ranks, size, machine)
    half = vectors * product_flops(1.0, widths) / 2 / machine.flops * shards(samples, ranks)
    half = half * np.where(np.arange(ranks) == 0, slow, 1.0)
    clocks = np.zeros(ranks)
    for _ in range(products):
        clocks = clocks + half * (1 + jitter * rng.standard_exponential(ranks))
        clocks = allreduce(clocks, size, machine, algorithm, rng, noise)
        clocks = clocks + half * (1 + jitter * rng.standard_exponential(ranks))
    seconds = float(clocks.max()) / products
    alone = vectors * product_flops(samples, widths) / machine.flops
    return {"seconds": seconds, "efficiency": alone / (ranks * seconds), "algorithm": algorithm}


def crossover(widths: Sequence[int], ranks: int, machine: Machine, item: int = 4) -> float:
    """Samples a rank at which the allreduce takes as long as the rest of a product."""
    size = float(item * parameters(widths))
    algorithm = best_algorithm(ranks, size, machine)
    wire = allreduce_seconds(ranks, size, machine, algorithm)
    return wire * machine.flops / product_flops(1.0, widths)


def sent(ranks: int, size: float, algorithm: str) -> float:
    """Bytes a rank sends at most in one allreduce."""
    totals = np.zeros(ranks)
    for source, share in rounds(ranks, algorithm):
        totals[source[source >= 0]] += share * size
    return float(totals.max())


def human(value: float, unit: str) -> str:
    """Three digits and a prefix."""
    if not value:
        return f"0 {unit}"
    power = 0
    while value < 0.9995 and power > -3:
        value, power = value * 1000, power - 1
    while value >= 999.5 and power < 6:
        value, power = value / 1000, power + 1
    digits = f"{value:#.3g}".rstrip(".")
    return f"{digits} {'num kMGTPE'[power + 3].strip()}{unit}"


def heading(cells: Sequence[Any], width: int) -> str:
    return f"{'ranks':>5} " + " ".join(f"{cell:>{width}}" for cell in cells)


def powers(samples: Sequence[int]) -> list[str]:
    return [f"N = 10^{len(str(n)) - 1}" for n in samples]


def work_table(widths: Sequence[int], storage: str = "cached", item: int = 4) -> str:
    """Of a rank: bytes sent a product, and for every N the flops of a product and the memory."""
    size = float(item * parameters(widths))
    lines = [heading(["sent", *(f"{n:>19}" for n in powers(SAMPLES))], 8)]
    for ranks in RANKS:
        cells = [f"{human(sent(ranks, size, 'halving'), 'B'):>8}"]
        for n in SAMPLES:
            work = human(product_flops(n / ranks, widths), "flop")
            held = human(memory(n / ranks, widths, storage, item), "B")
            cells.append(f"{work:>10} {held:>8}")
        lines.append(f"{ranks:5} " + " ".join(cells))
    return "\n".join(lines)


def crossover_table() -> str:
    """Samples a rank below which communication takes longer than compute."""
    ranks = (2, 16, 128, 1024)
    rows = {f"R = {r}": [crossover(w, r, m) for m, w in CASES] for r in ranks}
    rows["N, R = 1024"] = [1024 * value for value in rows["R = 1024"]]
    return case_table(rows, two_digits)


def turning_point(samples: int, widths: Sequence[int], machine: Machine) -> int | None:
    """The least power of two of ranks, up to 1,024, at which communication takes longer."""
    ranks = (2**k for k in range(11))
    return next((r for r in ranks if r * crossover(widths, r, machine) > samples), None)


def turning_table() -> str:
    columns = zip(powers(SAMPLES), SAMPLES, strict=True)
    rows = {name: [turning_point(n, w, m) for m, w in CASES] for name, n in columns}
    return case_table(rows, lambda value: f"{value:,}" if value else "-")


def case_table(columns: dict[str, list[Any]], text: Callable[[Any], str]) -> str:
    """A row for every machine and network."""
    lines = [f"{'':47}" + "".join(f"{name:>14}" for name in columns)]
    for i, (name, (_, widths)) in enumerate(zip(NAMES, CASES, strict=True)):
        cells = "".join(f"{text(column[i]):>14}" for column in columns.values())
        lines.append(f"{name:31} {'-'.join(map(str, widths)):15}{cells}")
    return "\n".join(lines)


def two_digits(value: float) -> str:
    return f"{float(f'{value:.2g}'):,.0f}"


def efficiency_table(widths: Sequence[int], machine: Machine, **options: Any) -> str:
    """Seconds a product and efficiency, simulated, for every N and R."""
    lines = [heading(powers(SAMPLES), 15)]
    for ranks in RANKS:
        cells = []
        for n in SAMPLES:
            found = simulate(n, widths, ranks, machine, **options)
            cells.append(f"{human(found['seconds'], 's'):>9} {found['efficiency']:5.2f}")
        lines.append(f"{ranks:5} " + " ".join(cells))
    return "\n".join(lines)


def plot(path: str, widths: Sequence[int], jitter: float, noise: float) -> None:
    """Efficiency against ranks for every N, compute gaining on the links from left to right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    kinds: list[dict[str, Any]] = [{}, {"jitter": jitter, "noise": noise}]
    ranks = [2**k for k in range(11)]
    for ax, name in zip(axes, PLOTTED, strict=True):
        for n, label in zip(SAMPLES, powers(SAMPLES), strict=True):
            plain, rough = (
                [simulate(n, widths, r, MACHINES[name], **options)["efficiency"] for r in ranks]
                for options in kinds
            )
            (line,) = ax.plot(ranks, plain, marker="o", markersize=3, label=label)
            ax.plot(ranks, rough, "--", color=line.get_color(), linewidth=1)
        ax.axhline(0.5, color="0.7", linewidth=0.8, zorder=0)
        ax.set(xscale="log", xlabel="ranks", title=name, ylim=(0, 1.05))
        ax.set_xscale("log", base=2)
        ax.set_xticks(RANKS, [f"{r:,}" for r in RANKS])
    axes[0].set_ylabel("efficiency: compute / (ranks · time)")
    axes[0].legend(loc="lower left", fontsize=9)
    title = f"widths {'-'.join(map(str, widths))}, float32; dashed: jitter {jitter:g}"
    figure.suptitle(title + (f", noise {noise:g}" if noise else ""), fontsize=11)
    figure.savefig(path, dpi=110)


def measure(repeats: int) -> None:
    """A real Allreduce, beside the formula with latency and bandwidth fitted on these ranks."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    ranks, rank = comm.Get_size(), comm.Get_rank()

    def timed(count: int) -> float:
        """Median over rounds of the slowest rank's time."""
        send, receive = np.ones(count, np.float32), np.empty(count, np.float32)
        seconds = []
        for _ in range(repeats):
            comm.Barrier()
            start = time.perf_counter()
            comm.Allreduce(send, receive)
            seconds.append(comm.allreduce(time.perf_counter() - start, MPI.MAX))
        if receive[0] != ranks or receive[-1] != ranks:
            raise SystemExit(f"the sum of {ranks} ones came out as {receive[0]}")
        return statistics.median(seconds)

    if ranks < 2:
        raise SystemExit("one rank sends nothing: mpiexec -n 2 python benchmarks/scale_model.py")
    timed(1000)
    short, count = timed(1), 1 << 22
    long = timed(count)
    # doubling takes one latency a level, halving sends 2(1 - 1/p) of the array
    levels = ranks.bit_length() - 1
    latency = short / (levels + 2 * (ranks != 1 << levels))
    unit = Machine(1.0, 0.0, 1.0)
    bandwidth = min(allreduce_seconds(ranks, 4.0 * count, unit, a) for a in ALGORITHMS) / long
    fitted = Machine(1.0, latency, bandwidth)
    rows = []
    for widths in NETWORKS:
        size = 4.0 * parameters(widths)
        name = best_algorithm(ranks, size, fitted)
        rows.append((widths, size, timed(parameters(widths)),
                     allreduce_seconds(ranks, size, fitted, name)))  # fmt: skip
    if rank == 0:
        print(f"{ranks} ranks: latency {human(latency, 's')}, {human(bandwidth, 'B/s')} "
              f"(both fitted here, medians of {repeats})")  # fmt: skip
        for widths, size, found, formula in rows:
            print(f"{'-'.join(map(str, widths)):20}{human(size, 'B'):>10}"
                  f"   measured {human(found, 's'):>9}"
                  f"   formula {human(formula, 's'):>9}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", nargs="+", type=int, default=NETWORKS[0])
    parser.add_argument("--flops", type=float, help="of a rank a second, with the next two")
    parser.add_argument("--latency", type=float, default=2e-6, help="seconds of a message")
    parser.add_argument("--bandwidth", type=float, default=12.5e9, help="bytes a second")
    parser.add_argument("--algorithm", choices=ALGORITHMS, help="the fastest by default")
    parser.add_argument("--products", type=int, default=10, help="in a row")
    parser.add_argument("--jitter", type=float, default=0.0, help="mean delay of compute")
    parser.add_argument("--noise", type=float, default=0.0, help="mean delay of messages")
    parser.add_argument("--slow", type=float, default=1.0, help="times the time of rank 0")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="a file to write the figures to")
    parser.add_argument("--plot", help="a picture to draw")
    parser.add_argument("--measure", action="store_true", help="time a real Allreduce, by mpiexec")
    args = parser.parse_args()
    if args.measure:
        measure(repeats=51)
        return
    machines = MACHINES
    if args.flops:
        machines = {"as given": Machine(args.flops, args.latency, args.bandwidth)}
    keys = ("algorithm", "products", "jitter", "noise", "slow", "seed")
    options = {key: getattr(args, key) for key in keys}
    print(f"widths {args.widths}, P = {parameters(args.widths):,}, float32")
    print(work_table(args.widths))
    for name, machine in machines.items():
        n = crossover(args.widths, RANKS[-1], machine)
        print(f"\n{name}: crossover at {two_digits(n)} samples a rank, {RANKS[-1]} ranks")
        print(efficiency_table(args.widths, machine, **options))
    if args.json:
        rows = [
            {"machine": name, **machine._asdict(), "widths": args.widths, "samples": n,
             "ranks": ranks, **options, **simulate(n, args.widths, ranks, machine, **options)}
            for name, machine in machines.items() for n in SAMPLES for ranks in RANKS
        ]  # fmt: skip
        with open(args.json, "w") as file:
            json.dump(rows, file, indent=1)
    if args.plot:
        plot(args.plot, args.widths, args.jitter, args.noise)


if __name__ == "__main__":
    main()
