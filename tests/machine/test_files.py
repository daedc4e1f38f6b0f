"""Files that are complete or not there."""

import os

import pytest

from opflow.machine.files import atomic


def test_a_file_is_there_when_its_block_ends(tmp_path):
    path = tmp_path / "notes"
    path.write_text("before")
    with atomic(path) as file:
        file.write(b"after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert os.listdir(tmp_path) == ["notes"]


@pytest.mark.parametrize("there", [True, False])
def test_after_an_error_all_is_as_it_was(tmp_path, there):
    path = tmp_path / "notes"
    if there:
        path.write_text("before")
    with pytest.raises(KeyboardInterrupt), atomic(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["notes"] * there
    assert not there or path.read_text() == "before"


def test_who_may_read_it_is_for_the_umask_to_say(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic(tmp_path / "notes"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "notes").stat().st_mode & 0o777 == 0o640
