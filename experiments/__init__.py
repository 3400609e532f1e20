"""The ablations: what is run, how it is run, and what it showed."""
