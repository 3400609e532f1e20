"""The key of a run: a hash that does not change when a field with a default is added."""

import hashlib
import json
from collections.abc import Container
from dataclasses import MISSING, Field, fields, is_dataclass
from types import NoneType
from typing import Any, get_args


def key_of(run: Any, apart: Container[str] = ()) -> str:
    """Hash of a run's class name and of its fields that differ from their defaults, without those in `apart`.

    A new field with a default changes no key. A changed default gives old keys another meaning: whoever changes one
    raises the `NUMERICS` of every kind of run that has the field.
    """
    told = {name: value for name, value in _told(run).items() if name not in apart}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def _told(value: Any, declared: Any = None) -> Any:
    """Plain data that distinguishes a value from all others of its `declared` type.

    A dataclass becomes its fields that differ from their defaults. Its class name joins them unless the declared type
    admits no other class.
    """
    if isinstance(value, (tuple, list)):
        return [_told(item) for item in value]
    if not is_dataclass(value):
        return value
    found = {
        field.name: _told(held, field.type)
        for field in fields(value)
        if (held := getattr(value, field.name)) != _default(field)
    }
    admitted = [kind for kind in get_args(declared) or (declared,) if kind is not NoneType]
    return found if admitted == [type(value)] else {"class": type(value).__name__, **found}


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
