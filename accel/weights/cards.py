"""Model cards: what a user should know about weights. They are stored with the weights and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

CITATIONS = {
    "Accel": (
        "S. Jain, X. Wang, J. E. Gonzalez: Accel: A Corrective Fusion Network for Efficient Semantic Segmentation on "
        "Video. CVPR 2019."
    ),
    "Deep Feature Flow": (
        "X. Zhu, Y. Xiong, J. Dai, L. Yuan, Y. Wei: Deep Feature Flow for Video Recognition. CVPR 2017."
    ),
    "LSTS": "Z. Jiang et al.: Learning Where to Focus for Efficient Video Object Detection. ECCV 2020.",
}


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Accuracy(_Record):
    """A measured accuracy.

    data: the data that were scored, such as "CamVid test".
    interval: frames from key frame to key frame.
    measure: mIoU, mAP.
    value: 0..1.
    note: how it was scored, if that is not obvious.
    """

    data: str
    interval: int
    measure: str
    value: float
    note: str = ""


class Times(_Record):
    """The times of a key frame and of any other frame, in milliseconds.

    size: (height, width) of the frames.
    machine: the machine, with its instruction sets and the number of cores used.
    """

    size: tuple[int, int]
    key: float
    current: float | None
    machine: str


class Card(_Record):
    """What is known about weights.

    summary: one sentence.
    trained_on: the training data, and how they were used.
    data_licence: what the data may be used for.
    licence: the licence of the weights themselves, by its SPDX name.
    limits: the known weaknesses, in words.
    cite: the publications to cite.
    """

    summary: str = ""
    trained_on: str = ""
    data_licence: str = ""
    licence: str = ""
    limits: str = ""
    accuracy: tuple[Accuracy, ...] = ()
    times: tuple[Times, ...] = ()
    cite: tuple[str, ...] = ()


def parse_card(values: Any) -> Card:
    """Read a card. Raises ValueError if the values are not a card."""
    try:
        return Card.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"card: {where}: {first['msg']}") from None


@dataclass(frozen=True)
class Subject:
    """The model that a card describes. parameters: the number of its parameters."""

    name: str
    architecture: str
    class_names: Sequence[str]
    parameters: int


def card_page(card: Card, subject: Subject) -> str:
    """Return the card as Markdown, with the front matter that model hubs read. Unknown entries are shown as such."""
    front = ["---", "library_name: accel", "tags: [video, image-segmentation, accel]"]
    if card.licence:
        front.append(f"license: {card.licence.lower()}")
    front.append("---")
    parts = [
        *front,
        f"# {subject.name}",
        "",
        card.summary or f"A {subject.architecture} model for Accel.",
        "",
        "```python",
        "import accel",
        "",
        f'model = accel.load_model("hf://OWNER/{subject.name}")  # or the folder that holds this file',
        "```",
        "",
        f"- Architecture: {subject.architecture}, {subject.parameters / 1e6:.1f} million parameters",
        f"- Classes ({len(subject.class_names)}): {', '.join(subject.class_names)}",
        f"- Trained on: {card.trained_on or 'not stated'}",
        f"- Licence of the training data: {card.data_licence or 'not stated'}",
        f"- Licence of the weights: {card.licence or 'not stated'}",
        "",
        "## Accuracy",
        "",
        *_table(
            ("data", "key frame every", "measure", "%", "how"),
            [(a.data, a.interval, a.measure, f"{100 * a.value:.1f}", a.note) for a in card.accuracy],
        ),
        "",
        "## Time for a frame",
        "",
        *_table(
            ("frame", "key frame, ms", "other frame, ms", "machine"),
            [
                (f"{t.size[1]}x{t.size[0]}", f"{t.key:.1f}", "" if t.current is None else f"{t.current:.1f}", t.machine)
                for t in card.times
            ],
        ),
        "",
        "## Limits",
        "",
        card.limits or "Not stated.",
        "",
        "## Please cite",
        "",
        *(f"- {CITATIONS.get(who, who)}" for who in card.cite or ("Accel",)),
    ]
    return "\n".join(parts) + "\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    if not rows:
        return ["Not measured."]
    lines = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(str(cell).replace("|", "/").replace("\n", " ") for cell in line) + " |" for line in lines]
