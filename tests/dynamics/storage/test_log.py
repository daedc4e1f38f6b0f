import errno
import json
import os
import warnings
from contextlib import closing

import numpy as np
import pytest

from opflow.dynamics.storage.log import LIMIT, Log


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path, steps, resumed=None):
    with closing(Log(path, resumed)) as log:
        for step in steps:
            log.write(step, 0.1 * step, 1.0 / (step + 1), {"flips": np.array([step, 2])})


def test_a_line_is_in_the_file_once_it_is_written(tmp_path):
    path = tmp_path / "run.jsonl"
    with closing(Log(path)) as log:
        log.write(3, 0.3, 0.25, {"flips": np.array([[1, 2]]), "step": 9})
        assert lines(path) == [{"step": 3, "time": 0.3, "loss": 0.25, "flips": [[1, 2]]}]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (1, 1),
        (True, True),
        ("text", "text"),
        (None, None),
        (float("nan"), None),
        (np.float32(0.5), 0.5),
        (np.float64("inf"), None),
        (np.int64(3), 3),
        (np.array([1.0, np.nan, -np.inf]), [1.0, None, None]),
        (np.zeros(LIMIT), [0.0] * LIMIT),
        (np.zeros((LIMIT + 1, 1)), {"shape": [LIMIT + 1, 1]}),
        ([0] * (LIMIT + 1), {"shape": [LIMIT + 1]}),
        ((1, [np.float32("nan")]), [1, [None]]),
        ({"a": np.ones(2), 3: 1j}, {"a": [1.0, 1.0], "3": "complex"}),
        (np.array([1j]), ["complex"]),
        (object(), "object"),
    ],
)
def test_every_value_is_plain_json(tmp_path, value, written):
    path = tmp_path / "run.jsonl"
    with closing(Log(path)) as log:
        log.write(0, 0.0, float("nan"), {"value": value})

    def no_constant(name):
        raise AssertionError(f"{name} is not JSON")

    line = json.loads(path.read_text(), parse_constant=no_constant)
    assert line == {"step": 0, "time": 0.0, "loss": None, "value": written}


def test_a_resumed_log_goes_on_from_the_step(tmp_path):
    path = tmp_path / "run.jsonl"
    write(path, range(8))
    with open(path, "a") as file:
        file.write('{"step": 8, "ti')  # a kill
    write(path, [5, 6], resumed=4)
    assert [line["step"] for line in lines(path)] == [0, 1, 2, 3, 4, 5, 6]
    write(path, [8], resumed=99)
    assert [line["step"] for line in lines(path)] == [0, 1, 2, 3, 4, 5, 6, 8]
    write(path, [0])
    assert [line["step"] for line in lines(path)] == [0]


def test_half_a_line_at_the_end_is_dropped(tmp_path):
    path = tmp_path / "run.jsonl"
    for half in ('{"step": 2, "ti', '{"step": 2}', "[1]\n", '{"time": 2}\n', "\xff\n"):
        write(path, [0, 1])
        with open(path, "a") as file:
            file.write(half)
        write(path, [2], resumed=9)
        assert [line["step"] for line in lines(path)] == [0, 1, 2]


def test_a_full_disk_warns_once_and_leaves_whole_lines(tmp_path):
    path = tmp_path / "run.jsonl"
    resource = pytest.importorskip("resource", reason="no limits of files here")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with closing(Log(path)) as log, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        log.write(0, 0.0, 1.0, {})
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, hard))
        try:
            log.write(1, 0.1, 1.0, {})
            log.write(2, 0.2, 1.0, {})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        log.write(3, 0.3, 1.0, {})
    assert [str(w.message) for w in caught] == [
        f"the log {path} cannot be written: no space left for a line; the run goes on"
    ]
    assert [line["step"] for line in lines(path)] == [0, 3]


def test_a_disk_that_fails_is_named(tmp_path):
    with (
        closing(Log("/dev/full")) as log,
        pytest.warns(RuntimeWarning, match=f"/dev/full.*{os.strerror(errno.ENOSPC)}"),
    ):
        log.write(0, 0.0, 1.0, {})
    with pytest.raises(FileNotFoundError, match="none"):
        Log(tmp_path / "none" / "run.jsonl")
