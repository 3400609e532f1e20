"""`make new-experiment NAME=...`: a config, a chapter and a test that run as they are, for you to change."""
