"""The tool that plants mistakes does plant them."""

import pytest

from tests.device.plant import planted

TEXT = '''
def f(self, x, parts):
    """A function."""
    if x:
        y = x + 1
    return y


def g(x):
    y = x
    y = 2 * y
    yield y
'''


@pytest.mark.parametrize("kind, name, line", [
    ("argument", "x", "    x = __import__('numpy').asarray(x)"),
    ("item", "parts[0]", "    __import__('numpy').asarray(parts[0])"),
    ("attribute", "self.y", "    __import__('numpy').asarray(self.y)"),
    ("local", "y", "        y = __import__('numpy').asarray(y)"),
    ("result", "return", "    return __import__('numpy').asarray(y)"),
])  # fmt: skip
def test_an_array_of_each_kind(kind, name, line) -> None:
    lines = planted(TEXT, 2, kind, name).splitlines()
    assert line in lines
    before = {"local": "        y = x + 1", "result": "        y = x + 1"}
    assert lines[lines.index(line) - 1] == before.get(kind, '    """A function."""')


def test_where_there_is_no_place_for_one_none_is_planted() -> None:
    assert planted(TEXT, 9, "local", "y") is None  # of which of the two?
    assert planted(TEXT, 9, "result", "return") is None
    assert planted(TEXT, 3, "argument", "x") is None
