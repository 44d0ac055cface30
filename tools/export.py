"""The same as the command `accel export`."""

from accel.cli import run
from accel.commands.export import main

if __name__ == "__main__":
    run(main)
