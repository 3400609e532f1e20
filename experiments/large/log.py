"""The log of a large run: JSON lines, cut back to the checkpoint from which a run resumes."""

import json
import time
from math import isfinite
from pathlib import Path
from typing import Any

from experiments.large.world import World


class Log:
    """``log.jsonl``: update, mean loss since the line before, learning rate, clipped fraction, images per second.

    Process 0 writes the file; other processes keep the same lines in memory.
    """

    def __init__(self, path: Path, start: int, at: World) -> None:
        self.path, self.writes, self.clock = path, at.rank == 0, time.perf_counter()
        at.wait()
        self.lines = [line for line in _read(path) if line["update"] <= start]
        at.wait()
        if self.writes:
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_suffix(".partial")
            fresh.write_text("".join(json.dumps(line) + "\n" for line in self.lines))
            fresh.replace(path)

    def write(self, update: int, loss: float, rate: float, clipped: float, images: int) -> None:
        """Add one line; a number that is not finite becomes null, because JSON has no NaN."""
        now = time.perf_counter()
        line = {
            "update": update, "loss": loss if isfinite(loss) else None, "rate": rate,
            "clipped": round(clipped, 4) if isfinite(clipped) else None,
            "images_per_second": round(images / (now - self.clock), 1),
        }  # fmt: skip
        self.clock = now
        self.lines.append(line)
        if self.writes:
            with self.path.open("a") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
            print(" ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in line.items()), flush=True)

    def curve(self) -> dict[str, list[Any]]:
        """The logged losses, by update."""
        return {name: [line[name] for line in self.lines] for name in ("update", "loss")}


def _read(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, without a torn last line."""
    if not path.exists():
        return []
    whole, _, _ = path.read_text().rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]
