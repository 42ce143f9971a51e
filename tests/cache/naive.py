"""What the tests of this room compare with: the plainest way to say it."""

__all__ = ["naive_prefix"]


def naive_prefix(a: list[int], b: list[int]) -> int:
    """How many leading tokens are equal."""
    length = 0
    for left, right in zip(a, b, strict=False):
        if left != right:
            break
        length += 1
    return length
