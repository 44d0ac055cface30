"""The same as the command `accel evaluate`."""

from accel.cli import run
from accel.commands.evaluate import main

if __name__ == "__main__":
    run(main)
