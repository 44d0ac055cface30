"""`python -m accel` is the command `accel`. torchrun and Slurm start their processes this way."""

from accel.commands import command

if __name__ == "__main__":
    command()
