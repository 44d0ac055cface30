"""mAP of slow, medium and fast objects: against a count of its own, written from the published evaluation's loops."""

import numpy as np
import pytest
from box_videos import LENGTHS, OBJECTS, box, write_videos
from test_average_precision import made_up

from accel.datasets.imagenet_vid import ImageNetVid
from accel.datasets.with_motion import WithMotion
from accel.measures.average_precision import AveragePrecision
from accel.measures.motion_precision import GROUPS, MotionPrecision, groups_of

LIMITS = {"slow": lambda m: m > 0.9, "medium": lambda m: 0.7 <= m <= 0.9, "fast": lambda m: m < 0.7}


def overlap(a, b):
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) + 1 for i in (0, 1))
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((x[2] - x[0] + 1) * (x[3] - x[1] + 1) for x in (a, b))
    return width * height / (areas - width * height)


def plain_count(frames, detections, truth, motion, k, group):
    """AP of a class and a group, loop by loop. truth: rows (frame, class, box), motion: of each row."""
    within = LIMITS[group]
    share = sum(map(within, motion)) / len(motion)
    counted = []
    for frame in frames:
        true = [(row[1], row[2:], within(m)) for row, m in zip(truth.tolist(), motion, strict=True) if row[0] == frame]
        taken = set()
        for _, of, score, *seen in sorted(detections[detections[:, 0] == frame].tolist(), key=lambda r: -r[2]):
            best, chosen, most_in, most_out = -1.0, None, -1.0, -1.0
            for n, (true_class, corners, is_within) in enumerate(true):
                shared = overlap(seen, corners)
                w, h = corners[2] - corners[0] + 1, corners[3] - corners[1] + 1
                enough = shared >= min(0.5, w * h / ((w + 10) * (h + 10)))
                if enough and shared > best and n not in taken and true_class == of:
                    best, chosen = shared, n
                if is_within:
                    most_in = max(most_in, shared)
                else:
                    most_out = max(most_out, shared)
            right = wrong = 0.0
            if chosen is not None:
                taken.add(chosen)
                right = float(true[chosen][2])
            elif most_in != most_out:
                wrong = float(most_in > most_out)
            elif true:
                wrong = sum(not each[2] for each in true) / len(true)
            else:
                wrong = share
            if of == k:
                counted.append((score, right, wrong))
    total = sum(row[1] == k and within(m) for row, m in zip(truth.tolist(), motion, strict=True))
    if not total:
        return np.nan
    curve, hits, misses = [], 0.0, 0.0
    for _, right, wrong in sorted(counted, key=lambda c: -c[0]):
        hits, misses = hits + right, misses + wrong
        curve.append((hits / total, hits / max(hits + misses, np.finfo(float).eps)))
    area, before = 0.0, 0.0
    for recall in sorted({r for r, _ in curve}):
        area += (recall - before) * max(p for r, p in curve if r >= recall)
        before = recall
    return area


@pytest.mark.parametrize("seed", range(3))
def test_it_is_that_of_another_count(seed):
    detections, truth = made_up(seed)
    truth = truth[truth[:, 0] != 7]  # a frame without boxes, whose detections count by the share of the group
    motion = np.random.default_rng(seed).uniform(0.5, 1, len(truth))
    motion[:2] = 0.7, 0.9
    parts = [MotionPrecision(4), MotionPrecision(4)]
    for frame in range(25):
        found, true = detections[detections[:, 0] == frame], truth[:, 0] == frame
        of = truth[true, 1].astype(int) - 1
        counts = AveragePrecision(4)
        matches = counts.update(found[:, 3:], found[:, 2], found[:, 1].astype(int) - 1, truth[true, 2:], of)
        parts[frame % 2].update(matches, of, motion[true], f"{frame:02d}")
    both = parts[1] + parts[0]
    for group, found in both.of_classes().items():
        expected = [plain_count(range(25), detections, truth, motion, k, group) for k in range(1, 5)]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
        assert both.means()[group] == pytest.approx(np.nanmean(expected)) and 0 < np.nanmean(expected) < 1
    assert both.true.sum() == len(truth)


def test_the_limits_belong_to_the_middle():
    assert [GROUPS[k] for k in groups_of(np.array([0.95, 0.9, 0.8, 0.7, 0.69, 0]))] == [
        "slow", "medium", "medium", "medium", "fast", "fast",
    ]  # fmt: skip


def test_the_motion_of_objects_is_that_of_their_boxes(tmp_path):
    dataset = WithMotion(ImageNetVid(write_videos(tmp_path), "VID_val_videos"))
    index = 0
    seen = set()
    for video, length in LENGTHS.items():
        for number in range(length):
            clip = dataset.clip(index, 1)
            index += 1
            expected = []
            for _, left, top, speed, there in OBJECTS[video]:
                if number not in there:
                    continue
                own = np.clip(box(left, top, speed, number), 0, [71, 47, 71, 47])
                others = [
                    np.clip(box(left, top, speed, n), 0, [71, 47, 71, 47])
                    for n in there
                    if n != number and abs(n - number) <= 10
                ]
                expected.append(np.mean([overlap(own, other) for other in others]))
            np.testing.assert_allclose(clip.motion, expected, atol=1e-6)
            seen |= {GROUPS[k] for k in groups_of(clip.motion)}
    assert seen == set(GROUPS)


def test_an_object_that_is_seen_once_is_fast_as_published(tmp_path):
    root = write_videos(tmp_path)
    path = root / "Annotations/VID/val/b/000008.xml"
    path.write_text(path.read_text().replace("<trackid>0<", "<trackid>9<"))
    dataset = ImageNetVid(root, "VID_val_videos")
    assert dataset.box_motion(len(dataset) - 1, (48, 72)).tolist() == [0]


def test_data_without_tracks_are_told():
    from box_films import BoxFilms

    with pytest.raises(ValueError, match="BoxFilms: does not tell which boxes are of one object"):
        WithMotion(BoxFilms(range(3)))
