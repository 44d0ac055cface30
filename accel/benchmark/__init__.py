"""How fast operators, models and streams run on this machine, always beside something to compare with."""
