"""`python -m accel` is the command `accel`; processes of torchrun and Slurm are started so."""

from accel.commands import command

if __name__ == "__main__":
    command()
