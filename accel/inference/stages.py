"""The stages of a stream that run beside the model, each in a thread of its own, with bounded queues between them."""

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
    """Items from one thread to another, in order. Where `capacity` of them wait, the sender waits, too.

    The receiver iterates. Either side may end it: `finish` is the sender's word, `close` the receiver's.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self._waiting: deque[T] = deque()
        self._changed = threading.Condition()
        self._finished = False
        self._closed = False
        self._error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Send an item; False if nobody receives any more.

        An exception while it waits for room, Ctrl-C say, sends the item all the same: it was made.
        """
        with self._changed:
            try:
                self._changed.wait_for(lambda: self._closed or len(self._waiting) < self.capacity)
            except BaseException:
                self._add(item)
                raise
            return self._add(item)

    def finish(self, error: BaseException | None = None) -> None:
        """No more will be sent: the receiver gets what waits, and then this error or the end."""
        with self._changed:
            if not self._finished:
                self._finished, self._error = True, error
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """The receiver gets this error at once, and nothing after it."""
        with self._changed:
            self._waiting.clear()
            self._closed = self._finished = True
            self._error = error
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody receives any more: a waiting sender is let go, and what waits is dropped."""
        with self._changed:
            self._waiting.clear()
            self._closed = self._finished = True
            self._changed.notify_all()

    def has_waiting(self) -> bool:
        """Whether the receiver would get an item at once."""
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
    """A channel whose sender never waits: a newer item takes the place of one that has not been fetched."""

    def __init__(self) -> None:
        super().__init__(1)

    def put(self, item: T) -> bool:
        with self._changed:
            self._waiting.clear()
            return self._add(item)


class ReadAhead(Generic[T, U]):
    """Iterates over a source in a thread of its own, ahead of whoever iterates over this.

    source:  its iterator is made, used and closed in that thread.
    prepare: what is done there to each item; gets its number, from 0, and the item.
    channel: where what it gives waits.

    A context manager: the thread runs inside it and has ended after it. A source that then still waits for its next
    item, for more than `PATIENCE` seconds, is left to its thread with a warning.
    """

    def __init__(self, source: Iterable[T], prepare: Callable[[int, T], U], channel: Channel[U]):
        self._source, self._prepare, self._channel = source, prepare, channel
        self._thread = threading.Thread(target=self._read, name="accel-read", daemon=True)

    def __iter__(self) -> Iterator[U]:
        return self._channel

    def has_waiting(self) -> bool:
        """Whether the next item is there already."""
        return self._channel.has_waiting()

    def fail(self, error: BaseException) -> None:
        """End the iteration with this error at once, also where it waits for the source."""
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
                f"a source has not given its next frame for {PATIENCE:g} s since its stream ended: left to its thread",
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
    """Hands items to `consume` in a thread of its own, in order, so that who makes them can go on making more.

    consume:  called with one item after another.
    waiting:  how many items may wait for it; `put` waits for room.
    on_error: called with what `consume` raises, in its thread, at once.

    A context manager: leaving it, also with an exception, waits until all items are consumed. A first exception while
    it waits, Ctrl-C say, is raised after that. A second one drops all items but the one in work; the exception that the
    context was left with counts as the first. What `consume` raises is raised by the next `put`, or on leaving.
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
        """Until all is consumed, or an exception comes, which is returned."""
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
