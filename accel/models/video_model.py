"""What every video model answers, and how it is made fast for the frame sizes that come."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Collection
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from accel.devices import choose_device
from accel.fast.preparation import Preparation, Settings
from accel.fast.sizes import BySize
from accel.models.prediction import Prediction
from accel.playing.player import Player
from accel.playing.schedules import KeyFramesAt


class VideoModel(nn.Module, ABC):
    """A model that looks at videos frame by frame.

    Frames are (B, 3, H, W), uint8 or float in 0..255, RGB. What it says of a frame is a `Prediction`; what it carries
    from frame to frame is its own business, and so is whether it carries anything (`state` may be None).

    task: what it predicts: a name in `accel.tasks.TASKS`.
    about: what its weights say of themselves, where it was loaded from some: what `save_pretrained` needs.
    carries_state: whether what it says of a frame depends on the frames before it. Where it does not, callers may
        spare themselves asking twice about one frame.
    """

    task = "segmentation"
    about: Any = None
    carries_state = True
    is_optimized = False  # whether `optimized` has made it

    @property
    def remembers(self) -> bool:
        """Whether a key frame in the course of a video builds on those before it: whether `key_frame` makes use of the
        state that it is given."""
        return False

    @abstractmethod
    def key_frame(self, image: Tensor, state: Any = None) -> tuple[Prediction, Any]:
        """All that the model has to say of this frame, however slow.

        state: of the frame before, where the video goes on. Models that remember earlier key frames build on them.
            None: start afresh.
        """

    @abstractmethod
    def next_frame(self, image: Tensor, state: Any) -> tuple[Prediction, Any]:
        """The frame after the one that gave `state`, as fast as can be."""

    def advance(self, image: Tensor, state: Any) -> Any:
        """Go past a frame of which nobody needs a prediction."""
        return self.next_frame(image, state)[1]

    def renew(self, state: Any, frames: int) -> Any:
        """Take the frame of `state` for a key frame whose work is spread over the `frames` frames after it.

        Each following `next_frame` does one share of it; the last of them switches over. So no frame takes as long
        as a key frame, and what is known of the key frame comes `frames` frames late. Shares are equal if the model
        was cut into as many parts (see `optimized`); else the last one has all the work. A renewal that is still
        under way is finished first, at once. Raises ValueError for models that cannot do this.
        """
        raise ValueError(f"{type(self).__name__} cannot spread a key frame's work over several frames")

    def constituents(self) -> dict[str, VideoModel]:
        """The simpler models within this one, by name, to compare it with. They share its layers. Empty for a model
        that has none."""
        return {}

    def check_spreads_key_frames(self) -> None:
        """ValueError, with the call that helps, unless `renew` spreads a key frame's work in shares that are alike."""
        raise ValueError(f"{type(self).__name__} cannot spread a key frame's work over several frames")

    @property
    def renews(self) -> bool:
        """Whether `renew` does anything but raise ValueError."""
        return type(self).renew is not VideoModel.renew

    def seen_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of the images that its networks see of frames of `size`, and that its states hold."""
        return size

    def prepare(self, size: tuple[int, int]) -> None:
        """Make ready for frames of `size` (H, W), where that takes time that no frame should have to wait for."""

    @property
    def device(self) -> torch.device:
        """Where the model is, and its frames have to be: the CPU for one without parameters, such as classical flow."""
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
    ) -> VideoModel:
        """A copy for inference on frames (1, 3, H, W) of one size, as fast as the machine allows; it answers the same
        calls.

        size: (H, W) of the frames. None: each size that comes is prepared for at its first key frame.
        dtype: of weights and features; by default bfloat16 where the device computes it fast, else float32. The last
            layer, which makes scores, is float32 always; flow is computed in this type and joined and followed in
            float32.
        device: where to run; by default where the model is.
        compile: with TorchInductor, which takes some seconds a network the first time on a machine, and on a GPU as
            CUDA graphs. Without it, or without a working compiler (a warning says so), the rest is done all the same.
        parts: into how many parts of equal cost a key frame's work is cut, for `renew`.
        sizes: how many sizes are kept ready, where `size` is None. Each takes as much memory as a model.

        Raises ValueError for a size, type or number that cannot be, or a device that this machine lacks. The copy
        raises it for frames of another size.
        """
        if size is not None and (len(size) != 2 or min(size) < 1):
            raise ValueError(f"size must be (height, width) in pixels, got {tuple(size)}")
        if self.is_optimized:
            raise ValueError("this model is optimised already: call `optimized` of the one that it was made from")
        if sizes < 1:
            raise ValueError(f"sizes must be 1 or more, got {sizes}")
        device = self.device if device is None else choose_device(str(device))
        settings = Settings.of(device, dtype, compile, parts)
        return AnySize(self, settings, sizes) if size is None else self._optimized_for(size, settings)

    @torch.no_grad()
    def _optimized_for(self, size: tuple[int, int], settings: Settings) -> VideoModel:
        """`optimized`, for arguments that it has checked."""
        fast = copy.deepcopy(self).eval().requires_grad_(False).simplified().to(settings.device)
        preparation = Preparation(fast.seen_size(size), settings)
        fast.make_fast(preparation)
        _, state = fast.key_frame(preparation.frame)
        fast.next_frame(preparation.frame, state)
        preparation.finish()
        fast.is_optimized = True
        return fast

    def simplified(self) -> VideoModel:
        """A model of the same function, up to rounding, and less work for each frame. It takes over this one's
        modules. See `accel.fast.preparation`; a model that does not say how it is simplified stays as it is."""
        return self

    def make_fast(self, preparation: Preparation) -> None:
        """Make its networks ready for frames of one size, in place: ask its branches and its propagation to. See
        `accel.fast.preparation`; the networks of a model that does not say how stay as they are."""

    def save_pretrained(self, folder: str | Path, half: bool = False) -> Path:
        """Write this model, with a model card, to a folder that `accel.load_model` takes; see `accel.weights.hub`.

        half: as float16, half as large. Raises ValueError for a model that was not loaded from weights.
        """
        return self._known("save_pretrained").save_pretrained(self, folder, half)

    def push_to_hub(self, repository: str, half: bool = False, private: bool = False) -> str:
        """Upload this model, with a model card, to a repository OWNER/NAME of Hugging Face's hub; returns its address.

        Raises as `save_pretrained`, and ValueError where the hub refuses.
        """
        return self._known("push_to_hub").push_to_hub(self, repository, half, private)

    def _known(self, call: str) -> Any:
        if self.about is None:
            raise ValueError(
                f"{call}: nothing is known of this model's classes and training; load it with accel.load_model, or "
                f"call accel.weights.hub.{call} with a description"
            )
        return self.about

    def forward(self, clip: Tensor, refreshed: Collection[int] = ()) -> Prediction:
        """What is said of the last frame of a clip (B, T, 3, H, W): a key frame first, then T - 1 steps.

        refreshed: which of the frames after the first, counted from 0 for the first, are key frames too. ValueError
            for a frame that is not among them.
        """
        *before, last = clip.unbind(1)
        odd = [t for t in refreshed if not 1 <= t <= len(before)]
        if odd:
            raise ValueError(f"refreshed: frame {odd[0]} of a clip of {1 + len(before)}: expected 1 to {len(before)}")
        player = Player(self, KeyFramesAt(refreshed))
        for image in before:
            player.skip(image)
        return player.step(last).prediction


class AnySize(VideoModel):
    """A model optimised for every frame size that comes, at the first key frame of that size.

    sizes: how many are kept ready. When one more comes, the one used least recently is dropped. A video of that size
    can go on: its state fits what is then made again.
    """

    is_optimized = True

    def __init__(self, model: VideoModel, settings: Settings, sizes: int):
        super().__init__()
        self.model, self.settings = model, settings
        self.task, self.carries_state = model.task, model.carries_state
        self.frame_sizes: dict[tuple[int, int], tuple[int, int]] = {}  # by the sizes that networks see of them
        self.fast: BySize[VideoModel] = BySize(lambda size: model._optimized_for(size, settings), sizes)

    @property
    def device(self) -> torch.device:
        return self.settings.device

    @property
    def remembers(self) -> bool:
        return self.model.remembers

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
        """The model for this frame, which follows the one that gave `state`."""
        size = _size(image)
        seen = self.seen_size(size)
        self.frame_sizes[seen] = size
        if state is not None and _size(state.image) != seen:
            raise ValueError(f"no key frame of {size[0]}x{size[1]} pixels came before this frame")
        return self.fast[size]


def _size(image: Tensor) -> tuple[int, int]:
    """(H, W) of a frame (B, 3, H, W)."""
    return image.shape[2], image.shape[3]
