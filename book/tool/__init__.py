"""Build of the book: chapters are executed if something changed, and then rendered."""
