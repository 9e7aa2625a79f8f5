"""Ways in which a file goes bad: in transit, on a failing disk, by hand, or on purpose.

Each takes a file's content and a source of choices, and gives other content. The source is a
`random.Random`, so that the same seed makes the same file, in a test and outside of one.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from random import Random
from typing import Any

# What no field expects, or what only few do.
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    10**40,
    -(10**18),
    2**31,
    1e308,
    5e-324,
    -0.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\x00",
    "../../../etc/passwd",
    "/dev/null",
    "<script>alert(1)</script>",
    "NaN",
    "💥" * 40,
    "\ud800",
    [],
    [[[]]],
    ["x", 1, None],
    {},
    {"a": {"b": []}},
)
DEEP = 100_000


def truncate(content: bytes, choose: Random) -> bytes:
    return content[: choose.randrange(len(content))] if content else b""


def flip_bits(content: bytes, choose: Random) -> bytes:
    if not content:
        return content
    changed = bytearray(content)
    for _ in range(choose.choice((1, 1, 8, 64))):
        changed[choose.randrange(len(changed))] ^= 1 << choose.randrange(8)
    return bytes(changed)


def flip_bits_at_the_start(content: bytes, choose: Random) -> bytes:
    """Where headers are."""
    return flip_bits(content[:256], choose) + content[256:]


def cut_out(content: bytes, choose: Random) -> bytes:
    start = choose.randrange(len(content) + 1)
    return content[:start] + content[start + choose.choice((1, 7, 200)) :]


def repeat(content: bytes, choose: Random) -> bytes:
    start = choose.randrange(len(content) + 1)
    part = content[start : start + choose.choice((1, 40, 400))]
    return content[:start] + part + content[start:]


def put_nul(content: bytes, choose: Random) -> bytes:
    start = choose.randrange(len(content) + 1)
    return content[:start] + b"\x00" * choose.choice((1, 16)) + content[start:]


def encode_otherwise(content: bytes, choose: Random) -> bytes:
    text = content.decode("utf-8", errors="replace")
    return choose.choice(
        (
            text.encode("utf-16"),
            text.encode("utf-32-be"),
            b"\xef\xbb\xbf" + content,
            content.replace(b"e", b"\xe9"),
        )
    )


def empty(content: bytes, choose: Random) -> bytes:
    return b""


def nest(content: bytes, choose: Random) -> bytes:
    return choose.choice(
        (
            b"[" * DEEP,
            b"[" * DEEP + b"]" * DEEP,
            b'{"a":' * DEEP + b"1" + b"}" * DEEP,
            b"- " * DEEP + b"a",
        )
    )


BYTES: tuple[Callable[[bytes, Random], bytes], ...] = (
    truncate,
    flip_bits,
    flip_bits_at_the_start,
    cut_out,
    repeat,
    put_nul,
    encode_otherwise,
    empty,
    nest,
)


def mutate_bytes(content: bytes, choose: Random) -> bytes:
    return choose.choice(BYTES)(content, choose)


def mutate_plain(plain: Any, choose: Random) -> Any:
    """Remove, replace, rename or move one value somewhere in plain data, in place."""
    places = list(_places(plain))
    if not places:
        return choose.choice(VALUES)
    node, key = choose.choice(places)
    how = choose.randrange(5)
    if how == 0:
        del node[key]
    elif how == 1 and isinstance(node, dict):
        node[choose.choice(("", "unknown", "__class__", "x" * 5000))] = node.pop(key)
    elif how == 2:
        other_node, other_key = choose.choice(places)
        node[key] = json.loads(json.dumps(other_node[other_key]))
    elif how == 3:
        deep: Any = node[key]
        for _ in range(choose.choice((1, 300))):
            deep = [deep]
        node[key] = deep
    else:
        node[key] = choose.choice(VALUES)
    return plain


def mutate_json(content: bytes, choose: Random) -> bytes:
    """Another value somewhere, mostly; else a key that stands there twice, or other bytes."""
    how = choose.randrange(10)
    if how == 0:
        return mutate_bytes(content, choose)
    plain = json.loads(content)
    if how == 1:
        return _doubled(plain, choose)
    return json.dumps(mutate_plain(plain, choose)).encode()


def mutate_safetensors(content: bytes, choose: Random) -> bytes:
    """Another header mostly, whose length is kept true; else a false length, or other bytes."""
    size = int.from_bytes(content[:8], "little")
    header, body = content[8 : 8 + size], content[8 + size :]
    how = choose.randrange(8)
    if how == 0:
        return mutate_bytes(content, choose)
    if how == 1:
        false = choose.choice((0, 1, size - 1, size + 1, 2**31, 2**63, 2**64 - 1))
        return struct.pack("<Q", false) + header + body
    if how == 2:
        number = choose.choice((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\x00\x00\x80\xff"))
        start = 4 * choose.randrange(len(body) // 4)
        return content[: 8 + size] + body[:start] + number + body[start + 4 :]
    if how == 3:
        plain = json.loads(header)
        tensor = plain[choose.choice([name for name in plain if name != "__metadata__"])]
        tensor["shape"] = choose.choice(([2**40], [2**31, 2**31], [0], [-1], tensor["shape"][::-1]))
        if choose.randrange(2):
            tensor["data_offsets"] = choose.choice(([0, 2**50], [2**60, 2**61], [8, 4], [0, 0]))
        header = json.dumps(plain).encode()
    elif how == 4:
        other = choose.choice((b"F16", b"I64", b"BF16", b"F64", b"F8_E4M3", b"X1"))
        header = header.replace(b'"F32"', b'"' + other + b'"', choose.choice((1, -1)))
    else:
        header = mutate_json(header, choose)
    return struct.pack("<Q", len(header)) + header + body


def mutate_yaml(content: bytes, choose: Random) -> bytes:
    import yaml

    how = choose.randrange(8)
    if how == 0:
        return mutate_bytes(content, choose)
    if how == 1:
        lines = content.decode().splitlines()
        return "\n".join([*lines, choose.choice(lines)]).encode()
    if how == 2:
        return content + choose.choice(YAML_SURPRISES).encode()
    plain = mutate_plain(yaml.safe_load(content), choose)
    try:
        return yaml.safe_dump(plain).encode()
    except UnicodeEncodeError:
        return json.dumps(plain).encode()


# Each ends a file that was good up to there.
YAML_SURPRISES = (
    "\na: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
    + "".join(
        f"{chr(c + 1)}: &{chr(c + 1)} [" + ",".join([f"*{chr(c)}"] * 9) + "]\n"
        for c in range(ord("b"), ord("k"))
    )
    + "name: *k\n",
    "\nname: !!python/object/apply:os.system ['true']\n",
    "\nname: 2001-99-99\n",
    "\nname: " + "9" * 5000 + "\n",
    "\n? [1, 2]\n: x\n",
    "\n? {a: 1}\n: x\n",
    "\nname: &x [*x]\n",
    "\nname: *nowhere\n",
    "\n---\nname: x\n",
    "\nname: !!binary not-base64\n",
    "\n<<: 3\n",
    "\nseed: 1e999\nmax_drop: .nan\n",
    "\n\tname: x\n",
)


def mutate_text(content: bytes, choose: Random) -> bytes:
    """For TSV, CSV and JSONL: another field, mostly."""
    if choose.randrange(3) == 0:
        return mutate_bytes(content, choose)
    lines = content.decode().split("\n")
    row = choose.randrange(len(lines))
    fields = lines[row].split("\t" if "\t" in lines[row] else ",")
    column = choose.randrange(len(fields))
    value = str(choose.choice(VALUES)).encode("utf-8", "replace").decode()
    fields[column] = choose.choice((value, value, '"', '"' + fields[column], "x" * 200_000))
    if choose.randrange(4) == 0:
        del fields[column]
    lines[row] = ("\t" if "\t" in lines[row] else ",").join(fields)
    return "\n".join(lines).encode()


def _doubled(plain: Any, choose: Random) -> bytes:
    """A key of the outermost object a second time, with another value."""
    key = choose.choice(list(plain))
    text = json.dumps(plain)
    return (text[:-1] + f", {json.dumps(key)}: {json.dumps(choose.choice(VALUES))}}}").encode()


def _places(node: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    stack = [node]
    while stack:
        each = stack.pop()
        keys: Any = (
            list(each)
            if isinstance(each, dict)
            # The elements of a long list are alike.
            else range(min(len(each), 4))
            if isinstance(each, list)
            else ()
        )
        for key in keys:
            found.append((each, key))
            stack.append(each[key])
    return found
