"""The same as the command `accel convert`."""

from accel.cli import run
from accel.commands.convert import main

if __name__ == "__main__":
    run(main)
