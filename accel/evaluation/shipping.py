"""Weights for the package: written in half precision, measured with just that file, with a card that says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from accel.config import load_config
from accel.datasets import build_dataset
from accel.datasets.clips import frames_to_tensor
from accel.devices import choose_device
from accel.evaluation.origin import Origin
from accel.evaluation.running.evaluator import compare
from accel.evaluation.tables import write_json
from accel.files.yaml_files import read_yaml
from accel.inference.loading import check_classes, load_model
from accel.inference.timing import time_interleaved
from accel.machine import machine_name
from accel.models import VideoModel
from accel.progress import console
from accel.weights.cards import Accuracy, Card, Times, parse_card
from accel.weights.checkpoints import describe_weights, save_weights, weights_path
from accel.weights.checksums import SUMS, read_sums, write_sums


def ship(
    card_file: Path, checkpoint: str, shipped: Path, results: Path, rounds: int, device: str, overrides: list[str]
) -> None:
    """Write the weights of a run, measure them, and write the card and all figures.

    card_file: YAML with the weights' `name`, the card's words, `cfg` (the experiment whose data are scored) and
        `scores` (data, split and intervals of each measurement).
    checkpoint: the run.
    shipped, results: the folders for the weights and for the figures.
    rounds: the models' turns when they are timed.
    overrides: settings that override those of the data.
    """
    about = read_yaml(card_file)
    name, scores = about.pop("name"), about.pop("scores")
    data = load_config(about.pop("cfg"), overrides).data
    card, chosen = parse_card(about), choose_device(device)

    # In half precision first: what is measured is what is given away.
    path = shipped / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_half(path, checkpoint, card)
    model = load_model(path, device=chosen)
    models: dict[str, VideoModel] = {"Accel": model} | model.constituents()
    origin = Origin.of({name: str(weights_path(checkpoint))}, chosen)

    figures: dict[str, dict] = {}
    accuracy = []
    for each in scores:
        dataset = build_dataset(data, each["split"])
        check_classes(path, dataset)
        # With nothing but key frames, a model that carries features is its reference branch.
        still = max(each["intervals"]) == 1
        scored = {title: one for title, one in models.items() if not (still and one.carries_state)}
        found = compare(scored, dataset, each["intervals"])
        figures[each["data"]] = {title: [result.as_dict() for result in found[title]] for title in scored}
        for result in found["reference branch" if still else "Accel"]:
            note = "the reference branch alone" if result.interval == 1 else ""
            value = round(result.mean, 4)
            accuracy.append(
                Accuracy(data=each["data"], interval=result.interval, measure="mIoU", value=value, note=note)
            )
            console.print(f"{each['data']}, interval {result.interval}: {100 * result.mean:.1f}% mIoU")
    frames = frames_to_tensor(dataset.clip(len(dataset) - 1, 2).frames)  # of the last split: it has video
    times = measure_times(models, frames, rounds, chosen)
    card = card.model_copy(update={"accuracy": tuple(accuracy), "times": (times["Accel"],)})
    write_half(path, checkpoint, card)
    timed = {title: each.model_dump() for title, each in times.items()}
    results.mkdir(parents=True, exist_ok=True)
    write_json(results / f"{name}.json", {"scores": figures, "times": timed, "origin": origin.as_dict()})
    console.print(f"written: {path} ({path.stat().st_size / 1e6:.1f} MB), {results / name}.json")


def reword(card_file: Path, checkpoint: str, shipped: Path) -> None:
    """Replace the words of a card and keep its figures. ValueError if the run has other weights by now."""

    about = read_yaml(card_file)
    path = shipped / f"{about.pop('name')}.safetensors"
    del about["scores"], about["cfg"]
    measured = describe_weights(path).card
    run, there = (load_model(each, device="cpu").state_dict() for each in (checkpoint, path))
    changed = [name for name, tensor in run.items() if not torch.equal(tensor.half().to(tensor.dtype), there[name])]
    if changed:
        raise ValueError(f"{path}: {checkpoint} has other weights by now ({changed[0]}): measure them without --words")
    card = parse_card(about)
    write_half(path, checkpoint, card.model_copy(update={"accuracy": measured.accuracy, "times": measured.times}))
    console.print(f"written: {path}")


def write_half(path: Path, checkpoint: str, card: Card) -> None:
    """Write a run's weights in half precision, and their checksum beside those of the other files."""

    description = replace(describe_weights(checkpoint), card=card, precision="float16")
    digest = save_weights(path, load_model(checkpoint, device="cpu"), description, torch.float16)
    sums = path.parent / SUMS
    write_sums(path.parent, (read_sums(sums) if sums.is_file() else {}) | {path.name: digest})


def measure_times(
    models: dict[str, VideoModel], frames: torch.Tensor, rounds: int, device: torch.device
) -> dict[str, Times]:
    """Return the times of each model, side by side. frames: a video, (T, 3, H, W)."""

    size, machine = tuple(frames.shape[2:]), machine_name(device)
    return {
        title: Times(
            size=size,
            key=round(1000 * key, 1),
            current=round(1000 * current, 1) if models[title].carries_state else None,
            machine=machine,
        )
        for title, (key, current) in time_interleaved(models, frames, rounds).items()
    }
