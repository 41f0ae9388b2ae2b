"""Payloads of RESTORE that a server must not store."""

from __future__ import annotations

POLYNOMIAL = 0x95AC9329AC4BC9B5
"""CRC-64/Jones, reflected, as servers check it."""
FIELD, LONG = b"\x85field", b"\xf0\xff\xff\xff\x7f\x00"
"""The listpack entry of `field`, and the beginning of one that is 2 GiB long."""


def crc64(data: bytes) -> bytes:
    """Return the checksum that ends a payload."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ POLYNOMIAL if crc & 1 else crc >> 1
    return crc.to_bytes(8, "little")


def corrupted(dump: bytes) -> bytes:
    """Return the DUMP of a small hash whose first name is `field`, with that entry corrupted."""
    content, checksum = dump[:-8], dump[-8:]
    assert crc64(content) == checksum
    assert content.count(FIELD) == 1
    content = content.replace(FIELD, LONG)
    return content + crc64(content)
