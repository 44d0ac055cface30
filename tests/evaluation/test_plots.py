"""The plots show the results, and their letters can be read."""

from dataclasses import replace

import numpy as np
import pytest
from films import Films, Forgetful, Teller
from matplotlib.text import Text

from accel.evaluation.report import plots
from accel.evaluation.results import SweepResult
from accel.evaluation.running.evaluator import compare

NAMES = ("one", "an other", "forgetful")


@pytest.fixture(scope="module")
def sweep():
    dataset = Films(range(8))
    models = dict(zip(NAMES, (Teller(), Teller(), Forgetful()), strict=True))
    found = compare(models, dataset, (1, 3), workers=0, quiet=True)
    return SweepResult("films", "val", dataset.class_names, ((1, 2, 3),) * 5, (1, 3), found)


def lines(axes):
    """(colour, x, y) of the lines that join points."""
    return [(line.get_color(), *line.get_data()) for line in axes.lines if line.get_linestyle() == "-"]


def letters(axes):
    return [text for text in axes.texts if text.get_text() in NAMES]


def test_models_stand_where_their_accuracy_and_speed_are(sweep):
    (axes,) = plots._accuracy_speed(sweep).axes
    for (colour, x, y), (name, results) in zip(lines(axes), sweep.models.items(), strict=True):
        results = results[:1] if name == "forgetful" else results
        assert colour == plots.colours(NAMES)[name]
        assert list(x) == pytest.approx([1000 / r.fps for r in results])
        assert list(y) == pytest.approx([100 * r.mean for r in results])


def test_points_have_their_intervals_and_models_without_memory_one_for_all(sweep):
    (axes,) = plots._accuracy_speed(sweep).axes
    numbers = [text.get_text() for text in axes.texts if text.get_text() not in NAMES]
    assert numbers == ["1", "3", "1", "3", "1+"]


@pytest.mark.parametrize("shift", [0.0, 0.001, 0.02])
def test_names_do_not_cover_each_other(sweep, shift):
    """Even where all models are equally fast and all but equally accurate."""
    first = sweep.models["one"]
    near = {n: tuple(replace(r, mean=r.mean + i * shift) for r in first) for i, n in enumerate(NAMES)}
    longest = {n: replace(first[-1], by_distance=first[-1].by_distance) for n in NAMES}
    for figure in (plots._accuracy_speed(replace(sweep, models=near)), plots._distance(longest)):
        figure.draw_without_rendering()
        (axes,) = figure.axes
        boxes = [Text.get_window_extent(text) for text in letters(axes)]  # without the line that leads there
        assert len(boxes) == 3
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])


def test_curves_over_distance_have_every_distance(sweep):
    (axes,) = plots._distance({name: results[-1] for name, results in sweep.models.items()}).axes
    for (_, x, y), results in zip(lines(axes), sweep.models.values(), strict=True):
        assert list(x) == [0, 1, 2]
        assert y == pytest.approx([100 * a.miou for a in results[-1].by_distance.values()])


def test_the_confusion_matrix_has_shares_of_the_true_class(sweep):
    result = sweep.models["one"][-1]
    shares = plots._confusion(result, sweep.class_names).axes[0].images[0].get_array()
    counts = np.array(result.accuracy.confusion)
    assert np.allclose(shares[:4], 100 * counts[:4] / counts[:4].sum(1, keepdims=True))
    assert np.ma.getmaskarray(shares)[4].all()  # class e is nowhere


def test_a_difference_of_chance_looks_small(sweep):
    """An axis of accuracy spans four percentage points, at least."""
    result = sweep.models["one"][-1]
    same = {d: replace(a, miou=0.5 + 0.0001 * d) for d, a in result.by_distance.items()}
    low, high = plots._distance({"one": replace(result, by_distance=same)}).axes[0].get_ylim()
    assert high - low >= 4 and low < 50 < high


def test_what_touches_is_moved_apart_in_its_order():
    assert plots._moved_apart([1, 5, 1.5], 1) == pytest.approx([1 - 1 / 6, 5 - 1 / 6, 2 - 1 / 6])
    assert plots._moved_apart([3, 1], 1) == [3, 1]


def test_the_same_results_make_the_same_files(sweep):
    first, second = plots.draw_plots(sweep), plots.draw_plots(sweep)
    assert [*first] == ["accuracy_speed", "distance", "classes", "confusion"]
    assert all(first[name].svg == second[name].svg and first[name].png == second[name].png for name in first)


@pytest.mark.parametrize("name", ["_x", r"a$\\foo$"])
def test_any_name_stands_in_the_legend_of_classes(sweep, name):
    longest = {name: sweep.models["one"][-1], "an other": sweep.models["an other"][-1]}
    figure = plots._classes(longest, sweep.class_names)
    figure.canvas.draw()
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 2
