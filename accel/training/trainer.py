"""The training loop, on Lightning Fabric, and the run's folder."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader

from accel.config import Config, TrainConfig, dump_config, without_pretrained
from accel.datasets import Batch, ClipDataset, build_dataset, collate
from accel.devices import choose_device, has_bfloat16
from accel.models import build_model
from accel.progress import bar, console
from accel.training.losses import build_objective
from accel.training.optimizers import build_optimizer, learning_rate, set_learning_rate
from accel.weights.checkpoints import (
    WEIGHTS,
    Description,
    load_parts,
    load_state,
    save_state,
    save_weights,
)

CONFIG, LOG, STATE = "config.yaml", "log.jsonl", "state.pt"
PRECISION = {"float32": "32-true", "bf16": "bf16-mixed"}


def train(config: Config, device: str = "auto", resume: bool = False, overwrite: bool = False) -> Path:
    """Train one stage and return its weights file.

    A run that is done is left as it is. A folder that holds a run with other settings, or an unfinished one, is
    not touched unless `overwrite`; `resume` goes on with an unfinished one, drawing the same samples as if it had
    not stopped.

    Raises ValueError or FileNotFoundError for settings and data that do not fit, FileExistsError as said.
    """
    if is_done(config, overwrite):
        console.print(f"{config.output}: done before, nothing to do")
        return config.output / WEIGHTS
    resumed = _may_go_on(config, resume, overwrite)
    for name in ("lightning.fabric", "lightning.pytorch"):  # Fabric logs through either, by the order of imports
        logging.getLogger(name).setLevel(logging.WARNING)
    chosen = choose_device(device)
    precision = config.train.precision
    if precision == "bf16" and not has_bfloat16(chosen):
        console.print(f"{chosen} has no bfloat16 in hardware: training in float32")
        precision = "float32"
    fabric = Fabric(
        accelerator=chosen.type,
        devices=1 if chosen.index is None else [chosen.index],
        precision=PRECISION[precision],
    )
    fabric.seed_everything(config.seed, verbose=False)

    dataset = _dataset(config)
    if resumed:
        model = build_model(without_pretrained(config.model))
    else:
        model = build_model(config.model)
        load_parts(model, config.init, keep_missing=config.init_missing == "keep")
    freeze(model, config.train.freeze)
    model = model.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, config.train)
    objective, optimizer = fabric.setup(build_objective(config.train, model), optimizer)
    start = 0
    if resumed:  # after the set-up, which moves the parameters but not the optimizer's state to the device
        state = load_state(config.output / STATE)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
        console.print(f"{config.output}: going on at step {start} of {config.train.steps}")
    objective.train()
    set_frozen_to_evaluation(model, config.train)

    palette = tuple(map(tuple, dataset.palette.tolist()))
    description = Description(config.model, tuple(dataset.class_names), palette, config.train.steps)
    loader = _loader(dataset, config, start)
    _claim(config, resumed)  # only now that everything fits is anything in the folder replaced
    _loop(fabric, objective, model, optimizer, loader, config, start)
    save_weights(config.output / WEIGHTS, model, description)
    (config.output / STATE).unlink(missing_ok=True)
    return config.output / WEIGHTS


def _loop(fabric, objective, model, optimizer, loader, config: Config, start: int) -> None:
    """Steps start..steps: each takes `accumulate` batches, then moves the weights once."""
    settings = config.train
    batches = iter(loader)
    waited, losses, began = 0.0, [], time.monotonic()
    with RunLog(config.output, start) as log, bar(config.output.name, settings.steps) as progress:
        for step in range(start, settings.steps):
            rate = learning_rate(step, settings)
            set_learning_rate(optimizer, rate)
            total = 0.0
            for part in range(settings.accumulate):
                asked = time.monotonic()
                batch = _next(batches)
                waited += time.monotonic() - asked
                batch = from_distance(batch, config, step).to(fabric.device)
                with fabric.no_backward_sync(objective, enabled=part + 1 < settings.accumulate):
                    loss = objective(batch.frames, batch.labels, batch.flow) / settings.accumulate
                    fabric.backward(loss)
                total += loss.item()
            if not np.isfinite(total):
                raise ValueError(
                    f"{config.output}: the loss became {total} at step {step} (samples {', '.join(batch.names)}); "
                    "a lower train.optimizer.lr or train.clip_norm may help"
                )
            if settings.clip_norm is not None:
                norm = fabric.clip_gradients(
                    objective, optimizer, max_norm=settings.clip_norm, error_if_nonfinite=False
                )
                if not torch.isfinite(norm):
                    raise ValueError(
                        f"{config.output}: the gradient became {norm.item()} at step {step} "
                        f"(samples {', '.join(batch.names)}); a lower train.optimizer.lr may help"
                    )
            optimizer.step()
            optimizer.zero_grad()

            done = step + 1
            losses.append(total)
            progress.update(done, f"loss {np.mean(losses):.3f}  lr {rate:.1e}")
            if done % settings.log_every == 0 or done == settings.steps:
                seconds = time.monotonic() - began
                log.write(done, float(np.mean(losses)), rate, seconds / len(losses), waited / max(seconds, 1e-9))
                waited, losses, began = 0.0, [], time.monotonic()
            if done % settings.save_every == 0 and done < settings.steps:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": done}
                save_state(config.output / STATE, state)


class RunLog:
    """One JSON line and one point on each TensorBoard curve for every logged step.

    start: the step the run goes on from; what was logged after it, before the run stopped, is dropped.
    """

    def __init__(self, folder: Path, start: int):
        from torch.utils.tensorboard import SummaryWriter

        path = folder / LOG
        before = path.read_text().splitlines(keepends=True) if path.is_file() else []
        self.lines = path.open("w", buffering=1)
        self.lines.writelines(line for line in before if line.endswith("\n") and json.loads(line)["step"] <= start)
        self.curves = SummaryWriter(folder / "tensorboard", purge_step=start + 1)

    def write(self, step: int, loss: float, rate: float, seconds: float, waiting: float) -> None:
        """This step's learning rate; mean loss, seconds a step and share of waiting for data since the last line."""
        values = {"loss": loss, "lr": rate, "seconds_per_step": seconds, "waiting_for_data": waiting}
        self.lines.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self.curves.add_scalar(name, value, step)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.lines.close()
        self.curves.close()


def freeze(model: nn.Module, parts: tuple[str, ...]) -> None:
    """Keep the weights of these parts as they are. ValueError for a part that the model does not have."""
    for part in parts:
        try:
            model.get_submodule(part).requires_grad_(False)
        except AttributeError:
            known = ", ".join(name for name, _ in model.named_children())
            raise ValueError(f"train.freeze: the model has no part {part!r}; it has {known}") from None


def set_frozen_to_evaluation(model: nn.Module, settings: TrainConfig) -> None:
    """Frozen parts keep their batch-norm statistics too; with `freeze_norm`, all parts do."""
    for part in settings.freeze:
        model.get_submodule(part).eval()
    if settings.freeze_norm:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def from_distance(batch: Batch, config: Config, step: int) -> Batch:
    """The clip from its key frame on: 1..clip_length-1 frames before the label, drawn for each step, or always the
    first frame."""
    length = batch.frames.shape[1]
    if length <= 2 or not config.train.random_distance:
        return batch
    start = int(np.random.default_rng((config.seed, step)).integers(0, length - 1))
    flow = None if batch.flow is None else batch.flow[:, start:]
    return replace(batch, frames=batch.frames[:, start:], flow=flow)


def _dataset(config: Config) -> ClipDataset:
    with bar(f"{config.data.name} {config.data.train_split}", 1) as progress:
        with_flow = config.train.loss.name == "flow"
        dataset = build_dataset(config.data, config.data.train_split, progress.of, with_flow)
    if dataset.num_classes != config.model.num_classes:
        raise ValueError(
            f"model.num_classes is {config.model.num_classes}, but {config.data.name} has {dataset.num_classes} classes"
        )
    return dataset


def _loader(dataset: ClipDataset, config: Config, start: int) -> DataLoader:
    from accel.datasets.motion import SimulatedMotion
    from accel.datasets.sampling import StepSampler, TrainingClips, init_worker
    from accel.datasets.transforms import ClipTransform

    settings, augmentation = config.train, config.data.augmentation
    transform = ClipTransform(**augmentation.model_dump())
    motion = config.data.motion and SimulatedMotion(dataset.class_names, **config.data.motion.model_dump())
    clips = TrainingClips(dataset, config.data.clip_length, transform, config.seed, motion)
    batches = StepSampler(start * settings.accumulate, settings.steps * settings.accumulate, settings.batch_size)
    return DataLoader(
        clips,
        batch_sampler=batches,
        num_workers=settings.workers,
        collate_fn=collate,
        worker_init_fn=init_worker,
        pin_memory=torch.cuda.is_available(),
    )


def _next(batches: Iterator[Batch]) -> Batch:
    """The next batch. A data worker's error comes wrapped in its traceback; its own last line is what counts."""
    try:
        return next(batches)
    except (ValueError, FileNotFoundError) as error:
        last = str(error).strip().splitlines()[-1]
        raise ValueError(last.removeprefix("ValueError: ").removeprefix("FileNotFoundError: ")) from error


def is_done(config: Config, overwrite: bool = False) -> bool:
    """Whether the run's folder holds finished weights of exactly these settings, no older than those they start
    from."""
    if overwrite or not (config.output / WEIGHTS).is_file() or not has_settings(config):
        return False
    return not _newer_start(config)


def has_settings(config: Config) -> bool:
    """Whether the run in the output folder, done or not, has exactly these settings."""
    stored = config.output / CONFIG
    return stored.is_file() and stored.read_text() == dump_config(config)


def _newer_start(config: Config) -> str:
    """The run in `init` that was trained again after this one, if any."""
    made = (config.output / WEIGHTS).stat().st_mtime
    sources = (source.partition("#")[0] for source in config.init.values())
    files = {s: Path(s) / WEIGHTS if Path(s).is_dir() else Path(s) for s in sources}
    return next((s for s, file in files.items() if file.is_file() and file.stat().st_mtime > made), "")


def _may_go_on(config: Config, resume: bool, overwrite: bool) -> bool:
    """Whether the run's folder holds a state to go on from. FileExistsError if it holds what must not be touched."""
    folder = config.output
    held = any((folder / name).exists() for name in (WEIGHTS, STATE, LOG))
    if overwrite or not held:
        return False
    if not has_settings(config):
        raise FileExistsError(
            f"{folder} holds a run with other settings{_difference(folder / CONFIG, dump_config(config))}; "
            "choose another output=FOLDER, or --overwrite"
        )
    if (folder / WEIGHTS).exists():
        raise FileExistsError(
            f"{folder} started from {_newer_start(config)}, which has been trained again since; "
            "choose another output=FOLDER, or --overwrite"
        )
    if not resume:
        raise FileExistsError(f"{folder} holds an unfinished run; --resume to go on, or --overwrite")
    return (folder / STATE).is_file()


def _claim(config: Config, resumed: bool) -> None:
    """Make the run's folder its own: without what another run left, unless this one goes on from it."""
    folder = config.output
    if not resumed:
        for name in (WEIGHTS, STATE, LOG):
            (folder / name).unlink(missing_ok=True)
        for curve in folder.glob("tensorboard/*"):
            curve.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(dump_config(config))


def _difference(stored: Path, text: str) -> str:
    """The first line in which two resolved configurations differ."""
    if not stored.is_file():
        return ""
    for there, here in zip(stored.read_text().splitlines(), text.splitlines(), strict=False):
        if there != here:
            return f" (there: {there.strip()}; now: {here.strip()})"
    return ""
