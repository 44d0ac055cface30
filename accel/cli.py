"""The common part of all command lines: a user's mistake gives one line and exit code 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NoReturn

from accel.threads import set_threads, thread_count, wait_briefly

MOST_FRAMES = 10_000  # a second


class Parser(argparse.ArgumentParser):
    """An argument parser whose help shows the tool's docstring unchanged. A wrong argument gives one line."""

    def __init__(self, description: str):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def parse_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):  # type: ignore[override] # it has overloads
        """Accept `key=value` settings anywhere among the options, even in several places."""
        return self.parse_intermixed_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} ({self.prog} --help lists the arguments)\n")


def frame_rate(text: str) -> Fraction:
    """Read a number of frames per second from an argument: 10, 29.97, 30000/1001."""
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= MOST_FRAMES:
        raise argparse.ArgumentTypeError(f"{text}: expected a number of frames a second, such as 10 or 30000/1001")
    return rate


class _SetThreads(argparse.Action):
    """Set the number of threads when the argument is read, before PyTorch is loaded. The namespace does not get it."""

    def __call__(self, parser, namespace, values, option_string=None):
        try:
            set_threads(thread_count(str(values), "--threads"))
        except ValueError as error:
            parser.error(str(error))


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Add the argument --threads, which takes effect at once."""
    parser.add_argument(
        "--threads",
        metavar="N",
        action=_SetThreads,
        default=argparse.SUPPRESS,
        help="threads that compute (default: one for each fast core that this process may use)",
    )


def run(main: Callable[[], int | None]) -> None:
    """Run a tool's `main` and exit with its code. ValueError and OSError end it with one line."""
    try:
        wait_briefly()  # before `main` loads PyTorch
        set_threads()
        code = main()
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(code or 0)
