"""JSON and YAML of anyone's: what is refused, and that each refusal says what and where."""

from __future__ import annotations

import pytest

from calib_data.parsing import NotParsableError, parse_json, parse_yaml

# Two lists in each of 40 lists: 2**40 values in a few lines.
_BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "column 1"),
        (b"{", "column 2"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": 1, "a": 2}', "'a' twice"),
        (b'{"b": [{"a": 1, "a": 2}]}', "'a' twice"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b'{"a": 1e999}', "beyond 64 bits"),
        (b"9223372036854775808", "beyond 64 bits"),
        (b"9" * 5000, "beyond 64 bits"),
        (b'{"a": "\xe9"}', "not UTF-8, byte 0xe9"),
        (b'["\\ud800"]', "surrogate"),
    ],
)
def test_what_is_no_json(content, problem):
    with pytest.raises(NotParsableError, match=problem):
        parse_json(content)


def test_json_of_every_kind():
    content = b'{"a": [1, -1.5, 1e308, 9223372036854775807, true, null, "\\ud83d\\ude00"]}'
    assert parse_json(content) == {
        "a": [1, -1.5, 1e308, 2**63 - 1, True, None, "\N{GRINNING FACE}"]
    }


def test_the_line_of_a_mistake():
    with pytest.raises(NotParsableError) as json_error:
        parse_json(b'{\n"a": 1,\n}')
    with pytest.raises(NotParsableError) as yaml_error:
        parse_yaml(b"a: 1\nb: 2\na: 3\n")
    assert (json_error.value.line, yaml_error.value.line) == (3, 3)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a: [1", "expected"),
        (b"[" * 100_000, "nested too deeply"),
        (b"a: {b: 1, b: 2}", "'b' twice"),
        (b"a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        (b"a: 2001-99-99", "month"),
        (b"a: " + b"9" * 5000, "digits"),
        (b"a: \xe9", "not UTF-8"),
        (b"a: \x00", "special characters"),
        (b"a: 1\n---\na: 2", "another document"),
        (_BOMB.encode(), "more than 100,000 values"),
        (b"a: &a [*a]", "holds itself"),
    ],
)
def test_what_is_no_yaml(content, problem):
    with pytest.raises(NotParsableError, match=problem):
        parse_yaml(content)


def test_an_alias_and_a_merge_are_no_repetition():
    content = b"base: &base {a: 1, b: 2}\nother: {<<: *base, b: 3}\n"
    assert parse_yaml(content) == {"base": {"a": 1, "b": 2}, "other": {"a": 1, "b": 3}}


def test_a_byte_order_mark_does_not_count():
    assert parse_yaml(b"\xef\xbb\xbfa: 1") == {"a": 1}
