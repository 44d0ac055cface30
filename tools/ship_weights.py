"""Put the weights of a run into the package, in half precision, with a card of what was measured with just that file.

python tools/ship_weights.py --card tools/cards/accel-lite-camvid.yaml --checkpoint runs/camvid_lite/accel

The card's file names the weights, says in words what they are, and says what to score them on. All figures, also those
of the simpler models within this one, are written to docs/results/NAME.json.
"""

from __future__ import annotations

from pathlib import Path

from accel.cli import Parser, run

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

    from accel.evaluation.shipping import reword, ship

    if args.words:
        reword(Path(args.card), args.checkpoint, args.shipped)
    else:
        ship(Path(args.card), args.checkpoint, args.shipped, args.results, args.rounds, args.device, args.overrides)


if __name__ == "__main__":
    run(main)
