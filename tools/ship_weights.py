"""Put the weights of a run into the package, in half precision, with a card of what was measured with just that file.

python tools/ship_weights.py --card tools/cards/accel-lite-camvid.yaml --checkpoint runs/camvid_lite/accel

The card's file names the weights, says in words what they are, and says what to score them on. All figures, also those
of the simpler models within this one, are written to docs/results/NAME.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from accel.cli import Parser, run

if TYPE_CHECKING:
    import torch

    from accel.models import VideoModel
    from accel.weights.cards import Card, Times

SHIPPED, RESULTS = Path("accel/weights/shipped"), Path("docs/results")
ROUNDS = 20  # the models' turns when they are timed


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--card", required=True, help="YAML: the card's words, and what to score on")
    parser.add_argument("--checkpoint", required=True, help="folder of the run")
    parser.add_argument("--shipped", type=Path, default=SHIPPED, help=f"folder for the weights (default: {SHIPPED})")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"folder for the figures (default: {RESULTS})")
    parser.add_argument("--words", action="store_true", help="measure nothing: only the card's words have changed")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"turns of timing (default: {ROUNDS})")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that override those of the data")
    args = parser.parse_args()
    if args.words:
        reword(Path(args.card), args.checkpoint, args.shipped)
    else:
        ship(Path(args.card), args.checkpoint, args.shipped, args.results, args.rounds, args.device, args.overrides)


def ship(
    card_file: Path, checkpoint: str, shipped: Path, results: Path, rounds: int, device: str, overrides: list[str]
) -> None:
    from accel.config import load_config
    from accel.datasets import build_dataset
    from accel.datasets.clips import frames_to_tensor
    from accel.devices import choose_device
    from accel.evaluation.origin import Origin
    from accel.evaluation.running.evaluator import compare
    from accel.evaluation.tables import write_json
    from accel.files.yaml_files import read_yaml
    from accel.inference.loading import check_classes, load_model
    from accel.progress import console
    from accel.weights.cards import Accuracy, parse_card
    from accel.weights.checkpoints import weights_path

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
        scored = {title: scored for title, scored in models.items() if not (still and scored.carries_state)}
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
    import torch

    from accel.files.yaml_files import read_yaml
    from accel.inference.loading import load_model
    from accel.progress import console
    from accel.weights.cards import parse_card
    from accel.weights.checkpoints import describe_weights

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
    from dataclasses import replace

    import torch

    from accel.inference.loading import load_model
    from accel.weights.checkpoints import describe_weights, save_weights
    from accel.weights.checksums import SUMS, read_sums, write_sums

    description = replace(describe_weights(checkpoint), card=card, precision="float16")
    digest = save_weights(path, load_model(checkpoint, device="cpu"), description, torch.float16)
    sums = path.parent / SUMS
    write_sums(path.parent, (read_sums(sums) if sums.is_file() else {}) | {path.name: digest})


def measure_times(
    models: dict[str, VideoModel], frames: torch.Tensor, rounds: int, device: torch.device
) -> dict[str, Times]:
    """Return the times of each model, side by side. frames: a video, (T, 3, H, W)."""
    from accel.inference.timing import time_interleaved
    from accel.machine import machine_name
    from accel.weights.cards import Times

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


if __name__ == "__main__":
    run(main)
