"""What every command line shares: a user's mistake is one line and exit code 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NoReturn

from accel.threads import wait_briefly

MOST_FRAMES = 10_000  # a second


class Parser(argparse.ArgumentParser):
    """Help shows the tool's docstring as it stands; a wrong argument is one line, too."""

    def __init__(self, description: str):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def parse_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):  # type: ignore[override] # it has overloads
        """`key=value` settings may stand anywhere among the options, in several places too."""
        return self.parse_intermixed_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} ({self.prog} --help lists the arguments)\n")


def frame_rate(text: str) -> Fraction:
    """An argument that says how many frames a second there are: 10, 29.97, 30000/1001."""
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= MOST_FRAMES:
        raise argparse.ArgumentTypeError(f"{text}: expected a number of frames a second, such as 10 or 30000/1001")
    return rate


def run(main: Callable[[], int | None]) -> None:
    """Run a tool's `main` and exit with its code; ValueError and what the file system refuses end it with one line."""
    wait_briefly()  # before `main` loads PyTorch
    try:
        code = main()
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(code or 0)
