"""Round shapes up to a few sizes, so that few programs are compiled."""

from __future__ import annotations


def bucket_sizes(smallest: int, largest: int, ratio: int = 2) -> tuple[int, ...]:
    """``smallest``, then ``ratio`` times more each, up to ``largest``, which is always the last."""
    sizes = []
    size = min(smallest, largest)
    while size < largest:
        sizes.append(size)
        size *= ratio
    return (*sizes, largest)


def bucket_for(need: int, sizes: tuple[int, ...]) -> int:
    """The smallest of ``sizes`` that is at least ``need``.

    Raises:
        ValueError: when none is.
    """
    for size in sizes:
        if size >= need:
            return size
    raise ValueError(f"{need} is over the largest bucket {sizes[-1]}")
