"""Accel: fast video semantic segmentation. These are the public names; each is imported when it is first used."""

from importlib import import_module

from accel._version import __version__

_HOMES = {
    "accelerate": "accel.inference.accelerating",
    "Adaptive": "accel.playing.adaptive",
    "build_dataset": "accel.datasets",
    "build_model": "accel.models",
    "evaluate": "accel.evaluation.running.evaluator",
    "export": "accel.exporting",
    "FixedInterval": "accel.playing.schedules",
    "load_config": "accel.config",
    "load_model": "accel.inference.loading",
    "Player": "accel.playing.player",
    "open_video": "accel.video.opening",
    "register_model": "accel.models.segmentation.libraries.registered",
    "SceneCuts": "accel.playing.scene_cuts",
    "Segmenter": "accel.inference.segmenter",
    "train": "accel.training.trainer",
    "VideoWriter": "accel.video.writer",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'accel' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
