"""Train one stage: build everything it needs, then run the loop."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from signal import Signals

import torch
from lightning_fabric import Fabric
from torch import nn

from accel.config import Config, without_pretrained
from accel.datasets import ClipDataset, build_training_dataset
from accel.datasets.class_counts import with_num_classes
from accel.models import build_model
from accel.models.video import VideoModel
from accel.progress import bar, console
from accel.tasks import task_of
from accel.training.batch_norm import synchronise_batch_norms
from accel.training.checkpoints import Checkpoints, Progress
from accel.training.class_weights import with_class_weights
from accel.training.feeding import Feed, build_loader
from accel.training.freezing import freeze
from accel.training.label_check import check_labels, trained_on
from accel.training.loop import Loop
from accel.training.objectives import build_objective
from accel.training.offsets import start_offsets
from accel.training.optimizers import build_optimizer
from accel.training.processes import on_main, start_fabric, use_deterministic_algorithms
from accel.training.run_folder import claim, is_done, may_go_on
from accel.training.run_log import RunLog
from accel.training.signals import StopSignals
from accel.training.validation import Validation
from accel.training.watch import Watch
from accel.weights.checkpoints import WEIGHTS, Description, describe_weights, load_parts, save_weights
from accel.wording import few


def train(
    config: Config,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    again: str = "--resume goes on",
) -> Path:
    """Train one stage and return its weights file.

    A finished run is left as it is. A folder with an unfinished run, or one with other settings, is not changed unless
    `overwrite` is set. `resume` continues an unfinished run from its newest intact checkpoint. The result is the same,
    bit for bit, as without the stop.

    again: the advice for a user who has stopped a run.

    If it is started as one of several processes (by torchrun, Slurm's srun or `accel.training.launch`), it trains with
    the others. Only the first one writes.

    Raises ValueError or FileNotFoundError for settings and data that do not fit, FileExistsError for a folder that must
    not be changed, and OSError if the weights cannot be written. SIGINT, SIGTERM and `train.preempt_signal` end it with
    `Stopped` (a SystemExit) once a checkpoint is saved.
    """
    config = with_num_classes(config)
    fabric = start_fabric(device, config.train.precision, config.train.timeout)
    output = config.output
    if on_main(fabric, lambda: is_done(config, overwrite)):
        console.print(f"{output}: done before, nothing to do")
        return output / WEIGHTS
    resumed = on_main(fabric, lambda: may_go_on(config, resume, overwrite))
    if config.train.deterministic:
        use_deterministic_algorithms()
    fabric.seed_everything(config.seed, verbose=False)
    with StopSignals(config.train.preempt_signal) as signals, Watch(fabric, config.train.timeout) as watch:
        stop = _train(fabric, config, resumed, signals, watch)
        # Since the last step, only this vote has asked: a signal that came meanwhile stops what follows this run.
        stop = stop or signals.vote(fabric.device)
        if stop is not None:
            saved = "done" if (output / WEIGHTS).exists() else f"saved; {again}"
            console.print(f"{output}: {stop.name}: {saved}")
            raise signals.stop(stop, fabric.is_global_zero)
    return output / WEIGHTS


def _train(fabric: Fabric, config: Config, resumed: bool, signals: StopSignals, watch: Watch) -> Signals | None:
    """Train from the data set to the weights file. Return the signal that stopped it on the way, or None."""
    dataset, model, validation = _build(fabric, config, resumed)
    if not resumed:
        _start(model, config)
    freeze(model, config.train.freeze)
    if config.train.sync_batch_norm:
        synchronise_batch_norms(model, fabric.device)
    model = model.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, config.train)
    indices = trained_on(config, dataset)
    settings = on_main(fabric, lambda: with_class_weights(config.train, dataset, indices))
    objective, optimizer = fabric.setup(build_objective(settings, model, task_of(model, dataset)), optimizer)
    progress, checkpoints = Progress(), Checkpoints(config.output)
    if resumed:  # after the set-up, which moves the parameters but not the optimizer's state to the device
        newest = on_main(fabric, checkpoints.newest)
        assert newest is not None, "there is something to go on from"
        progress = checkpoints.load(newest, model, optimizer)
        console.print(f"{config.output}: going on at step {progress.step} of {config.train.steps}")
    loader = build_loader(dataset, config, progress.step, fabric.global_rank, fabric.world_size)

    palette = tuple(map(tuple, dataset.palette.tolist()))
    description = Description(config.model, tuple(dataset.class_names), palette, config.train.steps)
    # Only now that everything fits is anything in the folder replaced.
    on_main(fabric, lambda: claim(config, resumed, dataset))
    if fabric.is_global_zero:
        start_offsets(config.output, model, progress.step)
    loop = Loop(fabric, objective, model, optimizer, config, progress, description, validation)
    with (
        _log(fabric, config.output, progress) as log,
        bar(config.output.name, config.train.steps, not fabric.is_global_zero, progress.step) as shown,
        Feed(loader) as feed,
    ):
        stop = loop.run(feed, signals, watch, log, shown)
    if progress.step == config.train.steps:
        watch.at("writing the weights", progress.step)
        on_main(fabric, lambda: _finish(config, model, description))
    return stop


def _start(model: VideoModel, config: Config) -> None:
    """Load the weights from which the run starts."""
    classes = config.model.num_classes
    try:
        fresh = load_parts(
            model, config.init, config.init_missing == "keep", classes if config.init_mismatch == "keep" else None
        )
    except ValueError as error:
        known = _classes_of(config.init.values())
        if config.init_mismatch == "keep" or known <= {classes}:
            raise
        raise ValueError(
            f"{error}; it was made for {max(known - {classes})} classes, here are {classes}: with "
            "`init_mismatch: keep`, the layers that make scores start at random"
        ) from None
    if fresh:
        console.print(f"{config.output}: made for other classes, so they start at random: {few(fresh, 8)}")


def _classes_of(sources: Iterable[str]) -> set[int]:
    """Return the numbers of classes of weights that can be read."""
    found = set()
    for source in sources:
        with suppress(ValueError, OSError):
            found.add(describe_weights(source.partition("#")[0]).model.num_classes)
    return found


def _build(fabric: Fabric, config: Config, resumed: bool) -> tuple[ClipDataset, VideoModel, Validation | None]:
    """Build data set, model and validation, first on the first process, then on the others.

    The first process also checks the labels. So a mistake is reported only once.
    """
    built, mistake = None, None

    def build(check: bool = False) -> tuple[ClipDataset, VideoModel, Validation | None]:
        dataset = _dataset(config)
        validation = None if config.train.validation is None else Validation(fabric, config)
        if check:  # before weights are fetched
            check_labels(config, dataset, validation)
        return dataset, build_model(without_pretrained(config.model) if resumed else config.model), validation

    def tell() -> None:
        if mistake is not None:
            raise mistake

    with fabric.rank_zero_first():  # the others wait for as long as it takes to fetch or generate
        if fabric.is_global_zero:
            try:
                built = build(check=True)
            except (ValueError, OSError) as error:
                mistake = error
    on_main(fabric, tell)
    with fabric.rank_zero_first(local=True):  # it fetches or generates for the others of its node
        return built or build()


def _log(fabric: Fabric, folder: Path, progress: Progress) -> AbstractContextManager[RunLog | None]:
    return RunLog(folder, progress.step, progress.validated) if fabric.is_global_zero else nullcontext()


def _finish(config: Config, model: nn.Module, description: Description) -> None:
    """Write the run's weights, those of the best validation if they are asked for, and remove its checkpoints."""
    checkpoints, validation = Checkpoints(config.output), config.train.validation
    try:
        if validation is not None and validation.take == "best" and checkpoints.has_best():
            checkpoints.save_last(model, description)
            checkpoints.take_best(config.output / WEIGHTS)
        else:
            save_weights(config.output / WEIGHTS, model, description)
    except OSError as error:
        kept = checkpoints.steps()
        raise OSError(
            f"{config.output}: the weights could not be written ({error.strerror or error}); "
            f"--resume goes on from {f'step {kept[-1]}' if kept else 'the beginning'}"
        ) from error
    checkpoints.clear(keep_best=True)


def _dataset(config: Config) -> ClipDataset:
    data = config.data
    where = f"{data.name} {data.train_split}" if data.videos is None else ", ".join(map(str, data.videos))
    with bar(where, 1) as progress:
        with_flow = config.train.loss.name == "flow"
        dataset = build_training_dataset(data, progress.of, with_flow, config.model.num_classes)
    if dataset.num_classes != config.model.num_classes:
        raise ValueError(
            f"model.num_classes is {config.model.num_classes}, but {config.data.name} has {dataset.num_classes} classes"
        )
    return dataset
