"""Model cards: what a person should know of weights before using them, kept with the weights and as a page."""

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
    """data: what was scored, such as "CamVid test".  interval: frames from key frame to key frame.
    measure: mIoU, mAP.  value: 0..1.  note: how it was scored, where that is not plain."""

    data: str
    interval: int
    measure: str
    value: float
    note: str = ""


class Times(_Record):
    """Milliseconds of a key frame and of any other, of frames of `size` (height, width). machine: what was timed on,
    with its instruction sets and how many cores were used."""

    size: tuple[int, int]
    key: float
    current: float | None
    machine: str


class Card(_Record):
    """What is known of weights.

    summary: one sentence.  trained_on: the data, and how.  data_licence: what the data may be used for.
    licence: of the weights themselves, as SPDX names it.  limits: what goes wrong, in words.  cite: whom.
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
    """ValueError for what is no card."""
    try:
        return Card.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"card: {where}: {first['msg']}") from None


@dataclass(frozen=True)
class Subject:
    """What a card is about. parameters: how many."""

    name: str
    architecture: str
    class_names: Sequence[str]
    parameters: int


def card_page(card: Card, subject: Subject) -> str:
    """The card as Markdown, with the front matter that model hubs read. What is not known is said so."""
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
