"""Observers and reports of sharded runs: on every rank the value of a single process."""

import re

import pytest

from tests.distributed.launch import needs_mpi, run


@pytest.mark.thorough
@needs_mpi
def test_every_observer_and_report_is_that_of_one_process_on_one_to_four_ranks():
    parts = ("observed", "resumed", "alone_after", "refused", "analysed")
    out = run("observing.py", 4, *parts, timeout=300)
    groups = (4, 3, 1, 2, 2)
    expected = [f"{rank + 1} of {size} agree" for size in groups for rank in range(size)]
    assert sorted(re.findall(r"\d of \d agree", out)) == sorted(expected)
