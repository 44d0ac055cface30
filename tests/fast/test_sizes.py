"""What is kept for each frame size."""

import threading
import warnings

import pytest

from accel.fast.sizes import BySize


def test_the_size_used_least_recently_goes():
    made = []
    kept = BySize(lambda size: made.append(size) or f"for {size}", 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [kept[1, 1], kept[2, 2], kept[1, 1], kept[3, 3]] == [
            "for (1, 1)",
            "for (2, 2)",
            "for (1, 1)",
            "for (3, 3)",
        ]
    assert kept.sizes() == [(1, 1), (3, 3)] and made == [(1, 1), (2, 2), (3, 3)]
    with pytest.warns(RuntimeWarning, match=r"more sizes than are kept ready \(2\): 2x2 is prepared again"):
        assert kept[2, 2] == "for (2, 2)"
    assert kept.sizes() == [(3, 3), (2, 2)]


def test_threads_make_each_size_once():
    made, both = [], threading.Barrier(2)
    kept = BySize(lambda size: made.append(size) or object(), 2)
    found = []

    def ask():
        both.wait()
        found.append(kept[4, 4])

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [(4, 4)] and found[0] is found[1]
