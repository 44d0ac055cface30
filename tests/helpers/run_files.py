"""What a run has left in its folder."""

from __future__ import annotations

import json

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from accel.config import Config
from accel.models import build_model
from accel.weights.checkpoints import load_weights


def weights_of(config: Config) -> dict[str, torch.Tensor]:
    model = build_model(config.model)
    load_weights(model, config.output)
    return model.state_dict()


def log_of(config: Config) -> list[dict]:
    return [json.loads(line) for line in (config.output / "log.jsonl").read_text().splitlines()]


def curve_of(config: Config) -> list[tuple[int, float]]:
    """TensorBoard's losses, by step."""
    events = EventAccumulator(str(config.output / "tensorboard")).Reload()
    return [(event.step, event.value) for event in events.Scalars("loss")]
