"""DIS flow in place of a flow network, by pictures that are known to move."""

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch
from processes import run_code

from accel.config import load_config
from accel.models import Accel, DeepFeatureFlow, DenseInverseSearch, FlowNetS, build_model
from accel.models.images import subtract_mean
from accel.models.propagation.classical_flow import PRESETS, PixelSearch

SIZE = (128, 192)


def texture(seed=0):
    """(3, H, W) uint8 with structure at several scales."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(1, 3, *SIZE)
    for cells in (4, 8, 16, 32):
        coarse = torch.rand(1, 3, cells, cells, generator=generator)
        total += torch.nn.functional.interpolate(coarse, SIZE, mode="bicubic", align_corners=False)
    return (total[0] * 255 / 4).clamp(0, 255).to(torch.uint8)


def moved(image, dx, dy):
    return image.roll((dy, dx), (1, 2))


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (8, 0), (-4, 6)])
def test_a_shift_is_found_in_cells(dx, dy):
    previous = texture()
    current = moved(previous, dx, dy)
    flow = DenseInverseSearch()(subtract_mean(current[None]), subtract_mean(previous[None]))
    assert flow.shape == (1, 2, 8, 12) and flow.dtype == torch.float32
    inner = flow[0, :, 2:-2, 2:-2]
    expected = torch.tensor([-dx / 16, -dy / 16]).view(2, 1, 1).expand_as(inner)
    torch.testing.assert_close(inner, expected, atol=0.02, rtol=0)  # a third of a pixel


def test_every_pair_of_a_batch_has_its_own_flow():
    first, second = texture(1), texture(2)
    current = torch.stack([moved(first, 6, 0), second])
    flow = DenseInverseSearch()(subtract_mean(current), subtract_mean(torch.stack([first, second])))
    assert flow[0, 0, 2:-2, 2:-2].mean().item() == pytest.approx(-6 / 16, abs=0.02)
    assert flow[1].abs().max() < 0.02


@pytest.mark.parametrize("size", [(50, 70), (33, 17)])
def test_cells_cover_frames_of_any_size(size):
    frames = torch.zeros(1, 3, *size)
    assert DenseInverseSearch("fast")(frames, frames).shape == (1, 2, -(-size[0] // 16), -(-size[1] // 16))


SMALL = """
import cv2, sys
import numpy as np
from accel.models.propagation.classical_flow import PixelSearch

noise = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (500, 500)).astype(np.uint8), (0, 0), 2)
picture = cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX)
for size in sys.argv[2:]:
    height, width = map(int, size.split("x"))
    now, before = (np.ascontiguousarray(picture[9 : 9 + height, x : x + width]) for x in (10, 9))
    flow = PixelSearch(sys.argv[1])(now, before)
    assert flow.shape == (height, width, 2), size
    assert np.isfinite(flow).all() and np.abs(flow).max() < 32, (size, np.abs(flow).max())
    if min(height, width) >= 15:
        assert np.abs(np.median(flow, (0, 1)) - (1, 0)).max() < 0.5, (size, np.median(flow, (0, 1)))
"""


@pytest.mark.parametrize("preset", PRESETS)
def test_frames_too_small_for_opencv_have_a_flow(tmp_path, preset):
    """In a process of its own: without the border that makes them larger, OpenCV ends it."""
    sides = (
        (15, 64),
        (24, 200),
        (20, 480),
        (16, 480),
        (31, 96),
        (8, 48),
        (9, 200),
        (12, 320),
        (1, 1),
        (1, 480),
        (33, 33),
    )
    sizes = [f"{height}x{width}" for a, b in sides for height, width in ((a, b), (b, a))]
    done = run_code(SMALL, tmp_path, preset, *sizes)
    assert done.process.exitcode == 0, (done.process.exitcode, done.errors)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_small_frame_changes_nothing_for_the_next_one(preset):
    first = texture().numpy()[0]
    second = np.roll(first, 3, 1)
    used = PixelSearch(preset)
    used(first[:40, :60].copy(), second[:40, :60].copy())
    assert np.array_equal(used(second, first), PixelSearch(preset)(second, first))


def test_a_thread_makes_one_search_and_no_other_thread_uses_it(monkeypatch):
    made = []
    create = cv2.DISOpticalFlow_create

    class Search:
        def __init__(self, preset):
            self.search, self.thread = create(preset), threading.get_ident()
            made.append(self)

        def calc(self, *frames):
            assert threading.get_ident() == self.thread
            return self.search.calc(*frames)

    first, second = subtract_mean(texture(1)[None]), subtract_mean(texture(2)[None])
    shifted = subtract_mean(moved(texture(1), 6, 0)[None])
    expected = [DenseInverseSearch()(shifted, first), DenseInverseSearch()(second, first)]
    monkeypatch.setattr(cv2, "DISOpticalFlow_create", Search)
    flow = DenseInverseSearch()
    together = threading.Barrier(3)

    def label():
        together.wait(60)  # all three are alive at a time, so that no two have one name
        return [flow(now, first) for _ in range(3) for now in (shifted, second)]

    with ThreadPoolExecutor(3) as threads:
        results = [threads.submit(label) for _ in range(3)]
    for result in results:
        for got, wanted in zip(result.result(), expected * 3, strict=True):
            assert torch.equal(got, wanted)
    assert len(made) == 3


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda flow: pickle.loads(pickle.dumps(flow))])
def test_a_search_that_was_used_can_be_copied(copied):
    frames = [subtract_mean(texture(seed)[None]) for seed in (1, 2)]
    flow = DenseInverseSearch("fast")
    expected = flow(*frames)
    other = copied(flow)
    assert other.preset == other.search.preset == "fast"
    assert torch.equal(other(*frames), expected)
    assert torch.equal(flow(*frames), expected)


@pytest.fixture
def usual_threads():
    """OpenCV has three threads, which is not what PyTorch has."""
    before = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(3)
    torch.set_num_threads(2)
    yield 3
    cv2.setNumThreads(before[0])
    torch.set_num_threads(before[1])


@pytest.mark.parametrize("fails", [False, True])
def test_opencv_has_as_many_threads_as_pytorch_and_then_its_own_again(usual_threads, monkeypatch, fails):
    seen = []

    class Search:
        def calc(self, now, before, flow):
            seen.append(cv2.getNumThreads())
            if fails:
                raise cv2.error("no")
            return np.zeros((*now.shape, 2), np.float32)

    monkeypatch.setattr(cv2, "DISOpticalFlow_create", lambda preset: Search())
    frames = torch.zeros(2, 3, *SIZE)
    try:
        DenseInverseSearch()(frames, frames)
    except cv2.error:
        assert fails
    assert seen == ([2] if fails else [2, 2]) and cv2.getNumThreads() == usual_threads


def test_the_last_of_several_at_once_gives_opencv_its_own_threads_again(usual_threads, monkeypatch):
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))

    class Search:
        def calc(self, now, before, flow):
            if threading.current_thread().name == "first":
                first_is_in.set()
                assert second_is_in.wait(60)
            else:
                second_is_in.set()
                assert first_is_out.wait(60)
            return np.zeros((*now.shape, 2), np.float32)

    monkeypatch.setattr(cv2, "DISOpticalFlow_create", lambda preset: Search())
    search, frame = PixelSearch(), np.zeros(SIZE, np.uint8)

    def run(threads):
        torch.set_num_threads(threads)  # every thread of Python has its own number
        search(frame, frame)

    first, second = (threading.Thread(target=run, args=(n,), name=name) for n, name in ((2, "first"), (4, "second")))
    first.start()
    assert first_is_in.wait(60)
    second.start()
    first.join()
    first_is_out.set()
    second.join()
    assert cv2.getNumThreads() == usual_threads


def model(tmp_path, flow, name="accel"):
    path = tmp_path / "model.yaml"
    path.write_text(
        f"model: {{name: {name}, num_classes: 3, reference: {{encoder: tu-test_resnet, head_channels: 8}}, flow: {flow}"
        + (", update: {encoder: tu-test_resnet, head_channels: 8}}" if name == "accel" else "}")
        + "\ndata: {name: camvid}\ntrain: {steps: 1, batch_size: 1, optimizer: {name: sgd, lr: 1}}\n"
    )
    torch.manual_seed(0)
    return build_model(load_config(path).model).eval()


@pytest.mark.parametrize(("name", "kind"), [("accel", Accel), ("deep_feature_flow", DeepFeatureFlow)])
def test_one_line_of_the_configuration_chooses_the_flow(tmp_path, name, kind):
    built = model(tmp_path, "{name: dis, preset: fast}", name)
    assert isinstance(built, kind) and built.propagation.flow.preset == "fast"
    assert not list(built.propagation.parameters())
    assert isinstance(model(tmp_path, "{width: 0.1}", name).propagation.flow, FlowNetS)


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        ("{name: raft}", "model.flow.name: unknown 'raft'; there are 'flownet_s', 'dis'"),
        ("{name: dis, width: 0.5}", "model.flow: unknown key 'width'; known: name, preset"),
        ("{name: dis, preset: slow}", r"model.flow.preset: .*'ultrafast', 'fast' or 'medium'.*got 'slow'"),
    ],
)
def test_a_wrong_flow_is_told(tmp_path, flow, message):
    with pytest.raises(ValueError, match=message):
        model(tmp_path, flow)


@torch.no_grad()
def test_optimised_models_keep_their_classical_flow(tmp_path):
    accel = model(tmp_path, "{name: dis}")
    fast = accel.optimized(SIZE, torch.float32, compile=False)
    first, second = texture()[None], moved(texture(), 8, 0)[None]
    results = []
    for m in (accel, fast):
        _, state = m.key_frame(first)
        results.append(m.next_frame(second, state)[0].scores)
    torch.testing.assert_close(results[1], results[0], atol=1e-4, rtol=1e-3)
