"""What a client remembers in order to read its own writes: one read token per collection.

A write's token names only the partitions that it went to, and a read may have been under way while
a write ended.  So a new token never replaces the old one: the two are joined, position by position.
The tokens of this version ("rt1.") can be joined here; of any other kind the newest is kept and
reads ask for `fresh` from then on, which holds every write answered before.

A Session may be shared by clients and threads: what one wrote, the others read.
"""
from __future__ import annotations

import base64
import binascii
import threading
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

_PREFIX = "rt1."
_Positions = Dict[Tuple[int, int], int]  # (region, partition) -> next offset to read


def _crc32c_table() -> List[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _crc32c_table()


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def varint(self) -> int:
        value = shift = 0
        while True:
            if self.at >= len(self.data) or shift > 63:
                raise ValueError("a varint that does not end")
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode(token: str) -> _Positions:
    """Positions of an rt1 token.  Raises ValueError for anything else."""
    if not token.startswith(_PREFIX):
        raise ValueError("a token of another version")
    text = token[len(_PREFIX):]
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise ValueError("not base64") from error
    if len(raw) < 4 or int.from_bytes(raw[-4:], "little") != _crc32c(raw[:-4]):
        raise ValueError("a damaged token")
    reader, positions, region = _Reader(raw[:-4]), {}, -1
    for _ in range(reader.varint()):
        region += reader.varint() + 1
        partition = -1
        for _ in range(reader.varint()):
            partition += reader.varint() + 1
            positions[region, partition] = reader.varint()
    if reader.at != len(raw) - 4:
        raise ValueError("bytes behind the end")
    return positions


def encode(positions: _Positions) -> str:
    regions: Dict[int, List[Tuple[int, int]]] = {}
    for (region, partition), position in sorted(positions.items()):
        regions.setdefault(region, []).append((partition, position))
    raw, region_before = _varint(len(regions)), -1
    for region, entries in regions.items():
        raw += _varint(region - region_before - 1) + _varint(len(entries))
        region_before, partition_before = region, -1
        for partition, position in entries:
            raw += _varint(partition - partition_before - 1) + _varint(position)
            partition_before = partition
    raw += _crc32c(raw).to_bytes(4, "little")
    return _PREFIX + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Known(NamedTuple):
    """What a read of one collection must hold: the token, and whether that is all."""

    token: Optional[str]
    fresh: bool


def _joined(old: Optional[Known], token: str) -> Known:
    if old is None or old.token is None:
        return Known(token, False)
    if old.token == token:
        return old
    try:
        positions, more = decode(old.token), decode(token)
    except ValueError:
        return Known(token, True)
    for place, position in more.items():
        positions[place] = max(position, positions.get(place, 0))
    return Known(encode(positions), old.fresh)


class Session:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: Dict[str, Known] = {}  # guarded by _lock

    def known(self, collection: str) -> Known:
        with self._lock:
            return self._known.get(collection, Known(None, False))

    def token(self, collection: str) -> Optional[str]:
        """To be handed to another process that must see what this one wrote."""
        return self.known(collection).token

    def learn(self, collection: str, token: Any) -> None:
        """A write or a read was answered with this token."""
        if not isinstance(token, str) or not token:
            return
        with self._lock:
            self._known[collection] = _joined(self._known.get(collection), token)

    def gone(self, collection: str, token: Optional[str]) -> None:
        """The log of this token is gone: forget it, unless something newer has come."""
        with self._lock:
            known = self._known.get(collection)
            if known is not None and known.token == token:
                del self._known[collection]

    def forget(self, collection: str) -> None:
        with self._lock:
            self._known.pop(collection, None)
