"""Numbers of the command line, refused by argparse where they are out of bounds."""

from __future__ import annotations

from argparse import ArgumentTypeError


def seeds(text: str) -> list[int]:
    """ "3" or a range such as "0-2"."""
    first, _, last = text.partition("-")
    found = list(range(int(first), int(last or first) + 1))
    if not found:
        raise ArgumentTypeError(f"{text} holds no seed: the first comes first")
    return found


def count(text: str) -> int:
    """A whole number from 1 on."""
    number = int(text)
    if number < 1:
        raise ArgumentTypeError(f"{text}: it must be 1 or more")
    return number


def angles(text: str) -> tuple[float, ...]:
    """Numbers between commas."""
    return tuple(map(float, text.split(",")))
