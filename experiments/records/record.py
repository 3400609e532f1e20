"""One record: a line of JSON, whose large fields are decoded when one of them is first read."""

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

SCHEMA = 2
DONE = ("ok", "diverged")
# Decoding all of 100,000 lines takes seconds and most of a gigabyte, and most readers need a few lines. So a line
# begins with the small fields, and the late fields are decoded when one of them is first read.
EARLY = ("schema", "sweep", "method", "key", "seed", "status", "numerics")
LATE = ("config", "curve", "metrics", "profile", "provenance", "reason")
START = b'{"schema": '
HEAD = re.compile(
    rb'\{"schema": (\d+), "sweep": "([^"\\]*)", "method": "([^"\\]*)", "key": "([^"\\]*)", "seed": (\d+), '
    rb'"status": "(\w+)", "numerics": (\d+), "config": \{'
)
UNTOLD = {"numerics": 0}  # for lines of schema 1, which lack the field


@dataclass(frozen=True)
class Record:
    """One run and its outcome.

    `key` is the run's key, and `config` holds every field of the run but its seed and its label. `status` is ``"ok"``,
    ``"diverged"`` (a result) or ``"failed"`` (an error; the next start repeats the run), with the reason. `numerics` is
    the `NUMERICS` of the run's kind when the run was computed, or 0 in a record of schema 1.

    `metrics` are those of the kind: a training has ``accuracy`` and ``train_accuracy`` (shares of 1), ``train_loss``,
    and with clipping ``clipped_fraction``. `curve` has the loss by update. `provenance` has the commit, whether files
    differed from it, versions, device, start, seconds and peak memory in MiB.
    """

    sweep: str
    profile: str
    method: str
    key: str
    seed: int
    status: str
    reason: str
    config: dict[str, Any]
    metrics: dict[str, float]
    curve: dict[str, list[Any]]
    provenance: dict[str, Any]
    numerics: int
    schema: int = SCHEMA

    @property
    def done(self) -> bool:
        """Whether the run has a result; an error is none."""
        return self.status in DONE

    @property
    def out_of_memory(self) -> bool:
        """Whether the run failed because its device had no memory left."""
        return self.status == "failed" and self.reason.startswith("OutOfMemoryError")

    def line(self) -> bytes:
        """The record as a line of the file."""
        parts = ((name, getattr(self, name)) for name in (*EARLY, *LATE))
        fields = (f'"{name}": {json.dumps(value, sort_keys=True, allow_nan=False)}' for name, value in parts)
        return f"{{{', '.join(fields)}}}\n".encode()

    if not TYPE_CHECKING:  # with it, a type checker would allow every attribute name

        def __getattr__(self, name: str) -> Any:
            line = self.__dict__.get("_line")
            if line is None or name not in LATE:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            try:
                fields = json.loads(line)
            except ValueError as error:
                raise ValueError(
                    f"the record of sweep {self.sweep!r} with key {self.key}, seed {self.seed}, is damaged ({error}). "
                    "Delete its line (its run will be repeated), or restore the file from git"
                ) from error
            self.__dict__.update({late: fields[late] for late in LATE})
            self.__dict__.pop("_line", None)
            return fields[name]


class NewerSchema(ValueError):
    """Raised for a line that was written by a later version, with fields that are unknown here."""


def parse(line: bytes, names: dict[bytes, str]) -> Record:
    """The record of a line; a ValueError or TypeError if it is none. `names` keeps equal strings only once."""
    head = HEAD.match(line)
    # A second start inside a line means that the line was torn and the next one follows without a newline.
    if head is None or line.find(START, 1) > 0 or not line.endswith(b"}\n"):
        fields = json.loads(line)
        _check_schema(fields.get("schema", SCHEMA) if isinstance(fields, dict) else SCHEMA)
        return Record(**(UNTOLD | fields))
    schema, sweep, method, key, seed, status, numerics = head.groups()
    _check_schema(int(schema))
    record = object.__new__(Record)
    record.__dict__.update(
        schema=int(schema),
        sweep=names.get(sweep) or names.setdefault(sweep, sweep.decode()),
        method=names.get(method) or names.setdefault(method, method.decode()),
        key=names.get(key) or names.setdefault(key, key.decode()),
        seed=int(seed),
        status=names.get(status) or names.setdefault(status, status.decode()),
        numerics=int(numerics),
        _line=line,
    )
    return record


def _check_schema(schema: int) -> None:
    if schema > SCHEMA:
        raise NewerSchema(
            f"schema={schema}; this code reads up to {SCHEMA}. It was written by a newer version: "
            "update this checkout, or pass --results with another folder"
        )
