"""Shapes of arrays as text, for messages."""

from collections.abc import Sequence


def shape_text(shape: Sequence[int]) -> str:
    """A shape as text.

    >>> shape_text((36, 256, 256))
    '36x256x256'
    """
    return "x".join(map(str, shape))
