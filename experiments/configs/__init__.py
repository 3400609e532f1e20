"""One file per question of the book; see CONTRIBUTING.md for the contract that each docstring keeps."""
