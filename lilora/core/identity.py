"""Canonical bytes of a value, and the digest of them or of a file: what identity is made of.

A value is built from frozen dataclasses, tuples, string-keyed mappings and plain scalars. A dataclass field that
equals its default is left out, so adding a field keeps old digests (and a shipped default is therefore frozen).
What has no stable bytes - a function, an array, an open file, a NaN - is refused: it is never pickled, never str()-ed.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import weakref
from collections.abc import Callable, Mapping
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


def canonical(value: Any, where: str = "value") -> Json:
    """`value` as plain JSON data with one spelling for each meaning.

    A dataclass becomes `{"type": its name, **fields that differ from their defaults}`; its name is the class
    attribute `identity` where it has one, so a class may move or be renamed and keep its digests; else the class's
    own, behind its module's where it is none of this package: two packages may each have a "SeqLoRA". A number in a
    field annotated `float` is a float (1 and 1.0 are one value). Fields with `metadata={"identity": False}` (labels,
    hints on how to run) are left out.

    Raises:
        TypeError: `value` holds something without stable bytes; the message says where and what to use instead.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{where} is {value}: a value must be finite to have an identity; use None for 'no limit'")
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _canonical_dataclass(value, where)
    if isinstance(value, (list, tuple)):
        return [item if type(item) is str else canonical(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}: keys must be strings")
        return {key: canonical(value[key], f"{where}[{key!r}]") for key in sorted(value)}
    raise TypeError(
        f"{where} is a {type(value).__name__}, which has no stable bytes: "
        "use a frozen dataclass, a tuple, a mapping with string keys, a string or a number"
    )


def _canonical_dataclass(value: Any, where: str) -> dict[str, Json]:
    return {
        name: item if item is None or type(item) in _PLAIN else canonical(item, f"{where}.{name}")
        for name, item in _said(value)
    }


def _said(value: Any) -> list[tuple[str, Any]]:
    """The fields of a dataclass that its identity says, and its "type", in the order of their names."""
    result: dict[str, Any] = {}
    own: Any = type(value)
    for field in _fields(own):
        if field.name == "":
            result["type"] = getattr(value, "identity", None) or _type_name(own)
            continue
        item = getattr(value, field.name)
        if field.has_default and item == field.default:
            continue
        if field.default_factory is not None and item == field.default_factory():
            continue
        if field.is_float and isinstance(item, int) and type(item) is not bool:
            item = float(item)
        result[field.name] = item
    return list(result.items())


@dataclasses.dataclass(frozen=True)
class _Field:
    """What `_canonical_dataclass` asks about a field, asked once a class. Without a name: the place of "type"."""

    name: str
    has_default: bool = False
    default: Any = None
    default_factory: Callable[[], Any] | None = None
    is_float: bool = False


@functools.cache
def _fields(kind: type[Any]) -> tuple[_Field, ...]:
    """The fields of a dataclass that are part of its identity, and "type", in the order of their names."""
    found = [_Field("")]
    for field in dataclasses.fields(kind):
        if field.metadata.get("identity", True):
            has_default = field.default is not dataclasses.MISSING
            factory = None if field.default_factory is dataclasses.MISSING else field.default_factory
            is_float = str(field.type).startswith("float")
            found.append(_Field(field.name, has_default, field.default, factory, is_float))
    # Stable: a field that is itself called "type" comes after the class's name, and takes its place.
    return tuple(sorted(found, key=lambda field: field.name or "type"))


@functools.cache
def _type_name(kind: type[Any]) -> str:
    own = kind.__module__.partition(".")[0] == __name__.partition(".")[0]
    return kind.__qualname__ if own else f"{kind.__module__}.{kind.__qualname__}"


#: Kinds of values whose canonical form is the value itself; of a float it must be finite.
_PLAIN = frozenset({str, bool, int})
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def canonical_json(value: Any) -> str:
    """The one JSON text of `value`: sorted keys, no spaces, ASCII."""
    return _ENCODER.encode(canonical(value))


def digest_of(value: Any) -> str:
    """SHA-256 (64 hexadecimal digits) of `canonical_json(value)`."""
    return digest_of_text(text_of_canonical(value))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


#: Of a dataclass that is still in use, by its address: a reference that does not keep it, and its canonical JSON.
_TEXTS: dict[int, tuple[weakref.ref[Any], str]] = {}


def text_of_canonical(value: Any, where: str = "value") -> str:
    """`canonical_json(value)`, made once for each dataclass object, for as long as that is in use.

    It is known again as the same object, never as an equal one: 1, 1.0 and True are equal, and have other texts. What
    has no hash may change, and is not remembered.
    """
    known = _TEXTS.get(id(value))
    if known is not None and known[0]() is value:
        return known[1]
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return _ENCODER.encode(canonical(value, where))
    text = "{" + ",".join([f"{quoted(name)}:{_text_of_field(item, where, name)}" for name, item in _said(value)]) + "}"
    try:
        hash(value)
        own = weakref.ref(value, functools.partial(_forget, id(value)))
    except TypeError:
        return text
    _TEXTS[id(value)] = own, text
    return text


def _text_of_field(item: Any, where: str, name: str) -> str:
    kind = type(item)
    if kind is str:
        return encode_basestring_ascii(item)
    if kind is int:
        return str(item)
    # Parts that many values share, such as a backbone, are made once for all of them.
    return text_of_canonical(item, f"{where}.{name}")


def _forget(key: int, gone: weakref.ref[Any]) -> None:
    if (known := _TEXTS.get(key)) is not None and known[0] is gone:
        del _TEXTS[key]


@functools.lru_cache(maxsize=4096)
def quoted(name: str) -> str:
    """A short text that comes again and again, such as a field's name, as `canonical_json` writes it."""
    return encode_basestring_ascii(name)


def digest_of_text(text: str) -> str:
    """`digest_of` the value whose `canonical_json` is `text`."""
    return hashlib.sha256(text.encode("ascii")).hexdigest()
