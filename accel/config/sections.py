"""Every key of a configuration, with its meaning. An unknown key is an error that names the nearest known one."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)

# Sections whose `name` decides which keys they have.
CHOICES = ("model", "reference", "update", "flow", "optimizer", "loss")
INSTEAD_OF = {"flow": "propagation", "propagation": "flow"}  # keys that replace each other


class Section(BaseModel):
    """A part of the configuration: read-only, and strict about its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        for key in values:
            if key not in cls.model_fields:
                near = difflib.get_close_matches(str(key), cls.model_fields, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(cls.model_fields)}"
                raise ValueError(f"unknown key {key!r}; {hint}")
        return values


Positive = Annotated[float, Field(gt=0)]

# --- models ---------------------------------------------------------------------------------------------------


def _named(default: str) -> Discriminator:
    """Choose the section by its `name`. Without one, the default is taken."""

    def name_of(values: Any) -> str:
        return values.get("name", default) if isinstance(values, dict) else getattr(values, "name", default)

    return Discriminator(name_of)


class DeepLabConfig(Section):
    """A backbone and a head, with scores for cells of 16 x 16 pixels."""

    name: Literal["deeplab"] = "deeplab"
    encoder: str  # any segmentation-models-pytorch encoder
    pretrained: bool = False  # ImageNet weights
    head_channels: int = Field(1024, ge=1, le=8192)  # width of fc6
    zero_init_residual: bool = False  # residual blocks of a ResNet start as identities


class PyramidConfig(Section):
    """An encoder and a decoder that keeps detail: `accel.models.segmentation.feature_pyramid`."""

    name: Literal["pyramid"]
    encoder: str  # any segmentation-models-pytorch encoder with maps at strides 4 to 32
    pretrained: bool = False  # ImageNet weights
    stride: Literal[4, 8, 16] = 8  # pixels along the side of a cell of features and scores
    channels: int = Field(128, ge=1, le=8192)  # of the decoder
    enlarge: Literal[1, 2] = 1  # factor by which the encoder's frame is enlarged: 2 helps small objects, but is slower


Scale = Annotated[float, Field(gt=0, le=1024)]  # of anchors, or a ratio of their sides
Side = Annotated[int, Field(ge=16, le=8192)]


class RfcnConfig(Section):
    """Detector on any encoder: `accel.models.detection.rfcn`. What is not set is as published.

    For small frames and small networks: `channels: 128`, `dilation: 2`, `sides: null`, and `scales` that fit the
    objects. A scale of 8 is an object of 128 x 128 pixels of the resized frame.
    """

    name: Literal["rfcn"]
    encoder: str  # any segmentation-models-pytorch encoder
    pretrained: bool = False  # ImageNet weights
    channels: int = Field(1024, ge=2, le=8192)  # of the features that are carried from frame to frame
    dilation: int = Field(6, ge=1, le=64)  # of the last 3x3 convolution, in cells of 16 pixels
    # Frames are resized so that the shorter side has so many pixels, unless the longer one had more than these; null:
    # they are taken as they come.
    sides: tuple[Side, Side] | None = (600, 1000)
    scales: tuple[Scale, ...] = Field((8.0, 16.0, 32.0), min_length=1, max_length=16)  # of anchors, in cells
    ratios: tuple[Scale, ...] = Field((0.5, 1.0, 2.0), min_length=1, max_length=16)  # of anchors, height / width
    regions: int = Field(300, ge=1, le=6000)  # that are proposed in a frame
    threshold: float = Field(1e-3, ge=0, lt=1)  # probability above which a detection is told


class FasterRcnnConfig(Section):
    """Detector on any encoder: `accel.models.detection.faster_rcnn`. What is not set is as mmtracking has it.

    For small frames and small networks: `channels: 64`, `width: 128`, `sides: null`, and `scales` that fit the objects.
    A scale of 4 is an object of 64 x 64 pixels of the resized frame.
    """

    name: Literal["faster_rcnn"]
    encoder: str  # any segmentation-models-pytorch encoder
    pretrained: bool = False  # ImageNet weights
    channels: int = Field(512, ge=1, le=8192)  # of the features that are carried from frame to frame
    width: int = Field(1024, ge=1, le=8192)  # of the two layers that judge a region
    sides: tuple[Side, Side] | None = (600, 1000)  # as of `rfcn`
    scales: tuple[Scale, ...] = Field((4.0, 8.0, 16.0, 32.0), min_length=1, max_length=16)  # of anchors, in cells
    ratios: tuple[Scale, ...] = Field((0.5, 1.0, 2.0), min_length=1, max_length=16)  # of anchors, height / width
    regions: int = Field(300, ge=1, le=6000)  # that are proposed in a frame, at most
    training_regions: int = Field(1000, ge=1, le=6000)  # likewise in training
    threshold: float = Field(1e-4, ge=0, lt=1)  # probability above which a detection is told


class AnyModelConfig(Section):
    """A model of another library: `accel.models.segmentation.any_model`."""

    name: str
    # Of pixels: RGB in 0..1, minus the mean, divided by std. None: as the model's makers say, else as of ImageNet.
    mean: tuple[float, float, float] | None = None
    std: tuple[Positive, Positive, Positive] | None = None
    # Scores of finer cells are averaged to cells of so many pixels, and carried so. None: they are taken as they come.
    stride: Literal[1, 2, 4, 8, 16] | None = None
    # Height and width of the frames of a model that takes no others (EoMT, DPT). Frames are resized to it.
    size: tuple[Annotated[int, Field(ge=1, le=8192)], Annotated[int, Field(ge=1, le=8192)]] | None = None


class SmpConfig(AnyModelConfig):
    """A whole model of segmentation-models-pytorch."""

    name: Literal["smp"]
    architecture: str  # such as deeplabv3plus
    encoder: str = "resnet34"
    arguments: dict[str, Any] = {}  # further ones of the architecture
    pretrained: bool = False  # ImageNet weights of the encoder
    weights: Path | None = None  # file with the whole model's weights, read if `pretrained`


class TorchvisionConfig(AnyModelConfig):
    """A segmentation model of torchvision."""

    name: Literal["torchvision"]
    architecture: str  # such as deeplabv3_resnet50
    arguments: dict[str, Any] = {}  # further ones of the architecture
    pretrained: bool = False  # ImageNet weights of the backbone, or `weights`
    weights: str | None = None  # torchvision's name for weights (DEFAULT), or a file with the whole model's


class TransformersConfig(AnyModelConfig):
    """A semantic segmentation model of Hugging Face's transformers."""

    name: Literal["transformers"]
    config: dict[str, Any] | None = None  # as in the model's config.json; None: that of `weights`
    pretrained: bool = False  # read `weights`
    weights: str | None = None  # folder that save_pretrained wrote, or a name on Hugging Face's hub

    @model_validator(mode="after")
    def _is_known(self) -> TransformersConfig:
        if self.config is None and self.weights is None:
            raise ValueError("expected `config`, with model_type, or `weights`, a folder or a name on the hub")
        if self.config is not None and "model_type" not in self.config:
            raise ValueError("config: model_type is missing; expected the content of a model's config.json")
        return self


class RegisteredConfig(AnyModelConfig):
    """A model of your own, which `accel.register_model` has made known by this name."""

    name: Literal["own"]
    model: str
    arguments: dict[str, Any] = {}  # of the function that builds it
    pretrained: bool = False  # the function is told so by an argument of this name, if it has one


BranchConfig = Annotated[
    Annotated[DeepLabConfig, Tag("deeplab")]
    | Annotated[PyramidConfig, Tag("pyramid")]
    | Annotated[RfcnConfig, Tag("rfcn")]
    | Annotated[FasterRcnnConfig, Tag("faster_rcnn")]
    | Annotated[SmpConfig, Tag("smp")]
    | Annotated[TorchvisionConfig, Tag("torchvision")]
    | Annotated[TransformersConfig, Tag("transformers")]
    | Annotated[RegisteredConfig, Tag("own")],
    _named("deeplab"),
]


class FlowNetSConfig(Section):
    name: Literal["flownet_s"] = "flownet_s"
    width: float = Field(1.0, gt=0, le=2)  # channel multiplier; 1 = published


class ClassicalFlowConfig(Section):
    """OpenCV's dense inverse search, for users without a trained flow network. It needs no training."""

    name: Literal["dis"]
    preset: Literal["ultrafast", "fast", "medium"] = "medium"


FlowConfig = Annotated[
    Annotated[FlowNetSConfig, Tag("flownet_s")] | Annotated[ClassicalFlowConfig, Tag("dis")], _named("flownet_s")
]


class LearnedSamplingConfig(Section):
    """Attention over learned offsets instead of flow: `accel.models.propagation.learned_sampling.LearnedSampling`.

    `train.lr_multipliers: {propagation.offsets: 2.5}` sets the learning rate of the offsets.
    """

    name: Literal["learned_sampling"]
    encoder: str | None = None  # of the network that runs on every frame; None: the reference's first four stages
    pretrained: bool = False  # ImageNet weights for that encoder
    blocks: int | None = Field(None, ge=1, le=100)  # of that network's third residual stage, conv4; None: all of them
    embedding: int = Field(256, ge=1, le=8192)  # number of channels for comparing features
    offsets: Literal["grid", "gaussian"] = "grid"  # where they start
    radius: int = Field(4, ge=0, le=16)  # there are (2 * radius + 1)**2 offsets; the grid reaches as many cells
    update_ratio: float = Field(1.0, ge=0, le=1)  # share of aggregated features in the key frames' memory

    @model_validator(mode="after")
    def _pretrained_is_the_encoders(self) -> LearnedSamplingConfig:
        if self.pretrained and self.encoder is None:
            raise ValueError("`pretrained` belongs to an `encoder` of its own; without one, set it in the reference")
        return self


class PropagatingConfig(Section):
    """A model that propagates features: by `flow`, unless `propagation` names another way."""

    name: str
    num_classes: int = Field(0, ge=0, le=255)  # 0 or left out: as many as the data set has
    reference: BranchConfig
    flow: FlowConfig = FlowNetSConfig()
    propagation: LearnedSamplingConfig | None = None

    @model_validator(mode="after")
    def _one_way(self) -> PropagatingConfig:
        if self.propagation is not None and "flow" in self.model_fields_set:
            raise ValueError(f"`propagation: {self.propagation.name}` replaces `flow`; leave out one of them")
        if self.propagation is not None and self.reference.name not in ("deeplab", "rfcn", "faster_rcnn"):
            raise ValueError(
                f"`propagation: {self.propagation.name}` carries the features of a deeplab, rfcn or faster_rcnn; "
                f"`reference: {self.reference.name}` needs `flow`"
            )
        return self

    @model_serializer(mode="wrap")
    def _what_counts(self, handler) -> dict[str, Any]:
        values = handler(self)
        del values["propagation" if self.propagation is None else "flow"]
        return values


class FrameByFrameConfig(Section):
    name: Literal["frame_by_frame"]
    num_classes: int = Field(0, ge=0, le=255)  # 0 or left out: as many as the data set has
    reference: BranchConfig


class DeepFeatureFlowConfig(PropagatingConfig):
    name: Literal["deep_feature_flow"]


class AccelConfig(PropagatingConfig):
    name: Literal["accel"]
    update: BranchConfig
    # evidence: each cell's weights depend on how sure both branches are, how far they differ, and what has changed.
    fusion: Literal["scores", "evidence"] = "scores"
    # A small head says how much of what is carried still holds, for adaptive key frames; trained by distillation.
    adaptive: bool = False


class AccelSharedConfig(PropagatingConfig):
    name: Literal["accel_shared"]


class PublishedConfig(Section):
    """One of the published networks, see docs/published_weights.md."""

    name: Literal["published"]
    version: str
    num_classes: int = Field(19, ge=1, le=255)  # 30 by default for detectors, as published

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, values: Any) -> Any:
        version = str(values.get("version")) if isinstance(values, dict) else ""
        detects = "rfcn" in version or "rcnn" in version
        return {"num_classes": 30} | values if detects else values


ModelConfig = Annotated[
    FrameByFrameConfig | DeepFeatureFlowConfig | AccelConfig | AccelSharedConfig | PublishedConfig,
    Field(discriminator="name"),
]


def without_pretrained(config: ModelConfig) -> ModelConfig:
    """Return the same model without ImageNet weights to download, for a model whose weights will be loaded."""
    values = config.model_dump()
    for branch in values.values():
        if isinstance(branch, dict) and "pretrained" in branch:
            branch["pretrained"] = False
    return type(config).model_validate(values)


# --- data -----------------------------------------------------------------------------------------------------


class Augmentation(Section):
    """Random changes, the same for all frames of a clip."""

    crop: tuple[int, int] | None = None  # height, width; None keeps whole frames
    scale: tuple[float, float] = (1.0, 1.0)  # range of the random rescale before cropping
    flip: float = Field(0.5, ge=0, le=1)  # probability of mirroring left and right
    colour: float = Field(0.0, ge=0, le=1)  # strength of brightness, contrast, saturation and hue changes
    blur: float = Field(0.0, ge=0, le=1)  # probability of a blur
    noise: float = Field(0.0, ge=0, le=1)  # probability of pixel noise


class MotionConfig(Section):
    """Clips from single labelled stills, by simulated camera motion.

    `accel.datasets.simulation.motion` explains each key.
    """

    forward: float = Field(0.6, ge=0)
    pan: float = Field(0.005, ge=0)
    shake: float = Field(0.0015, ge=0)
    roll: float = Field(0.15, ge=0)
    relief: float = Field(1.0, ge=0, le=1)
    objects: float = Field(0.6, ge=0, le=1)
    speed: float = Field(0.5, ge=0)
    lighting: float = Field(0.01, ge=0)
    noise: float = Field(2.0, ge=0)
    blur: float = Field(0.2, ge=0, le=1)


class DataConfig(Section):
    # folder: your own, in classes of your own; videos: no labels at all, for train.loss distillation; `videos` says
    # where they are. For detectors: coco and voc, your own with boxes; imagenet_vid, whose splits are lists of its
    # ImageSets; streetscape_vid, generated scenes in its layout (VID_train_15frames, VID_val_videos); camvid_boxes,
    # regions of CamVid's label maps
    name: Literal[
        "cityscapes",
        "camvid",
        "streetscape",
        "folder",
        "vspw",
        "videos",
        "coco",
        "voc",
        "imagenet_vid",
        "streetscape_vid",
        "camvid_boxes",
    ]
    # Train on all frames of these video files, or of the videos in these folders, instead of on `train_split`. They
    # have no labels. One of them need not be a list.
    videos: tuple[Path, ...] | None = None
    classes: tuple[str, ...] | None = None  # names of the classes, for data without labels; None: class 0, class 1, ...
    root: Path | None = None  # None: $ACCEL_DATA/NAME, else data/NAME; generated scenes always data/NAME
    train_split: str = "train"
    test_split: str = "val"
    clip_length: int = Field(1, ge=1)  # frames of a training clip; the last one has the label
    # Where the key frame of a training clip lies, by the labelled frame. around: before or after it, of detectors whose
    # features go straight from the key frame
    key_frames: Literal["before", "around"] = "before"
    augmentation: Augmentation = Augmentation()
    motion: MotionConfig | None = None  # training clips from stills; None: from the frames before the labelled one
    # Whether training and test clips are simulated, or are the stored frames before the labelled one. None: simulated
    # where `motion` or `simulated_test_frames` says so. With `stored`, only the flow network still learns from
    # simulated clips, because the flow between stored frames is not known.
    clips: Literal["simulated", "stored"] | None = None
    # What to do before training if a class occurs in no label, or nearly all pixels are ignored: stop, or warn and
    # continue. None: stop for a folder of your own, warn for published data sets, whose splits may lack a rare class.
    label_check: Literal["error", "warn"] | None = None
    # folder only: what the names of label files have more than those of their images, such as _mask. None: nothing, or
    # the one ending that there is.
    label_ending: str | None = None
    # Score clips of this many frames, simulated from the labelled frames alone. None: score the stored frames.
    simulated_test_frames: int | None = Field(None, ge=1)
    # Generated scenes only: how many snippets to generate for each split, and their height and width.
    snippets: dict[str, int] = {"train": 120, "val": 20}
    size: tuple[int, int] = (256, 512)

    @model_validator(mode="after")
    def _frames_after_are_stored(self) -> DataConfig:
        if self.motion is not None and self.key_frames == "around":
            raise ValueError("`key_frames: around` takes stored frames, and `motion` none; leave out one")
        return self

    @model_validator(mode="after")
    def _simulated_by_motion(self) -> DataConfig:
        if self.clips == "simulated" and self.motion is None:
            raise ValueError("clips: simulated clips need `motion`, such as motion: {}")
        return self

    @property
    def test_frames(self) -> int | None:
        """The length of simulated test clips. None: stored frames are scored."""
        return None if self.clips == "stored" else self.simulated_test_frames

    @field_validator("videos", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | Path) else value

    @model_validator(mode="after")
    def _videos_are_somewhere(self) -> DataConfig:
        if self.videos == () or (self.name == "videos" and self.videos is None):
            raise ValueError("data.name videos: expected data.videos, a video file or a folder of videos")
        return self


# --- training -------------------------------------------------------------------------------------------------


class SgdConfig(Section):
    name: Literal["sgd"]
    lr: float = Field(gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    decay: Literal["kernels", "all"] = "kernels"  # all: biases and batch norms decay, too


class AdamWConfig(Section):
    name: Literal["adamw"]
    lr: float = Field(gt=0)
    weight_decay: float = Field(1e-2, ge=0)


class Schedule(Section):
    """Warm-up, then lr * (1 - progress) ** power. Power 0 keeps the rate constant, but for `drops`."""

    warmup_steps: int = Field(0, ge=0)
    warmup_lr: float | None = Field(None, gt=0)  # constant rate while warming up; None: rise linearly
    warmup_from: float | None = Field(None, gt=0, le=1)  # share of lr that the rise begins at; None: nearly 0
    power: float = Field(0.9, ge=0)
    drops: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()  # shares of all steps after which lr is a tenth

    @model_validator(mode="after")
    def _one_warm_up(self) -> Schedule:
        if self.warmup_lr is not None and self.warmup_from is not None:
            raise ValueError(
                "`warmup_lr` is a constant rate, and `warmup_from` where a rise begins; leave out one of them"
            )
        return self


# One for each class; None: all equal; balanced: from the labels, rare classes more (`accel.training.class_weights`).
ClassWeights = tuple[Annotated[float, Field(ge=0)], ...] | Literal["balanced"] | None


class CrossEntropyConfig(Section):
    name: Literal["cross_entropy"] = "cross_entropy"
    class_weights: ClassWeights = None


class OverlapConfig(Section):
    """A loss on the overlap of each class as a whole, however few pixels it has, plus cross-entropy.

    dice: soft Dice (Milletari et al., 3DV 2016). lovasz: Lovasz-Softmax, close to mIoU itself (Berman et al., CVPR
    2018).
    """

    name: Literal["dice", "lovasz"]
    cross_entropy: float = Field(1.0, ge=0)  # its share in the sum; training from the start needs some
    class_weights: ClassWeights = None  # of the cross-entropy


class OhemConfig(Section):
    """Cross-entropy over the hard pixels only (Shrivastava et al., CVPR 2016, as used for segmentation)."""

    name: Literal["ohem"]
    threshold: float = Field(0.7, gt=0, lt=1)  # pixels whose true class is less probable than this are hard
    min_kept: float = Field(1 / 16, gt=0, le=1)  # smallest share of the labelled pixels that is used


class FlowLossConfig(Section):
    """Multi-scale end-point error against the exact flow of generated clips. It trains only the flow network."""

    name: Literal["flow"]


class RfcnLossConfig(Section):
    """The four losses of R-FCN, for detectors: class and box of anchors, and of the regions of highest loss."""

    name: Literal["rfcn"]
    anchors: int = Field(256, ge=2)  # of an image that count, half of them objects at most
    hardest: int = Field(128, ge=1)  # regions of an image that count


class FasterRcnnLossConfig(Section):
    """The four losses of Faster R-CNN: class and box of anchors, and of regions that are drawn."""

    name: Literal["faster_rcnn"]
    anchors: int = Field(256, ge=2)  # of an image that are drawn, half of them objects at most
    regions: int = Field(512, ge=4)  # of an image that are drawn, a fourth of them objects at most


class DistillationConfig(Section):
    """What the reference branch itself says of the current frame is the target: `accel.training.distillation`."""

    name: Literal["distillation"]
    update: float = Field(0.4, ge=0)  # weight of the same loss for the update branch alone
    photometric: float = Field(0.0, ge=0)  # weight of how badly frames match along the flow: trains a flow network
    freshness: float = Field(1.0, ge=0)  # weight of the loss of the head of `model.adaptive`, if there is one
    labels: float = Field(0.0, ge=0)  # weight of the cross-entropy with labels, where the data have them


LossConfig = (
    CrossEntropyConfig
    | OverlapConfig
    | OhemConfig
    | FlowLossConfig
    | RfcnLossConfig
    | FasterRcnnLossConfig
    | DistillationConfig
)


class ValidationConfig(Section):
    """mIoU or mAP measured while training; the weights with the best one are kept in checkpoints/best.

    Their score on the same frames is too good. Use another split than the one for testing.
    """

    split: str
    every: int = Field(ge=1)  # steps
    interval: int = Field(1, ge=1)  # the key frame lies interval-1 frames before the labelled one
    frames: int | None = Field(None, ge=1)  # number of labelled frames, evenly spread over the split; None: all
    take: Literal["best", "last"] = "best"  # which weights are the run's result: later stages and other tools use them


class TrainConfig(Section):
    steps: int = Field(ge=1)
    stretch: float = Field(1.0, gt=0, le=1000)  # factor for steps and warm-up: one override for a whole recipe
    batch_size: int = Field(ge=1)  # clips, over all devices together
    accumulate: int = Field(1, ge=1)  # batches whose mean gradient makes one step
    optimizer: Annotated[SgdConfig | AdamWConfig, Field(discriminator="name")]
    schedule: Schedule = Schedule()
    loss: Annotated[LossConfig, Field(discriminator="name")] = CrossEntropyConfig()
    freeze: tuple[str, ...] = ()  # parts of the model (as in its attributes) that keep their weights
    freeze_norm: bool = False  # batch norms keep their statistics: for batches too small to measure them
    sync_batch_norm: bool = True  # on several devices, each batch norm measures the whole batch, not only its part
    lr_multipliers: dict[str, float] = {}  # parameter name pattern (such as fusion.*.weight) to factor
    clip_norm: float | None = Field(None, gt=0)  # largest norm of the gradient
    random_distance: bool = True  # key frame 0..clip_length-1 frames before the label, at random; else the first
    precision: Literal["float32", "bf16"] = "float32"  # bf16 falls back to float32 if it would be slower
    deterministic: bool = False  # only algorithms that give the same bits again (matters on GPUs; slower)
    workers: int = Field(2, ge=0)  # processes that read and augment, for each device
    log_every: int = Field(10, ge=1)
    save_every: int = Field(500, ge=1)  # steps from checkpoint to checkpoint
    keep: int = Field(2, ge=1)  # how many checkpoints an unfinished run keeps
    validation: ValidationConfig | None = None  # None: none, and no best weights
    max_skipped: int = Field(10, ge=1)  # this many steps in a row without a finite loss and gradient end the run
    timeout: float = Field(300, gt=0)  # seconds that a batch, a step or a checkpoint may take before the run ends
    preempt_signal: Literal["SIGUSR1", "SIGUSR2"] = "SIGUSR1"  # save, requeue the Slurm job and exit

    @model_validator(mode="before")
    @classmethod
    def _stretched(cls, values: Any) -> Any:
        """Apply `stretch` to the steps, so that no other code needs to know about it."""
        if not isinstance(values, dict) or "stretch" not in values:
            return values
        stretch, steps, schedule = values["stretch"], values.get("steps"), values.get("schedule", {})
        schedule = schedule.model_dump() if isinstance(schedule, Schedule) else schedule
        warmup = schedule.get("warmup_steps", 0) if isinstance(schedule, dict) else None
        if type(stretch) not in (int, float) or not 0 < stretch <= 1000 or not type(steps) is type(warmup) is int:
            return values  # what is wrong with them is told where each is checked
        return values | {
            "steps": max(1, round(steps * stretch)) if steps > 0 else steps,
            "schedule": schedule | {"warmup_steps": round(warmup * stretch)},
            "stretch": 1.0,
        }


class Config(Section):
    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    output: Path  # folder of the run
    seed: int = Field(0, ge=0)
    # Part of the model to the run (or weights file) it starts from: `reference: runs/deeplab101`, or
    # `update: runs/deeplab18#reference` if the part has another name there; `all` means the whole model.
    init: dict[str, str] = {}
    # What to do when the starting weights lack a parameter: stop, or keep random weights. With `keep` and
    # `zero_init_residual`, a deeper network starts as the shallower one that `init` names.
    init_missing: Literal["error", "keep"] = "error"
    # What to do when the starting weights were made for other classes: stop, or keep random weights where shapes differ
    # for that reason, which is in the layers that make scores.
    init_mismatch: Literal["error", "keep"] = "error"

    @model_validator(mode="after")
    def _one_weight_a_class(self) -> Config:
        weights = getattr(self.train.loss, "class_weights", None)
        if self.data.videos is not None and self.train.loss.name != "distillation":
            raise ValueError(
                f"data.videos: videos without labels are for train.loss distillation, not {self.train.loss.name}"
            )
        if isinstance(weights, tuple) and self.model.num_classes and len(weights) != self.model.num_classes:
            raise ValueError(
                f"train.loss.class_weights: {len(weights)} weights, but model.num_classes is {self.model.num_classes}"
            )
        return self

    @model_validator(mode="after")
    def _flow_is_known(self) -> Config:
        if self.train.loss.name == "flow" and self.data.motion is None and self.data.name != "streetscape":
            raise ValueError(
                f"train.loss: clips of {self.data.name} have no exact flow to train on; "
                "data.motion: {} simulates clips that have"
            )
        return self

    @property
    def motion(self) -> MotionConfig | None:
        """The simulated motion of training clips. None: they are stored frames."""
        return None if self.data.clips == "stored" and self.train.loss.name != "flow" else self.data.motion

    @field_validator("init")
    @classmethod
    def _init_is_all_or_parts(cls, value: dict[str, str]) -> dict[str, str]:
        if "all" in value and len(value) > 1:
            raise ValueError("`all` must be the only key; name the parts, or the whole model")
        return value
