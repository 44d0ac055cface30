"""The same as the command `accel demo`."""

from accel.cli import run
from accel.commands.demo import main

if __name__ == "__main__":
    run(main)
