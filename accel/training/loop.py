"""The training loop: one step after another. Each step is taken by all processes or by none."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from signal import Signals
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn

from accel.config import Config
from accel.datasets import Batch
from accel.models import VideoModel
from accel.progress import Bar, console
from accel.reductions import sum_over_processes, world_size
from accel.training.checkpoints import Checkpoints, Progress
from accel.training.feeding import Feed, from_distance
from accel.training.finite import Buffers, first_fault, gradient_norm
from accel.training.freezing import set_frozen_to_evaluation
from accel.training.offsets import record_offsets
from accel.training.optimizers import learning_rate, set_learning_rate
from accel.training.processes import on_main
from accel.training.refreshing import refreshed_frames
from accel.training.run_log import VALIDATION, RunLog
from accel.training.signals import StopSignals
from accel.training.validation import Validation
from accel.training.watch import Watch
from accel.weights.checkpoints import Description


class Part(NamedTuple):
    """One of the `accumulate` parts of a step, as it was computed."""

    batch: Batch  # on the CPU
    refreshed: tuple[int, ...]
    loss: Tensor  # on the device: nobody waits for it


class Loop:
    """Take the steps of a run from `progress` on.

    objective: the objective as set up by Fabric. It holds `model`.
    description: the description that checkpoints carry.
    """

    def __init__(
        self,
        fabric: Fabric,
        objective: Any,
        model: VideoModel,
        optimizer: torch.optim.Optimizer,
        config: Config,
        progress: Progress,
        description: Description,
        validation: Validation | None = None,
    ):
        self.fabric, self.objective, self.model, self.optimizer = fabric, objective, model, optimizer
        self.config, self.settings = config, config.train
        self.progress, self.description, self.validation = progress, description, validation
        self.checkpoints = Checkpoints(config.output, config.train.keep)
        self.buffers = Buffers(model)
        self.waited, self.taken, self.began = 0.0, 0, 0.0
        self.total = sum(progress.losses)  # kept, so that a step does not add them all up again
        self.part_totals = {name: sum(values) for name, values in progress.parts.items()}

    def run(self, feed: Feed, signals: StopSignals, watch: Watch, log: RunLog | None, bar: Bar) -> Signals | None:
        """Take all remaining steps, or those up to a signal that any process received. Return that signal, or None.

        log: None on all processes but the first.

        Raises ValueError after `train.max_skipped` steps in a row without a finite loss and gradient, or if the GPU's
        memory is too small. Also raises the errors of `Feed`.
        """
        self._train_mode()
        stop = self._validate(signals, watch, log)  # where the run stopped between a step and its validation
        self.began = time.monotonic()
        while self.progress.step < self.settings.steps and stop is None:
            with self._explained(self._memory_of_steps):
                stop = self.step(feed, signals, watch, bar)
            done = self.progress.step
            if done % self.settings.log_every == 0 or done == self.settings.steps:
                if log is not None:
                    self._log(log)
                self._forget()  # on every process: the list of losses would grow on those that do not log
            if stop is None or done == self.settings.steps:  # after which the run is done, stopped or not
                stop = self._validate(signals, watch, log) or stop
            if done < self.settings.steps and (stop is not None or done % self.settings.save_every == 0):
                watch.at("saving", done)
                if stop is not None:  # all of them leave together: the same way, and not before it is saved
                    on_main(self.fabric, lambda: self._save(cast(RunLog, log)))  # the first one has a log
                elif log is not None:
                    self._try_to_save(log)
        return stop

    def step(self, feed: Feed, signals: StopSignals, watch: Watch, bar: Bar) -> Signals | None:
        """Process `accumulate` batches, then update the weights once. Return the signal that asks all processes to stop
        now, or None."""
        step, parts = self.progress.step, self.settings.accumulate
        rate = learning_rate(step, self.settings)
        set_learning_rate(self.optimizer, rate)
        self.buffers.remember()
        self._seed(step)
        loss = torch.zeros((), dtype=torch.float64, device=self.fabric.device)
        taken: list[Part] = []
        addends: dict[str, Tensor] = {}
        for part in range(parts):
            watch.at("waiting for data", step)
            asked = time.monotonic()
            batch = feed.next()
            self.waited += time.monotonic() - asked
            watch.at("computing", step)
            kept = from_distance(batch, self.config, step)
            batch = kept.to(self.fabric.device)
            refreshed = refreshed_frames(self.model.remembers, batch.frames.shape[1], self.config.seed, step)
            with self.fabric.no_backward_sync(self.objective, enabled=part + 1 < parts):
                part_loss = self.objective(batch.frames, batch.labels, batch.flow, refreshed) / parts
                self.fabric.backward(part_loss)
            loss += part_loss.detach()
            for name, value in getattr(self._objective(), "parts", {}).items():
                addends[name] = addends.get(name, 0) + value.double() / parts
            taken.append(Part(kept, refreshed, part_loss.detach()))

        votes = loss.new_tensor(signals.votes())
        told = sum_over_processes(torch.stack([loss, *addends.values(), *votes]))
        norm = gradient_norm(self.model)  # of the mean over the processes, so the same on all of them
        total, *others, norm_value = torch.cat([told, norm[None].double()]).tolist()
        mean, elected = total / world_size(), others[len(addends) :]
        if math.isfinite(mean) and math.isfinite(norm_value):
            if self.settings.clip_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self.settings.clip_norm, norm)
            self.optimizer.step()
            self.progress.losses.append(mean)
            self.total += mean
            for name, value in zip(addends, others, strict=False):  # the votes come after them
                self.progress.parts.setdefault(name, []).append(value / world_size())
                self.part_totals[name] = self.part_totals.get(name, 0.0) + value / world_size()
            self.progress.skipped_in_a_row = 0
        else:
            self.buffers.put_back()
            self._skip(taken, step, rate, mean, norm_value)
        self.optimizer.zero_grad()
        self.progress.step += 1
        self.taken += 1
        shown = ""
        if count := len(self.progress.losses):
            addends_shown = ", ".join(f"{name} {value / count:.3f}" for name, value in self.part_totals.items())
            shown = f"loss {self.total / count:.3f}{f' ({addends_shown})' if addends_shown else ''}  "
        bar.update(self.progress.step, f"{shown}lr {rate:.1e}")
        return signals.elected(elected)

    def _seed(self, step: int) -> None:
        """Seed the random numbers of the step (dropout, for example) from seed, step and process."""
        key = np.random.SeedSequence((self.config.seed, step, self.fabric.global_rank))
        torch.manual_seed(int(key.generate_state(1, np.uint64)[0] >> 1))

    def _skip(self, parts: list[Part], step: int, rate: float, loss: float, norm: float) -> None:
        """Count the step as skipped. Raise ValueError with a diagnosis if no further step may be skipped."""
        progress = self.progress
        progress.skipped += 1
        progress.skipped_in_a_row += 1
        what = f"loss became {loss}" if not math.isfinite(loss) else f"gradient became {norm}"
        if progress.skipped_in_a_row < self.settings.max_skipped:
            console.print(f"{self.config.output}: the {what} at step {step}: skipped")
            return
        bad = next((part for part in parts if not part.loss.isfinite()), None)
        looked_at = bad or parts[-1]
        batch = looked_at.batch.to(self.fabric.device)
        with self.fabric.autocast():  # in the precision of the step
            fault = first_fault(self._objective(), batch.frames, batch.labels, batch.flow, looked_at.refreshed)
        self.buffers.put_back()
        named = [name for part in ([bad] if bad else parts) for name in part.batch.names]
        found = [(bad is not None, fault, named)] * world_size()
        if world_size() > 1:
            dist.all_gather_object(found, found[0])
        found = [told for told in found if told[0]] or found  # of those whose own loss is not finite, if there are any
        names = ", ".join(name for _, _, named in found for name in named)
        fault = next((fault for _, fault, _ in found if fault), "it is finite when computed again")
        raise ValueError(
            f"{self.config.output}: the {what} at step {step} (samples {names}; "
            f"learning rate {rate:.3g}), for {progress.skipped_in_a_row} steps in a row; {fault}. A lower "
            "train.optimizer.lr or train.clip_norm may help; train.max_skipped sets how many steps may be skipped"
        )

    def _validate(self, signals: StopSignals, watch: Watch, log: RunLog | None) -> Signals | None:
        """Validate, if it is due. Return the signal that ended the validation, or None.

        An interrupted validation is repeated when the run resumes. The last validation of a run is not interrupted,
        because the run is done then.
        """
        done, progress = self.progress.step, self.progress
        if self.validation is None or not self.validation.is_due(done, progress.validated):
            return None
        began = time.monotonic()
        with self._explained(self._memory_of_validation):
            score = self.validation.score(self.model, watch, done, signals if done < self.settings.steps else None)
        self._train_mode()
        if isinstance(score, Signals):
            return score
        progress.validated, figure = done, score.value()
        better = progress.best is None or figure > progress.best
        progress.best = figure if better else progress.best
        if log is not None:
            caveats = score.caveats(self.validation.dataset.class_names)
            note = f"{f' ({caveats})' if caveats else ''}{', the best so far' if better else ''}"
            console.print(f"{self.config.output}: step {done}: {score.name} {figure:.4f}{note}")
            log.write(done, **{f"{VALIDATION}{score.name.lower()}": figure})
            if better:
                try:
                    self.checkpoints.save_best(self.model, replace(self.description, step=done))
                except OSError as error:
                    console.print(f"warning: step {done}: the best weights are not kept: {error}; training goes on")
        self.began += time.monotonic() - began  # which is no time of training
        return None

    def _log(self, log: RunLog) -> None:
        record_offsets(self.config.output, self.model, self.progress.step)
        seconds, losses = time.monotonic() - self.began, self.progress.losses
        log.write(
            self.progress.step,
            loss=float(np.mean(losses)) if losses else None,
            **{f"loss_{name}": float(np.mean(values)) for name, values in self.progress.parts.items()},
            lr=learning_rate(self.progress.step - 1, self.settings),
            seconds_per_step=seconds / self.taken,
            waiting_for_data=self.waited / max(seconds, 1e-9),
            skipped=self.progress.skipped,
        )

    def _forget(self) -> None:
        self.progress.losses, self.total = [], 0.0
        self.progress.parts, self.part_totals = {}, {}
        self.waited, self.taken, self.began = 0.0, 0, time.monotonic()

    def _try_to_save(self, log: RunLog) -> None:
        """Save a checkpoint of this step, or print a warning."""
        try:
            self._save(log)
        except OSError as error:
            console.print(f"warning: {error}; training goes on")

    def _save(self, log: RunLog) -> None:
        """Save a checkpoint of this step.

        Raises OSError if the disk does not accept it. The message says which checkpoint there is instead.
        """
        progress = self.progress
        try:
            log.sync()
            description = replace(self.description, step=progress.step)
            self.checkpoints.save(progress, self.model, self.optimizer, description)
        except OSError as error:
            kept = self.checkpoints.steps()
            last = f"the last one is of step {kept[-1]}" if kept else "there is none yet"
            raise OSError(
                f"{self.config.output}: no checkpoint of step {progress.step} ({error.strerror or error}): {last}"
            ) from error

    def _train_mode(self) -> None:
        self.objective.train()
        set_frozen_to_evaluation(self.model, self.settings)

    def _objective(self) -> nn.Module:
        """Return the objective itself, without Fabric's wrappers."""
        inner = self.objective.module
        return inner.module if isinstance(inner, nn.parallel.DistributedDataParallel) else inner

    @contextmanager
    def _explained(self, memory: Callable[[], str]) -> Iterator[None]:
        """Turn PyTorch's errors about the user's settings into ValueError in one line. memory: advice for lack of
        memory."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise ValueError(
                f"{self.config.output}: out of memory on {self.fabric.device} at step {self.progress.step} "
                f"({str(error).splitlines()[0].rstrip('. ')}); {memory()}"
            ) from error
        except RuntimeError as error:
            if "deterministic" not in str(error) or not self.settings.deterministic:
                raise
            raise ValueError(f"train.deterministic: {str(error).splitlines()[0]}") from error

    def _memory_of_steps(self) -> str:
        settings, crop = self.settings, self.config.data.augmentation.crop
        return (
            f"a smaller train.batch_size (now {settings.batch_size}) with "
            f"a larger train.accumulate (now {settings.accumulate}), a smaller data.augmentation.crop (now "
            f"{list(crop) if crop else 'whole frames'}), train.precision=bf16 (now {settings.precision}) or more "
            "devices help"
        )

    def _memory_of_validation(self) -> str:
        interval = self.settings.validation.interval if self.settings.validation else 1
        return (
            f"it was validating, on whole frames: a smaller train.validation.interval (now {interval}), "
            f"train.precision=bf16 (now {self.settings.precision}) or train.validation=null help"
        )
