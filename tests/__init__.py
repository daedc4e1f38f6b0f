"""The tests, in the folders of what they test."""

from hypothesis import settings

#: examples of a test that asks for no number, in a thorough run
EXAMPLES = 20


def examples(count):
    """`count` in a thorough run, and the same share as everywhere in a shorter one."""
    return max(1, count * settings.default.max_examples // EXAMPLES)
