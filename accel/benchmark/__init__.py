"""Measure how fast operators, models and streams run on this machine, always in comparison with something else."""
