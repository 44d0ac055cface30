import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from accel.datasets.camvid import CamVid
from accel.datasets.cityscapes import Cityscapes
from accel.datasets.clips import collate
from accel.datasets.sampling import StepSampler, TrainingClips, init_worker
from accel.datasets.transforms import ClipTransform


def transform():
    return ClipTransform(crop=(32, 48), scale=(0.5, 2.0), flip=0.5, colour=0.3, blur=0.3, noise=0.3)


@pytest.fixture
def clips(tiny_cityscapes):
    return TrainingClips(Cityscapes(tiny_cityscapes, "train"), length=3, transform=transform(), seed=7)


def same(a, b):
    return a.name == b.name and np.array_equal(a.frames, b.frames) and np.array_equal(a.labels, b.labels)


def test_each_epoch_shows_every_clip_once_in_another_order(clips):
    names = [[clips[epoch * 4 + i].name for i in range(4)] for epoch in range(8)]
    assert all(len(set(epoch)) == 4 for epoch in names)
    assert len({tuple(epoch) for epoch in names}) > 1


def test_a_sample_is_a_function_of_seed_and_number(tiny_cityscapes, clips):
    dataset = Cityscapes(tiny_cityscapes, "train")
    again = TrainingClips(dataset, 3, transform(), seed=7)
    other = TrainingClips(dataset, 3, transform(), seed=8)
    assert all(same(clips[i], again[i]) for i in (11, 2, 5))
    assert not all(same(clips[i], other[i]) for i in range(4))


def test_a_clip_looks_different_in_the_next_epoch(clips):
    first = {clips[i].name: clips[i] for i in range(4)}
    assert not any(same(clips[i], first[clips[i].name]) for i in range(4, 8))


@pytest.mark.parametrize("start_method", [None, "spawn"])
def test_workers_change_nothing(clips, start_method):
    def batches(**options):
        sampler = StepSampler(3, 6, batch_size=3)
        return list(DataLoader(clips, batch_sampler=sampler, collate_fn=collate, **options))

    alone = batches()
    workers = 1 if start_method == "spawn" else 2  # one takes seconds to start
    helped = batches(num_workers=workers, worker_init_fn=init_worker, multiprocessing_context=start_method)
    assert len(alone) == len(helped) == 3
    for a, b in zip(alone, helped, strict=True):
        assert a.names == b.names
        assert torch.equal(a.frames, b.frames) and torch.equal(a.labels, b.labels)
    assert alone[0].frames.shape == (3, 3, 3, 32, 48)


def test_labelled_frames_without_enough_history_are_left_out(tiny_camvid):
    val = TrainingClips(CamVid(tiny_camvid, "val"), length=4)
    assert len(val) == 3
    assert {val[i].name for i in range(3)} == {"0016E5_07965", "0016E5_07967", "0016E5_07969"}
    assert val[0].frames.shape == (4, 36, 48, 3)


def test_no_clip_of_that_length_is_an_error_with_the_longest(tiny_camvid):
    with pytest.raises(ValueError, match=r"no clip of 5 frames: none of the 3 .* longest possible clip has 1"):
        TrainingClips(CamVid(tiny_camvid, "train"), length=5)
    with pytest.raises(ValueError, match="at least one frame"):
        TrainingClips(CamVid(tiny_camvid, "train"), length=0)


def test_a_damaged_file_is_named_with_its_sample(clips):
    for path in clips.dataset.root.glob("leftImg8bit_sequence/train/ulm/*000097*"):
        path.write_bytes(path.read_bytes()[:100])
    for path in clips.dataset.root.glob("leftImg8bit_sequence/train/ulm/*000202*"):
        path.unlink()
    errors = []
    for number in range(4):
        try:
            clips[number]
        except (ValueError, FileNotFoundError) as error:
            errors.append((type(error), number, str(error)))
    assert {kind for kind, _, _ in errors} == {ValueError, FileNotFoundError}
    for kind, number, message in errors:
        assert f"training sample {number} " in message
        assert ("000097" if kind is ValueError else "000202") in message


def test_steps_take_consecutive_numbers_each_process_its_own():
    def numbers(rank):
        return list(StepSampler(5, 8, batch_size=2, rank=rank, world_size=3))

    assert numbers(0) == [[30, 31], [36, 37], [42, 43]]
    together = sorted(n for rank in range(3) for batch in numbers(rank) for n in batch)
    assert together == list(range(30, 48))
    assert len(StepSampler(5, 8, 2)) == 3


def test_resuming_takes_the_numbers_that_were_left():
    whole = list(StepSampler(0, 10, 4))
    assert list(StepSampler(0, 6, 4)) + list(StepSampler(6, 10, 4)) == whole
    assert list(StepSampler(10, 10, 4)) == []


@pytest.mark.parametrize("wrong", [(3, 2, 1), (-1, 2, 1), (0, 2, 0), (0, 2, 1, 1, 1), (0, 2, 1, -1, 1)])
def test_impossible_steps_are_refused(wrong):
    with pytest.raises(ValueError):
        StepSampler(*wrong)


def test_samples_are_numbered_from_zero(clips):
    with pytest.raises(IndexError):
        clips[-1]
