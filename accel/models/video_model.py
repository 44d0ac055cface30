"""The interface of all video models, and how a model is optimised for the frame sizes that come."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from accel.devices import choose_device
from accel.fast.compilation import Memory
from accel.fast.eight_bits import LEAST, Calibration
from accel.fast.preparation import Preparation, Settings
from accel.fast.sizes import BySize
from accel.models.prediction import Prediction
from accel.playing.player import Player
from accel.playing.schedules import FixedInterval, KeyFramesAt


class VideoModel(nn.Module, ABC):
    """A model that processes videos frame by frame.

    Frames are (B, 3, H, W), RGB, uint8 or float in 0..255. The result for a frame is a `Prediction`. Each model defines
    its own `state`, which is carried from frame to frame and may be None.

    task: the kind of prediction: a name in `accel.tasks.TASKS`.
    about: the description in the weights that the model was loaded from, if any. `save_pretrained` needs it.
    carries_state: whether the prediction for a frame depends on the frames before it. If not, callers need not run the
        model twice on one frame.
    """

    task = "segmentation"
    about: Any = None
    carries_state = True
    is_optimized = False  # whether `optimized` has made it
    _same_labels: float | None = None

    @property
    def remembers(self) -> bool:
        """True if a key frame within a video builds on the key frames before it, so that `key_frame` uses the given
        state."""
        return False

    @property
    def tells_freshness(self) -> bool:
        """True if predictions for current frames say how much of what was carried still holds, for `Adaptive`
        schedules."""
        return False

    @property
    def same_labels(self) -> float | None:
        """The share of the labels that the float model gives too, of a model that was just brought into eight bits.
        None for other models."""
        return self._same_labels

    @property
    def moves_on(self) -> bool:
        """Return whether features are carried from frame to frame, so that a state is good for the frame after it
        alone. Otherwise it is good for any frame that is compared with its key frame."""
        return False

    @abstractmethod
    def key_frame(self, image: Tensor, state: Any = None) -> tuple[Prediction, Any]:
        """Run the full model on this frame, without regard to time. Return the prediction and the new state.

        state: the state of the frame before, if the video continues. Models that remember earlier key frames build on
            them. None means a fresh start.
        """

    @abstractmethod
    def next_frame(self, image: Tensor, state: Any) -> tuple[Prediction, Any]:
        """Run the model, as fast as possible, on the frame after the one that gave `state`. Return the prediction and
        the new state."""

    def key_and_next_frames(self, images: Tensor, state: Any = None) -> tuple[Prediction, Any]:
        """Run the model on a key frame and the frames after it, (N, 3, H, W), in one batch. Return the prediction for
        all of them, and the state after the last one.

        The predictions are those of `key_frame` and `next_frame`, up to rounding. state: as in `key_frame`.

        Raises the error of `check_batches`.
        """
        self.check_batches()
        raise AssertionError(f"{type(self).__name__} takes batches, and does not say how")

    def check_batches(self) -> None:
        """Raise ValueError unless `key_and_next_frames` works. That needs a model in which no frame depends on the
        frames between it and the key frame, and that is not optimised."""
        raise ValueError(
            f"{type(self).__name__} takes frames one by one: in a batch, each frame needs to follow from its key frame "
            "alone"
        )

    def advance(self, image: Tensor, state: Any) -> Any:
        """Skip a frame whose prediction is not needed. Return the new state."""
        return self.next_frame(image, state)[1]

    def renew(self, state: Any, frames: int) -> Any:
        """Make the frame of `state` a key frame whose work is spread over the `frames` frames after it.

        Each following `next_frame` does one share of the work; the last of them switches to the new features. So no
        frame takes as long as a key frame, and the key frame's features come into use `frames` frames late. The shares
        are equal if the model was cut into as many parts (see `optimized`); otherwise the last one has all the work. A
        renewal that is still in progress is finished first, at once.

        Raises ValueError for models that cannot do this.
        """
        raise ValueError(f"{type(self).__name__} cannot spread a key frame's work over several frames")

    def constituents(self) -> dict[str, VideoModel]:
        """The simpler models within this one, by name, to compare it with. They share its layers. Empty for a model
        that has none."""
        return {}

    def check_spreads_key_frames(self) -> None:
        """Raise ValueError unless `renew` spreads a key frame's work in equal shares. The message names the call that
        helps."""
        raise ValueError(f"{type(self).__name__} cannot spread a key frame's work over several frames")

    @property
    def renews(self) -> bool:
        """True if this model can `renew`. Otherwise `renew` raises ValueError."""
        return type(self).renew is not VideoModel.renew

    def seen_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of the images that its networks see of frames of `size`, and that its states hold."""
        return size

    def prepare(self, size: tuple[int, int]) -> None:
        """Prepare for frames of `size` (H, W), if that takes time. Then no frame has to wait for it."""

    @property
    def device(self) -> torch.device:
        """The device of the model, where its frames have to be. A model without parameters, such as classical flow, is
        on the CPU."""
        here = next(chain(self.parameters(), self.buffers()), None)
        return torch.device("cpu") if here is None else here.device

    @torch.no_grad()
    def optimized(
        self,
        size: tuple[int, int] | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        compile: bool = True,
        parts: int = 1,
        sizes: int = 4,
        engine: str = "inductor",
        calibration: Sequence[np.ndarray] | None = None,
        accept_loss: bool = False,
        keep: bool = False,
    ) -> VideoModel:
        """Return a copy for inference on frames (1, 3, H, W) of one size, as fast as the machine allows. It has the
        same methods.

        size: (H, W) of the frames. None: the copy is prepared for each new size at its first key frame.
        dtype: the type of weights and features. The default is bfloat16 if the device computes it fast, otherwise
            float32. int8, on CPUs, brings the branches' networks into eight bits. The last layer, which makes scores,
            is always float32. Flow is computed in this type, or the default in place of int8; it is joined and applied
            in float32.
        device: where to run. The default is where the model is.
        compile: whether to compile. This takes some seconds for each network the first time on a machine. On a GPU, it
            makes CUDA graphs. Without it, or without a working compiler (a warning tells you), everything else is done
            all the same.
        parts: the number of parts of equal cost into which a key frame's work is cut, for `renew`.
        sizes: the number of sizes that are kept ready if `size` is None. Each takes as much memory as a model.
        engine: what compiles and runs the networks: "inductor" (PyTorch's own), "openvino" or "onnxruntime", which are
            packages of their own and run on CPUs. "auto" tries all that are installed, once for each machine, network
            and size, and takes the fastest.
        calibration: for int8, at least 5 frames of the kind to be labelled, (H, W, 3) uint8 RGB, in their order. They
            need no labels. The last fourth of them serves to compare the labels with those of the float model.
        accept_loss: whether to take an int8 model even if fewer than 98% of its labels are those of the float model.
        keep: whether to keep compiled networks on the disk, so that the next start is quick (`accel.fast.kept`). With
            "inductor", the first start then takes some minutes.

        Raises ValueError for an invalid size, type, number or engine, for a device that this machine lacks, and for an
        int8 model whose labels differ too much. The copy raises
        ValueError for frames of another size.
        """
        if size is not None and (len(size) != 2 or min(size) < 1):
            raise ValueError(f"size must be (height, width) in pixels, got {tuple(size)}")
        if self.is_optimized:
            raise ValueError("this model is already optimised: call `optimized` of the original model")
        if sizes < 1:
            raise ValueError(f"sizes must be 1 or more, got {sizes}")
        device = self.device if device is None else choose_device(str(device))
        if dtype == torch.int8 and self.task != "segmentation":
            raise ValueError(f"int8 is for segmentation: nothing here compares the results of {self.task}")
        frames = None if calibration is None else Calibration(calibration, accept_loss)
        settings = Settings.of(device, dtype, compile, parts, engine, keep, frames)
        return AnySize(self, settings, sizes) if size is None else self._optimized_for(size, settings)

    @torch.no_grad()
    def _optimized_for(self, size: tuple[int, int], settings: Settings) -> VideoModel:
        """Do the work of `optimized`, for arguments that it has checked."""
        dtype = "int8" if settings.calibration is not None else str(settings.dtype).removeprefix("torch.")
        about = f"{type(self).__name__} at {size[0]}x{size[1]}, {dtype}"
        memory = Memory.of(settings.kept, self, about)
        fast = copy.deepcopy(self).eval().requires_grad_(False).simplified().to(settings.device)
        preparation = Preparation(fast.seen_size(size), settings, memory)
        fast.make_fast(preparation)
        _, state = fast.key_frame(preparation.frame)
        fast.next_frame(preparation.frame, state)
        preparation.finish()
        if settings.calibration is not None and settings.calibration.waiting:
            fast._into_eight_bits(settings.calibration, size, settings.dtype)
        if memory is not None:
            memory.add_ready()
        fast.is_optimized = True
        return fast

    def _into_eight_bits(self, calibration: Calibration, size: tuple[int, int], dtype: torch.dtype) -> None:
        """Bring the networks that wait for it into eight bits. Raises ValueError if labels change too much."""
        before = self._labels(calibration.images(size, held=True), size)
        with calibration.recording():
            self._labels(calibration.images(size, held=False), size)
        calibration.finish(dtype)
        after = self._labels(calibration.images(size, held=True), size)
        same = float(np.mean([(a == b).float().mean() for a, b in zip(before, after, strict=True)]))
        self._same_labels = same
        if same < LEAST and not calibration.accepts_loss:
            raise ValueError(
                f"in eight bits, {same:.1%} of the labels are those of the float model; expected {LEAST:.0%} or more. "
                "Calibrate with more frames, stay in float, or accept the loss (accept_loss=True, --accept-loss)"
            )

    def _labels(self, images: Iterable[Tensor], size: tuple[int, int]) -> list[Tensor]:
        """Return the labels of consecutive frames, every fifth of which is a key frame."""
        player = Player(self, FixedInterval(5))
        return [player.step(image).prediction.at(size).labels.clone() for image in images]

    def simplified(self) -> VideoModel:
        """Return a model with the same function, up to rounding, and less work for each frame. It takes over this
        model's modules.

        See `accel.fast.preparation`. A model that does not override this stays as it is.
        """
        return self

    def make_fast(self, preparation: Preparation) -> None:
        """Prepare the networks for frames of one size, in place. The model passes this on to its branches and its
        propagation.

        See `accel.fast.preparation`. The networks of a model that does not override this stay as they are.
        """

    def save_pretrained(self, folder: str | Path, half: bool = False) -> Path:
        """Write this model, with a model card, to a folder that `accel.load_model` accepts; see `accel.weights.hub`.

        half: whether to write float16, which takes half the space.

        Raises ValueError for a model that was not loaded from weights.
        """
        return self._known("save_pretrained").save_pretrained(self, folder, half)

    def push_to_hub(self, repository: str, half: bool = False, private: bool = False) -> str:
        """Upload this model, with a model card, to a repository OWNER/NAME of Hugging Face's hub. Return its address.

        Raises the errors of `save_pretrained`, and ValueError if the hub refuses.
        """
        return self._known("push_to_hub").push_to_hub(self, repository, half, private)

    def _known(self, call: str) -> Any:
        if self.about is None:
            raise ValueError(
                f"{call}: this model has no description of its classes and training; load it with accel.load_model, or "
                f"call accel.weights.hub.{call} with a description"
            )
        return self.about

    def forward(self, clip: Tensor, refreshed: Collection[int] = ()) -> Prediction:
        """Return the prediction for the last frame of a clip (B, T, 3, H, W): a key frame, then T - 1 steps.

        refreshed: the frames after the first that are key frames too. The first frame has number 0. Raises ValueError
            for a frame that the clip does not have.
        """
        *before, last = clip.unbind(1)
        odd = [t for t in refreshed if not 1 <= t <= len(before)]
        if odd:
            raise ValueError(f"refreshed: frame {odd[0]} of a clip of {1 + len(before)}: expected 1 to {len(before)}")
        player = Player(self, KeyFramesAt(refreshed))
        for image in before:
            player.skip(image)
        return player.step(last).prediction


class Wrapping(VideoModel):
    """A model around another one, which says what frames and states are like.

    model: the other one.
    """

    def __init__(self, model: VideoModel):
        super().__init__()
        self.model = model
        self.task = model.task

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def remembers(self) -> bool:
        return self.model.remembers

    def prepare(self, size):
        self.model.prepare(size)


class AnySize(Wrapping):
    """A model that is optimised for each new frame size, at the first key frame of that size.

    sizes: how many sizes are kept ready. When one more comes, the least recently used one is dropped. A video of that
        size can continue: its state fits the model that is then made again.
    """

    is_optimized = True

    def __init__(self, model: VideoModel, settings: Settings, sizes: int):
        super().__init__(model)
        self.settings, self.carries_state = settings, model.carries_state
        self.frame_sizes: dict[tuple[int, int], tuple[int, int]] = {}  # by the sizes that networks see of them
        self.fast: BySize[VideoModel] = BySize(lambda size: model._optimized_for(size, settings), sizes)

    @property
    def device(self) -> torch.device:
        return self.settings.device

    @property
    def same_labels(self) -> float | None:
        """The least of all sizes."""
        found = (self.fast[size].same_labels for size in self.fast.sizes())
        return min((share for share in found if share is not None), default=None)

    @property
    def moves_on(self) -> bool:
        return self.model.moves_on

    @property
    def tells_freshness(self) -> bool:
        return self.model.tells_freshness

    def key_frame(self, image, state=None):
        size = _size(image)
        self.frame_sizes[self.seen_size(size)] = size
        return self.fast[size].key_frame(image, state)

    def check_spreads_key_frames(self):
        if self.settings.parts < 2 or not self.model.renews:
            self.model.check_spreads_key_frames()

    def prepare(self, size):
        self.fast[tuple(size)]

    def next_frame(self, image, state):
        return self._after(image, state).next_frame(image, state)

    def advance(self, image, state):
        return self._after(image, state).advance(image, state)

    def seen_size(self, size):
        return self.model.seen_size(size)

    def renew(self, state, frames):
        if state is None:  # frame by frame
            return None
        seen = _size(state.image)
        # Frames of several sizes may be seen alike. Any of their models will do.
        return self.fast[self.frame_sizes.get(seen, seen)].renew(state, frames)

    def _after(self, image: Tensor, state: Any) -> VideoModel:
        """Return the model for this frame, which follows the one that gave `state`."""
        size = _size(image)
        seen = self.seen_size(size)
        self.frame_sizes[seen] = size
        if state is not None and _size(state.image) != seen:
            raise ValueError(f"no key frame of {size[0]}x{size[1]} pixels came before this frame")
        return self.fast[size]


def _size(image: Tensor) -> tuple[int, int]:
    """Return (H, W) of a frame (B, 3, H, W)."""
    return image.shape[2], image.shape[3]
