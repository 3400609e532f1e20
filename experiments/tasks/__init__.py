"""What runs compute: each kind of run is a frozen dataclass with `execute`; records depend on this folder's code."""
