"""Typed configuration: YAML files with `base:` files and `key=value` overrides."""

from accel.config.files import dump_config, load_config, load_stages, parse_model
from accel.config.sections import (
    AccelConfig,
    AccelSharedConfig,
    Branch,
    Config,
    DataConfig,
    DeepFeatureFlowConfig,
    FlowConfig,
    FrameByFrameConfig,
    LearnedSamplingConfig,
    ModelConfig,
    MotionConfig,
    PropagatingConfig,
    PublishedConfig,
    TrainConfig,
    without_pretrained,
)

__all__ = [
    "AccelConfig",
    "AccelSharedConfig",
    "Branch",
    "Config",
    "DataConfig",
    "DeepFeatureFlowConfig",
    "FlowConfig",
    "FrameByFrameConfig",
    "LearnedSamplingConfig",
    "ModelConfig",
    "MotionConfig",
    "PropagatingConfig",
    "PublishedConfig",
    "TrainConfig",
    "dump_config",
    "load_config",
    "load_stages",
    "parse_model",
    "without_pretrained",
]
