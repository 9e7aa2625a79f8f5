"""JSON and YAML out of files that anyone may have written: plain, finite and bounded data."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, NoReturn

# Digits of the largest integer that numpy, TensorRT and protobuf take: 2**63 has 19.
_DIGITS = 19

# A file of a few lines can stand for billions of values, by aliases of lists of aliases.
_LARGEST_YAML = 100_000


class NotParsableError(ValueError):
    """A text is not JSON or YAML, or is more than plain data of a file can be.

    Attributes:
        line: Where, counted from 1; None where that is not known.
    """

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.line = line


def parse_json(content: bytes | str) -> Any:
    """Read JSON as RFC 8259 has it: no NaN, and no key twice in an object.

    Args:
        content: The text; bytes are UTF-8.

    Raises:
        NotParsableError: It is not JSON, nests too deeply, or holds a number that is beyond 64
            bits or a character that UTF-8 does not have.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        plain = json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_integer,
            object_pairs_hook=_unique,
        )
        if "\\u" in text:
            # Half of a surrogate pair is a str to Python, and an error once it is written.
            json.dumps(plain, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        raise NotParsableError(f"{error.msg}, column {error.colno}", error.lineno) from error
    except UnicodeDecodeError as error:
        raise NotParsableError(f"not UTF-8, byte 0x{error.object[error.start]:02x}") from error
    except UnicodeEncodeError as error:
        raise NotParsableError("half of a surrogate pair") from error
    except RecursionError as error:
        raise NotParsableError("nested too deeply") from error
    return plain


def parse_yaml(content: bytes) -> Any:
    """Read a YAML document of plain data.

    Args:
        content: The text, as UTF-8.

    Raises:
        NotParsableError: It is not YAML, nests too deeply, has a key twice, names a type of
            Python's, or stands for too many values.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML's safe types, each key once."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen = set()
            for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else key
                if name in seen:
                    raise NotParsableError(f"{key.value!r} twice", key.start_mark.line + 1)
                seen.add(name)
            return super().construct_mapping(node, deep)

    try:
        plain = yaml.load(content.decode("utf-8-sig"), Loader)
    except yaml.YAMLError as error:
        # YAML's own message takes five lines, of which two matter.
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise NotParsableError(problem, mark.line + 1 if mark else None) from error
    except UnicodeDecodeError as error:
        raise NotParsableError(f"not UTF-8, byte 0x{error.object[error.start]:02x}") from error
    except RecursionError as error:
        raise NotParsableError("nested too deeply") from error
    except NotParsableError:
        raise
    # A date such as 2001-99-99, or a number of more digits than Python reads.
    except (ValueError, TypeError, OverflowError) as error:
        raise NotParsableError(str(error)) from error
    if sum(1 for _ in zip(_values(plain), range(_LARGEST_YAML + 1), strict=False)) > _LARGEST_YAML:
        raise NotParsableError(f"more than {_LARGEST_YAML:,} values, or one that holds itself")
    return plain


def _values(plain: Any) -> Iterator[Any]:
    """Every value, those of an alias as often as it is used; endless where one holds itself."""
    stack = [plain]
    while stack:
        value = stack.pop()
        yield value
        if isinstance(value, dict):
            stack += value.values()
        elif isinstance(value, (list, set, tuple)):
            stack += value


def _refuse_constant(name: str) -> NoReturn:
    raise NotParsableError(f"{name} is no number of JSON's")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise NotParsableError(f"{text[:20]} is beyond 64 bits")
    return number


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > _DIGITS or abs(int(text)) >= 2**63:
        raise NotParsableError(f"{text[:20]} is beyond 64 bits")
    return int(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    if len(plain) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in plain if names.count(name) > 1)
        raise NotParsableError(f"{twice!r} twice in an object")
    return plain
