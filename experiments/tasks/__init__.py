"""What runs compute: each kind of run is a frozen dataclass with `steps` and `NUMERICS`."""
