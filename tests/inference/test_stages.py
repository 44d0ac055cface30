"""Stages in threads of their own: order, back-pressure, and that nothing is left running however they end."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from accel.inference import stages
from accel.inference.stages import Channel, Consumer, NewestOnly, ReadAhead

SOON = 20  # seconds: what should come at once has come by then, on a busy machine, too


class MishapError(Exception):
    pass


@pytest.fixture(autouse=True)
def every_thread_ends():
    before = set(threading.enumerate())
    yield
    left = set(threading.enumerate()) - before
    assert not left, left


def read_ahead(source, channel=None):
    return ReadAhead(source, lambda number, item: (number, item), channel or Channel(2))


class Source:
    """Counts what it has given, and knows whether it was closed."""

    def __init__(self, count=None, fails_at=None):
        self.count, self.fails_at, self.given, self.closed = count, fails_at, 0, False

    def __iter__(self):
        try:
            while self.count is None or self.given < self.count:
                if self.given == self.fails_at:
                    raise MishapError
                self.given += 1
                yield self.given - 1
        finally:
            self.closed = True


# Reading ahead


@pytest.mark.parametrize("capacity", [1, 2, 50])
def test_items_come_in_order_with_their_numbers(capacity):
    with read_ahead("abcdefghij" * 20, Channel(capacity)) as items:
        assert list(items) == list(enumerate("abcdefghij" * 20))
        assert list(items) == []


def test_items_are_prepared_in_the_reading_thread():
    with ReadAhead("ab", lambda *_: threading.current_thread().name, Channel(2)) as items:
        assert list(items) == ["accel-read", "accel-read"]


def test_reading_waits_for_who_falls_behind():
    source, most = Source(40), 0
    with read_ahead(source, Channel(3)) as items:
        for taken, _ in enumerate(items, 1):
            time.sleep(0.003)
            most = max(most, source.given - taken)
    assert source.given == 40
    assert 2 <= most <= 4  # what waits, and one that waits to be put there


@pytest.mark.parametrize("fails_at", [0, 1, 7])
def test_what_the_source_raises_comes_after_what_it_gave(fails_at):
    source, taken = Source(fails_at=fails_at), []
    with pytest.raises(MishapError), read_ahead(source) as items:
        for number, _ in items:
            taken.append(number)
    assert taken == list(range(fails_at)) and source.closed


def test_what_preparing_raises_comes_too():
    def prepare(number, item):
        if number == 3:
            raise MishapError
        return number

    source, taken = Source(), []
    with pytest.raises(MishapError), ReadAhead(source, prepare, Channel(2)) as items:
        for number in items:
            taken.append(number)
    assert taken == [0, 1, 2] and source.closed


def test_a_source_that_cannot_be_iterated_is_told():
    with pytest.raises(TypeError, match="not iterable"), read_ahead(7) as items:
        next(iter(items))


@pytest.mark.parametrize("ending", [MishapError, KeyboardInterrupt, None])
def test_leaving_early_closes_an_endless_source(ending):
    source = Source()
    try:
        with read_ahead(source) as items:
            assert next(iter(items))[0] == 0
            if ending:
                raise ending
    except (MishapError, KeyboardInterrupt):
        pass
    assert source.closed


def test_an_iteration_that_waits_for_its_source_can_be_failed():
    release = threading.Event()

    def stalled():
        yield 0
        release.wait(SOON)

    with read_ahead(stalled()) as items:
        next(iter(items))
        threading.Timer(0.1, lambda: items.fail(MishapError())).start()
        start = time.monotonic()
        with pytest.raises(MishapError):
            next(iter(items))
        assert time.monotonic() - start < SOON / 2
        assert list(items) == []
        release.set()


def test_a_source_that_never_returns_is_left_with_a_warning(monkeypatch):
    monkeypatch.setattr(stages, "PATIENCE", 0.1)
    release = threading.Event()

    def stuck():
        yield 0
        release.wait(SOON)
        yield 1

    source = read_ahead(stuck())
    with pytest.warns(RuntimeWarning, match="has not given its next frame for 0.1 s"), source as items:
        next(iter(items))
    release.set()
    source._thread.join(SOON)


def test_an_abandoned_iteration_does_not_keep_the_interpreter_from_ending():
    """A thread that is at work while the interpreter shuts down can crash it; one that is waited for then, hang it."""
    code = """
from itertools import count
from accel.inference.stages import Channel, ReadAhead

def through(source):
    with source as items:
        yield from items

stream = through(ReadAhead(count(), lambda number, item: item, Channel(2)))
print(next(stream))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


# Only the newest


def test_only_the_newest_item_waits():
    channel = NewestOnly()
    for number in range(5):
        assert channel.put(number)
    assert channel.has_waiting()
    channel.finish()
    assert list(channel) == [4]


def test_a_source_is_never_held_up_where_only_the_newest_counts():
    source = Source(1000)
    with read_ahead(source, NewestOnly()) as items:
        deadline = time.monotonic() + SOON
        while not source.closed and time.monotonic() < deadline:
            time.sleep(0.01)
        assert source.given == 1000
        assert list(items) == [(999, 999)]


# Consuming


def test_items_are_consumed_in_order_and_all_of_them():
    consumed = []

    def consume(item):
        time.sleep(0.001)
        consumed.append((item, threading.current_thread().name))

    with Consumer(consume) as consumer:
        for item in range(50):
            consumer.put(item)
    assert consumed == [(item, "accel-consume") for item in range(50)]


def test_a_slow_consumer_holds_up_who_makes_the_items():
    consumed, most = 0, 0

    def consume(item):
        nonlocal consumed
        time.sleep(0.003)
        consumed += 1

    with Consumer(consume, waiting=3) as consumer:
        for made in range(1, 41):
            consumer.put(made)
            most = max(most, made - consumed)
    assert consumed == 40 and 2 <= most <= 5  # what waits, what is in work, and what has just been done


@pytest.mark.parametrize("last", [True, False])
def test_what_consuming_raises_is_raised_where_the_items_are_made(last):
    told = []

    def consume(item):
        if item == 3:
            raise MishapError(item)

    with pytest.raises(MishapError, match="3"), Consumer(consume, on_error=told.append) as consumer:
        for item in range(4 if last else 10_000):
            consumer.put(item)
    assert [str(error) for error in told] == ["3"]


@pytest.mark.parametrize("ending", [MishapError, KeyboardInterrupt])
def test_leaving_with_an_error_hands_on_what_waits(ending):
    consumed, begun, go_on = [], threading.Event(), threading.Event()

    def consume(item):
        begun.set()
        go_on.wait(SOON)
        consumed.append(item)

    with pytest.raises(ending), Consumer(consume) as consumer:
        for item in range(4):
            consumer.put(item)
        begun.wait(SOON)
        threading.Timer(0.1, go_on.set).start()
        raise ending
    assert consumed == [0, 1, 2, 3]


def test_an_interrupt_while_what_waits_is_handed_on_drops_the_rest():
    consumed, begun, go_on = [], threading.Event(), threading.Event()

    def consume(item):
        begun.set()
        go_on.wait(SOON)
        consumed.append(item)

    with pytest.raises(KeyboardInterrupt), Consumer(consume) as consumer:
        for item in range(4):
            consumer.put(item)
        begun.wait(SOON)
        main = threading.main_thread().ident
        timers = [threading.Timer(0.2, signal.pthread_kill, [main, signal.SIGINT]), threading.Timer(0.6, go_on.set)]
        for timer in timers:
            timer.start()
        raise MishapError
    assert consumed == [0]  # to its end
    for timer in timers:
        timer.join()


def interrupted_after(seconds, also=()):
    """Ctrl-C after so many seconds, and what else is to happen, as (seconds, call): timers that have begun."""
    main = threading.main_thread().ident
    timers = [threading.Timer(seconds, signal.pthread_kill, [main, signal.SIGINT])]
    timers += [threading.Timer(*each) for each in also]
    for timer in timers:
        timer.start()
    return timers


def test_a_first_interrupt_while_what_waits_is_handed_on_drops_nothing():
    consumed, go_on = [], threading.Event()

    def consume(item):
        go_on.wait(SOON)
        consumed.append(item)

    with pytest.raises(KeyboardInterrupt), Consumer(consume) as consumer:
        for item in range(4):
            consumer.put(item)
        timers = interrupted_after(0.2, [(0.6, go_on.set)])
    assert consumed == [0, 1, 2, 3]
    for timer in timers:
        timer.join()


def test_an_item_that_waits_for_room_is_not_lost_by_an_interrupt():
    consumed, go_on = [], threading.Event()

    def consume(item):
        go_on.wait(SOON)
        consumed.append(item)

    made = []
    with pytest.raises(KeyboardInterrupt), Consumer(consume, waiting=2) as consumer:
        timers = interrupted_after(0.2, [(0.6, go_on.set)])
        for item in range(100):
            made.append(item)
            consumer.put(item)
    assert consumed == made and 2 < len(made) < 100
    for timer in timers:
        timer.join()


def test_nothing_is_consumed_outside_the_context():
    with Consumer(print) as consumer:
        pass
    with pytest.raises(ValueError, match="inside the context only"):
        consumer.put(1)
