"""The same as the command `accel benchmark`."""

from accel.cli import run
from accel.commands.benchmark import main

if __name__ == "__main__":
    run(main)
