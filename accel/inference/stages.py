"""The stages of a stream that run beside the model. Each has its own thread, and the queues between them are
bounded."""

from __future__ import annotations

import atexit
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

PATIENCE = 15.0  # seconds that a source is waited for once nobody wants its frames; streams give up after 10

T = TypeVar("T")
U = TypeVar("U")


class Channel(Generic[T]):
    """A queue of items from one thread to another, in order. The sender waits while `capacity` items are in it.

    The receiver iterates over it. Either side may end it: the sender by `finish`, the receiver by `close`.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self._waiting: deque[T] = deque()
        self._changed = threading.Condition()
        self._finished = False
        self._closed = False
        self._error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Send an item. Return False if nobody receives any more.

        If an exception (Ctrl-C, for example) comes while it waits for room, the finished item is sent all the same.
        """
        with self._changed:
            try:
                self._changed.wait_for(lambda: self._closed or len(self._waiting) < self.capacity)
            except BaseException:
                self._add(item)
                raise
            return self._add(item)

    def finish(self, error: BaseException | None = None) -> None:
        """End the sending. The receiver gets the items that wait, and then this error or the end."""
        with self._changed:
            if not self._finished:
                self._finished, self._error = True, error
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Give the receiver this error at once, and nothing after it."""
        with self._changed:
            self._waiting.clear()
            self._closed = self._finished = True
            self._error = error
            self._changed.notify_all()

    def close(self) -> None:
        """End the receiving. A waiting sender is released, and waiting items are dropped."""
        with self._changed:
            self._waiting.clear()
            self._closed = self._finished = True
            self._changed.notify_all()

    def has_waiting(self) -> bool:
        """Return whether the receiver would get an item at once."""
        return bool(self._waiting)

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._finished)
            if self._waiting:
                item = self._waiting.popleft()
                self._changed.notify_all()
                return item
            error, self._error = self._error, None
        raise StopIteration if error is None else error

    def _add(self, item: T) -> bool:
        if not self._closed:
            self._waiting.append(item)
            self._changed.notify_all()
        return not self._closed


class NewestOnly(Channel[T]):
    """A channel whose sender never waits. A newer item replaces one that has not been fetched."""

    def __init__(self) -> None:
        super().__init__(1)

    def put(self, item: T) -> bool:
        with self._changed:
            self._waiting.clear()
            return self._add(item)


class ReadAhead(Generic[T, U]):
    """Iterate over a source in another thread, ahead of the caller who iterates over this object.

    source: an iterable. Its iterator is made, used and closed in that thread.
    prepare: a function that the thread calls on each item. Its arguments are the item's number, from 0, and the item.
    channel: the queue for the results of `prepare`.

    This is a context manager: the thread runs inside it and has ended after it. If the source then still waits for its
    next item after `PATIENCE` seconds, it is left to its thread, with a warning.
    """

    def __init__(self, source: Iterable[T], prepare: Callable[[int, T], U], channel: Channel[U]):
        self._source, self._prepare, self._channel = source, prepare, channel
        self._thread = threading.Thread(target=self._read, name="accel-read", daemon=True)

    def __iter__(self) -> Iterator[U]:
        return self._channel

    def has_waiting(self) -> bool:
        """Return whether the next item is already there."""
        return self._channel.has_waiting()

    def fail(self, error: BaseException) -> None:
        """End the iteration with this error at once, even while it waits for the source."""
        self._channel.fail(error)

    def stop(self) -> None:
        """End the thread."""
        self._channel.close()
        _running.discard(self)
        if threading.current_thread() is self._thread:  # the garbage collector, which runs in any thread, called this
            return
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            warnings.warn(
                f"a source has not given its next frame for {PATIENCE:g} s since its stream ended; its thread stays",
                RuntimeWarning,
                stacklevel=2,
            )

    def __enter__(self) -> ReadAhead[T, U]:
        _running.add(self)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _read(self) -> None:
        failure = None
        try:
            items = iter(self._source)
            try:
                for number, item in enumerate(items):
                    if not self._channel.put(self._prepare(number, item)):
                        break
            finally:
                if hasattr(items, "close"):
                    items.close()
        except BaseException as error:
            failure = error
        self._channel.finish(failure)


# A stream that was neither finished nor closed: its thread must not be at work while the interpreter shuts down.
_running: weakref.WeakSet[ReadAhead] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    for source in list(_running):
        source.stop()


class Consumer(Generic[T]):
    """Pass items to `consume` in another thread, in order, so that the caller can go on making items.

    consume: the function that gets one item after another.
    waiting: the number of items that may wait for it. `put` waits for room.
    on_error: a function that is called at once, in the consumer's thread, with an error that `consume` raised.

    This is a context manager. Leaving it waits until all items are consumed, even after an exception. A first exception
    during that wait, such as Ctrl-C, is raised after it. A second one drops all items but the one in work; an exception
    with which the context was left counts as the first. An error of `consume` is raised by the next `put`, or on
    leaving.
    """

    def __init__(
        self,
        consume: Callable[[T], object],
        *,
        waiting: int = 4,
        on_error: Callable[[BaseException], None] | None = None,
    ):
        self._consume, self._on_error = consume, on_error
        self._channel: Channel[T] = Channel(waiting)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="accel-consume", daemon=True)
        self._done = threading.Event()  # `join`, once interrupted, takes the thread for ended (python/cpython#90882)

    def put(self, item: T) -> None:
        """Add an item."""
        if not self._channel.put(item):
            raise self._error or ValueError("items are consumed inside the context only")

    def __enter__(self) -> Consumer[T]:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.finish()
        interrupt: BaseException | None = None
        try:
            if kind is None:
                interrupt = self._wait()
            self._done.wait()
        except BaseException:  # Ctrl-C, for the second time
            self._channel.close()
            self._done.wait()
            raise
        self._thread.join()
        self._channel.close()
        if interrupt is not None:
            raise interrupt
        if kind is None and self._error is not None:
            raise self._error

    def _wait(self) -> BaseException | None:
        """Wait until all items are consumed. If an exception comes meanwhile, return it."""
        try:
            self._done.wait()
        except BaseException as error:
            return error
        return None

    def _work(self) -> None:
        try:
            for item in self._channel:
                self._consume(item)
        except BaseException as error:
            self._error = error
            self._channel.close()
            if self._on_error is not None:
                self._on_error(error)
        finally:
            self._done.set()
