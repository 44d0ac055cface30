"""Summarise several seeds in Markdown tables, with mean and standard deviation: "NAME #0", "NAME #1" are runs of NAME.

python tools/evaluate.py --sweep 1,5 --name "DFF #0" --name "DFF #1" --cfg ... --checkpoint ... --json dff.json
python tools/summarize.py dff.json
"""

from __future__ import annotations

from accel.cli import Parser, run


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("results", nargs="+", metavar="JSON", help="written by tools/evaluate.py --sweep ... --json")
    args = parser.parse_args()

    from accel.evaluation.comparing.seeds import markdown, summarize

    print(markdown(summarize(args.results)))


if __name__ == "__main__":
    run(main)
