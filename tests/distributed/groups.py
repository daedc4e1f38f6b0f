"""One launch for every number of ranks: the others wait without taking a core."""

import time

from mpi4py import MPI


def wait():
    """A barrier of all ranks that sleeps."""
    barrier = MPI.COMM_WORLD.Ibarrier()
    while not barrier.Test():
        time.sleep(0.005)


def groups(sizes=None):
    """Communicators of the first 1, 2, … ranks, on those that are in them."""
    world = MPI.COMM_WORLD
    for size in sizes or range(1, world.size + 1):
        comm = world.Split(int(world.rank >= size))
        if world.rank < size:
            yield comm
        wait()
