"""The same as the command `accel train`."""

from accel.cli import run
from accel.commands.train import main

if __name__ == "__main__":
    run(main)
