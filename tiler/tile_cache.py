"""What was made last, kept in bounded memory, and nothing made twice at a time."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any

from numpy.typing import NDArray


class TileCache:
    """Arrays by their keys, of which those that were used longest ago are forgotten first; for many threads.

    Args:
        most_bytes: what is kept at most. An array that is larger is given and not kept.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[Hashable, NDArray[Any]] = OrderedDict()
        self._making: dict[Hashable, Lock] = {}
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Return the array of a key, made if it is not kept; who asks for it meanwhile waits for it.

        It is the same array for all, and cannot be written to.
        """
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            making = self._making.setdefault(key, Lock())
        with making:
            with self._lock:
                if key in self._kept:
                    return self._kept[key]
            made = make()
            made.flags.writeable = False
            with self._lock:
                self._kept[key] = made
                self._making.pop(key, None)
                while self.size_bytes > self._most_bytes:
                    self._kept.popitem(last=False)
        return made

    @property
    def size_bytes(self) -> int:
        """What is kept."""
        return sum(each.nbytes for each in self._kept.values())

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._kept.clear()
