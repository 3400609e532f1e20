"""The kinds of runs: each is a frozen dataclass with `steps`, which computes the run, and `NUMERICS`."""
