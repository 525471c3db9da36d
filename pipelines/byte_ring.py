"""Hand out stretches of one buffer and take them back in the same order: memory that cannot fall into pieces."""

from __future__ import annotations

from collections import deque


class ByteRing:
    """The stretches of a buffer of ``size_bytes`` that are out, oldest first.

    A stretch never wraps around the end, so up to its size less one may be wasted there: what is out at a time always
    fits when the buffer holds it and one stretch more. Example with 10 bytes, of which 4 and 4 are out: when the
    first 4 come back, 3 do not fit behind the others (2 are left there) and start at 0.
    """

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._out: deque[tuple[int, int]] = deque()  # first byte, and the first behind

    def take(self, num_bytes: int) -> int | None:
        """Return the first byte of a stretch, or ``None`` when there is no room now."""
        first = self._room(num_bytes)
        if first is not None:
            self._out.append((first, first + num_bytes))
        return first

    def give_back_oldest(self) -> None:
        """Take the oldest stretch back."""
        self._out.popleft()

    def _room(self, num_bytes: int) -> int | None:
        if not self._out:
            return 0 if num_bytes <= self.size_bytes else None
        oldest, (newest, behind) = self._out[0][0], self._out[-1]
        if newest < oldest:  # the newest lies before the oldest: the only room is between them
            return behind if behind + num_bytes <= oldest else None
        if behind + num_bytes <= self.size_bytes:
            return behind
        return 0 if num_bytes <= oldest else None
