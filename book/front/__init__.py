"""What the build draws itself: the first page, the README and the explorers."""
