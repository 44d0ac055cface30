"""Show known weights as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.table import Table

from accel.weights.cards import Card
from accel.weights.names import Known


def models_table(known: Sequence[Known]) -> Table:
    """Return a table with a row for each of the weights: classes, accuracy, speed, size and licence."""
    table = Table(show_lines=True)
    for head in ("name", "what it is", "accuracy: % (interval)", "ms, key / other frame", "MB", "licence"):
        table.add_column(head, justify="right" if head == "MB" else "left", no_wrap=head in ("name", "MB", "licence"))
    for each in known:
        description, card = each.description, each.description.card
        trained_on = f", trained on {card.trained_on}" if card.trained_on else ""
        table.add_row(
            f"{each.name}\n({each.where})",
            f"{description.model.name}, {len(description.class_names)} classes{trained_on}",
            "\n".join(_accuracy(card)) or "not stated",
            "\n".join(
                f"{t.key:.0f} / {'-' if t.current is None else f'{t.current:.0f}'} at {t.size[1]}x{t.size[0]}"
                for t in card.times
            )
            or "not stated",
            f"{each.megabytes:.1f}",
            card.licence or "not stated",
        )
    return table


def _accuracy(card: Card) -> Iterator[str]:
    """Yield a line for each measure on each data set, with all intervals."""
    for (measure, data), found in groupby(card.accuracy, lambda a: (a.measure, a.data)):
        yield f"{measure}, {data}: " + ", ".join(f"{100 * a.value:.1f} ({a.interval})" for a in found)
