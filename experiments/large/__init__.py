"""One large run: the papers' ImageNet recipe on an image folder, on one process or under ``torchrun``."""
