"""Learning rates: their course, and who gets which."""

import pytest
import torch
from torch import nn

from accel.config import TrainConfig
from accel.training.optimizers import build_optimizer, learning_rate, set_learning_rate


def settings(**values):
    values = {"steps": 100, "batch_size": 1, "optimizer": {"name": "sgd", "lr": 0.1}} | values
    return TrainConfig.model_validate(values)


@pytest.mark.parametrize(
    ("schedule", "steps", "expected"),
    [
        ({"power": 0.9}, 100, {0: 0.1, 50: 0.1 * 0.5**0.9, 99: 0.1 * 0.01**0.9}),
        ({"power": 1}, 4, {0: 0.1, 1: 0.075, 2: 0.05, 3: 0.025}),
        ({"power": 0}, 100, {0: 0.1, 99: 0.1}),
        # Four steps of warm-up rise in fifths, so that the fifth step has the whole rate.
        ({"warmup_steps": 4, "power": 1}, 14, {0: 0.02, 1: 0.04, 3: 0.08, 4: 0.1, 9: 0.05, 13: 0.01}),
        # The published schedule: a constant low rate, then the whole one.
        ({"warmup_steps": 2, "warmup_lr": 0.003, "power": 0}, 10, {0: 0.003, 1: 0.003, 2: 0.1}),
        # mmtracking's: a rise from a third, and a tenth after two and five sevenths.
        (
            {"warmup_steps": 500, "warmup_from": 1 / 3, "power": 0, "drops": [2 / 7, 5 / 7]},
            7000,
            {0: 0.0333333, 100: 0.0466934, 250: 0.0667335, 499: 0.1, 1999: 0.1, 2000: 0.01, 4999: 0.01, 5000: 0.001},
        ),
        ({"warmup_steps": 50}, 10, {0: 0.1 / 51, 9: 1.0 / 51}),
    ],
)
def test_the_rate_warms_up_and_falls(schedule, steps, expected):
    config = settings(schedule=schedule, steps=steps)
    assert {step: learning_rate(step, config) for step in expected} == pytest.approx(expected, rel=1e-5)


@pytest.fixture
def model():
    model = nn.Module()
    model.reference = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    model.fusion = nn.Conv2d(4, 4, 1)
    return model


def rates(optimizer, model):
    """Parameter name to (learning rate, weight decay)."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}


def test_all_can_decay(model):
    config = settings(optimizer={"name": "sgd", "lr": 0.1, "weight_decay": 0.01, "decay": "all"})
    assert {decay for _, decay in rates(build_optimizer(model, config), model).values()} == {0.01}


def test_two_ways_to_warm_up_are_one_too_many():
    with pytest.raises(ValueError, match="`warmup_lr` is a constant rate, and `warmup_from`"):
        settings(schedule={"warmup_lr": 0.1, "warmup_from": 0.5})


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_every_parameter_has_its_rate_and_only_kernels_decay(model, name):
    config = settings(
        optimizer={"name": name, "lr": 0.1, "weight_decay": 0.01},
        lr_multipliers={"fusion.*weight": 2, "fusion.*": 4},
    )
    optimizer = build_optimizer(model, config)
    set_learning_rate(optimizer, 0.5)
    assert rates(optimizer, model) == {
        "reference.0.weight": (0.5, 0.01),
        "reference.0.bias": (0.5, 0),
        "reference.1.weight": (0.5, 0),
        "reference.1.bias": (0.5, 0),
        "fusion.weight": (1.0, 0.01),
        "fusion.bias": (2.0, 0),
    }


def test_learned_offsets_have_their_rate_and_do_not_decay(model):
    """They are positions: decay would draw them together."""
    model.propagation = nn.Module()
    model.propagation.offsets = nn.Parameter(torch.ones(9, 2))
    model.propagation.offset = nn.Conv2d(3, 18, 1)  # a deformable convolution's offsets are computed, by a kernel
    optimizer = build_optimizer(
        model, settings(optimizer={"name": "sgd", "lr": 0.1, "weight_decay": 0.01}, lr_multipliers={"*.offsets": 2.5})
    )
    set_learning_rate(optimizer, 0.1)
    assert rates(optimizer, model)["propagation.offsets"] == (0.25, 0)
    assert rates(optimizer, model)["propagation.offset.weight"] == (0.1, 0.01)


def test_frozen_parameters_are_left_out(model):
    model.reference.requires_grad_(False)
    assert set(rates(build_optimizer(model, settings()), model)) == {"fusion.weight", "fusion.bias"}


def test_nothing_to_train_is_refused(model):
    with pytest.raises(ValueError, match=r"train\.freeze leaves nothing to train"):
        build_optimizer(model.requires_grad_(False), settings())


@pytest.mark.parametrize("pattern", ["fuson.*", "reference"])
def test_a_multiplier_for_nothing_is_refused(model, pattern):
    with pytest.raises(ValueError, match="train.lr_multipliers.*" + pattern.replace("*", r"\*")):
        build_optimizer(model, settings(lr_multipliers={pattern: 2}))


def test_a_multiplier_for_a_frozen_part_is_refused(model):
    model.fusion.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter is called fusion"):
        build_optimizer(model, settings(lr_multipliers={"fusion.*": 2}))


def test_a_step_moves_by_the_rate_times_the_multiplier(model):
    optimizer = build_optimizer(
        model,
        settings(optimizer={"name": "sgd", "lr": 1, "momentum": 0, "weight_decay": 0}, lr_multipliers={"fusion.*": 4}),
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    sum(p.sum() for p in model.parameters()).backward()  # a gradient of 1 everywhere
    set_learning_rate(optimizer, 0.25)
    optimizer.step()
    for name, parameter in model.named_parameters():
        moved = 1.0 if name.startswith("fusion") else 0.25
        torch.testing.assert_close(before[name] - parameter.detach(), torch.full_like(parameter, moved))
