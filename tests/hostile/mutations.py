"""Ways to damage a file, drawn from a random generator: the same generator, the same damage."""

from __future__ import annotations

import json
import struct
import zlib

import numpy as np

EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 60_000, 2**40, 2**63 - 1)
PNG_START = 8


def flip(data: bytes, rng: np.random.Generator) -> bytes:
    """One to eight bytes are others."""
    damaged = bytearray(data)
    for at in rng.integers(0, len(damaged), rng.integers(1, 9)):
        damaged[at] ^= int(rng.integers(1, 256))
    return bytes(damaged)


def truncate(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(0, len(data))]


def splice(data: bytes, rng: np.random.Generator) -> bytes:
    """A part of the file is repeated, left out or moved, or noise stands in its place."""
    a, b = sorted(rng.integers(0, len(data) + 1, 2))
    at = int(rng.integers(0, len(data) + 1))
    part = data[a:b][:4096]
    kind = rng.integers(4)
    if kind == 0:
        return data[:at] + part + data[at:]
    if kind == 1:
        return data[:a] + data[b:]
    if kind == 2:
        rest = data[:a] + data[b:]
        return rest[:at] + part + rest[at:]
    return data[:a] + rng.bytes(len(part)) + data[b:]


def edit_header(data: bytes, rng: np.random.Generator, length: int = 128) -> bytes:
    """One to three fields of one, two, four or eight bytes near the beginning have extreme values."""
    damaged = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        width = int(rng.choice([1, 2, 4, 8]))
        value = int(rng.choice(np.array(EXTREMES, object))) % (1 << 8 * width)
        at = int(rng.integers(0, max(1, min(length, len(damaged)) - width)))
        damaged[at : at + width] = value.to_bytes(width, "big" if rng.random() < 0.5 else "little")
    return bytes(damaged)


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """One of these, or two one after the other."""
    for _ in range(1 + (rng.random() < 0.3)):
        data = (flip, truncate, splice, edit_header)[rng.integers(4)](data, rng) or b"\0"
    return data


def with_checksums(png: bytes) -> bytes:
    """The PNG with right checksums, as far as its chunks can be followed: damage gets by the first look."""
    fixed, at = bytearray(png), PNG_START
    while at + 12 <= len(fixed):
        (length,) = struct.unpack_from(">I", fixed, at)
        end = at + 8 + length
        if end + 4 > len(fixed):
            break
        struct.pack_into(">I", fixed, end, zlib.crc32(fixed[at + 4 : end]))
        at = end + 4
    return bytes(fixed)


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of these chunks: kind, content."""
    body = (struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c)) for kind, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def blank_png(width: int, height: int, data: int, colour: int = 2) -> bytes:
    """A PNG whose header says this size, with so many bytes of image data (zeros, compressed)."""
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return png((b"IHDR", header), (b"IDAT", zlib.compress(bytes(data))), (b"IEND", b""))


YAML_TOKENS = (
    "&a ", "*a", "&b [*a, *a]", "*b", "<<: *a", "!!python/object/apply:os.system ['true']", "!!python/name:os.system ",
    "!!binary x", "!!int x", "!!float ''", "!!timestamp 9", "!!set ", "!!omap ", "[" * 50, "{" * 50, "- " * 40, "? ",
    ": ", "|\n", ">\n", "---\n", "...\n", "%YAML 9.9\n", "\t", "\0", "\x85", "\ufeff", "\U0001f600", "9" * 5000,
    "0x" + "f" * 5000, "0b1" * 3, "2001-99-99", "2001-01-01T99:99:99Z", "1:99:99", "1e999", ".inf", ".nan", "~", "'",
    '"', '"\\ud800"', "base: run.yaml\n", "base: ['\\0']\n", "stages: [run.yaml]\n", "stages: []\n",
    "base: /dev/zero\n",
)  # fmt: skip


def mutate_yaml(text: str, rng: np.random.Generator) -> bytes:
    """YAML with pieces of syntax in wrong places, a line that is gone or repeated, or damage to its bytes."""
    for _ in range(rng.integers(1, 5)):
        lines = text.splitlines(keepends=True) or ["\n"]
        kind, line = rng.integers(4), int(rng.integers(len(lines)))
        if kind == 0:
            at = int(rng.integers(len(text) + 1))
            text = text[:at] + str(rng.choice(np.array(YAML_TOKENS, object))) + text[at:]
        elif kind == 1:
            text = "".join(lines[:line] + lines[line + 1 :])
        elif kind == 2:
            text = "".join(lines[: line + 1] + lines[line:])
        else:
            key, colon, _ = lines[line].partition(": ")
            lines[line] = f"{key}{colon}{rng.choice(np.array(YAML_TOKENS, object))}\n"
            text = "".join(lines)
    data = text.encode("utf-8", "surrogatepass") or b"\n"
    return mutate(data, rng) if rng.random() < 0.3 else data


def mutate_json(value, rng: np.random.Generator):
    """A JSON value with one place changed: another number, type or key."""
    strange = (None, True, -1, 0, 2**63, 1e308, "", "x" * 300, [], {}, [[]], *map(int, EXTREMES))
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = str(rng.choice(list(value)))
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: mutate_json(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = int(rng.integers(len(value)))
        return [*value[:at], mutate_json(value[at], rng), *value[at + 1 :]]
    return strange[rng.integers(len(strange))]


def mutate_safetensors(data: bytes, rng: np.random.Generator) -> bytes:
    """The JSON of a safetensors header changed, with its length right; or damage to its bytes."""
    if rng.random() < 0.3:
        return mutate(data, rng)
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    if rng.random() < 0.5 and "__metadata__" in header:  # what is said there is JSON again
        meta = header["__metadata__"]
        key = str(rng.choice(list(meta)))
        try:
            meta[key] = json.dumps(mutate_json(json.loads(meta[key]), rng))
        except ValueError:
            meta[key] = "[" * int(rng.integers(1, 100_000))
    else:
        header = mutate_json(header, rng)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]
