"""List the weights that can be used by name: in the package, in model/, and among earlier downloads.

accel models
accel label drive.mp4 --model NAME
"""

from __future__ import annotations

from collections.abc import Sequence

from accel.cli import Parser


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.parse_args(arguments)

    from accel.progress import console
    from accel.weights.listing import models_table
    from accel.weights.names import known_weights

    known = list(known_weights())
    if known:
        console.print(models_table(known))
    else:
        console.print(
            "no weights with the package, in model/ or in the cache; a run's folder, a .safetensors file or "
            "hf://OWNER/NAME can be used instead",
            soft_wrap=True,
        )
