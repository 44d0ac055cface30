"""Models in eight bits: nearly the labels of the float model, or refused."""

import numpy as np
import pytest
import torch
from small_models import SIZE, enlivened, small

from accel.fast.eight_bits import Calibration, has_dot_products
from accel.fast.engines import installed
from accel.fast.kept import Kept


def frames(count, size=SIZE):
    """A smooth picture that moves."""
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]]
    waves = [127 + 120 * np.sin((rows + 2 * columns + 5 * t)[..., None] / (7, 11, 13)) for t in range(count)]
    return [wave.astype(np.uint8) for wave in waves]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dtype": torch.int8}, "go together"),
        ({"calibration": frames(6)}, "go together"),
        ({"dtype": torch.int8, "calibration": frames(4)}, "calibration: 4 frames; expected 5 or more"),
        ({"dtype": torch.int8, "calibration": [np.zeros((4, 4))] * 5}, "frame 0: float64 .4, 4.; expected uint8"),
        ({"dtype": torch.int8, "calibration": [None] * 5}, "frame 0: NoneType; expected uint8"),
    ],
)
def test_eight_bits_without_fitting_frames_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        small("accel").optimized(SIZE, **settings)


def test_without_its_tools_the_user_hears_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"openvino and nncf: pip install 'accel-vss\[openvino\]'"):
        small("accel").optimized(SIZE, torch.int8, calibration=frames(6), engine="auto")


def test_weights_have_seven_bits_where_sums_would_overflow(monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert not has_dot_products()


def test_frames_are_brought_to_the_size_of_the_model_and_some_are_held_back():
    calibration = Calibration(frames(10, (20, 30)))
    used, held = list(calibration.images((8, 12), False)), list(calibration.images((8, 12), True))
    assert (len(used), len(held)) == (8, 2) and {image.shape for image in used + held} == {(1, 3, 8, 12)}
    assert calibration.digest() != Calibration(frames(11, (20, 30))).digest()


@pytest.mark.slow
def test_a_model_in_eight_bits_gives_nearly_the_same_labels(tmp_path, monkeypatch):
    """It is kept with the frames that it was calibrated with."""
    if "openvino" not in installed():
        pytest.skip("needs openvino and nncf")
    monkeypatch.setenv("ACCEL_CACHE", str(tmp_path))
    model, video = enlivened(small("accel")), frames(12)

    def labels(model):
        prediction, state = model.key_frame(torch.from_numpy(video[0]).permute(2, 0, 1)[None])
        after, _ = model.next_frame(torch.from_numpy(video[1]).permute(2, 0, 1)[None], state)
        return torch.stack([each.at(SIZE).labels for each in (prediction, after)])

    with torch.inference_mode():
        fast = model.optimized(SIZE, torch.int8, parts=2, engine="openvino", calibration=video, accept_loss=True)
        assert fast.same_labels > 0.9
        assert (labels(fast) == labels(model)).float().mean() > 0.9
        assert any("int8" in entry.about for entry in Kept(tmp_path).entries())
        again = model.optimized(SIZE, torch.int8, parts=2, engine="openvino", calibration=video, accept_loss=True)
        assert torch.equal(labels(again), labels(fast))
        monkeypatch.setattr("accel.models.video_model.LEAST", 1.01)
        with pytest.raises(ValueError, match="of the labels are those of the float model; expected 101% or more"):
            model.optimized(SIZE, torch.int8, engine="openvino", calibration=video)
