"""Dockerfile and .dockerignore: what can be held against them without Docker."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "docker/Dockerfile").read_text(encoding="utf-8")
INSTRUCTIONS = re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent


def stages() -> dict[str, str]:
    """Instructions by stage; the last, without a name, is ""."""
    found = re.split(r"^FROM (\S+)(?: AS (\S+))?\n", INSTRUCTIONS, flags=re.MULTILINE)[1:]
    return {
        name or "": f"FROM {base}\n{body}"
        for base, name, body in zip(found[::3], found[1::3], found[2::3], strict=True)
    }


def defaults() -> dict[str, str]:
    return dict(re.findall(r"^ARG (\w+)=(\S+)$", DOCKERFILE, re.MULTILINE))


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path out of the context: the last pattern that matches wins."""
    out = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        kept = pattern.startswith("!")
        pattern = pattern.lstrip("!").removeprefix("**/")
        parts = Path(path).parts
        prefixes = ["/".join(parts[: i + 1]) for i in range(len(parts))]
        if any(fnmatch.fnmatch(each, pattern) for each in (*prefixes, *parts)):
            out = not kept
    return out


def test_hadolint_has_no_complaint():
    done = subprocess.run(
        [BIN / "hadolint", "--no-color", ROOT / "docker/Dockerfile"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_every_linter_exception_says_why():
    exceptions = re.findall(r"# hadolint ignore=\S+(.*)", DOCKERFILE)
    assert exceptions
    assert all(re.match(r"\s+# \w+", reason) for reason in exceptions)


def test_what_is_copied_from_the_repository_exists_and_is_in_the_context():
    sources = []
    for line in re.findall(r"^COPY (.*)$", INSTRUCTIONS, re.MULTILINE):
        if "--from=" not in line:
            words = [word for word in line.split() if not word.startswith("--")]
            sources += words[:-1]
    assert {"pyproject.toml", "docker/entrypoint.sh", "."} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source == "." or not ignored(source), source


@pytest.mark.parametrize("path", ["pyproject.toml", "README.md", "LICENSE", "deploy/cli/app.py"])
def test_what_a_wheel_is_made_of_is_in_the_context(path):
    assert (ROOT / path).is_file()
    assert not ignored(path)


@pytest.mark.parametrize(
    "path",
    [".git/config", "tests/conftest.py", "out/demo/results.json", "deploy/__pycache__/a.pyc"],
)
def test_nothing_else_is_in_the_context(path):
    assert ignored(path)


def test_every_base_image_has_a_version_that_another_can_replace():
    for name, body in stages().items():
        base = body.split()[1]
        variable = re.fullmatch(r"\$\{(\w+)}", base)
        image = defaults()[variable.group(1)] if variable else base
        assert image in stages() or re.search(r":[^:]*\d+\.\d+", image), f"{name}: {image}"


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_what_runs_has_a_virtual_environment_and_no_tool_that_made_it(target):
    body = stages()[target]
    assert f"COPY --from={target}-builder /opt/venv /opt/venv" in body
    assert not re.search(r"pip install|apt-get|gcc|build-essential", body)
    assert re.search(r"^USER 10001$", body, re.MULTILINE)
    assert 'VOLUME ["/cache", "/workspace"]' in body
    assert re.search(r"HEALTHCHECK .*\"deploy\", \"doctor\", \"--json\"", body)


def test_a_build_without_a_target_is_the_gpu_image():
    assert list(stages())[-1] == ""
    assert stages()[""].split() == ["FROM", "gpu"]


def test_labels_name_the_version_of_the_project():
    version = re.search(r'^version = "(.+)"$', PYPROJECT, re.MULTILINE)
    labels = re.findall(r'image\.version="(.+?)"', DOCKERFILE)
    assert version
    assert labels == [version.group(1)] * 2


def test_what_is_installed_is_within_the_bounds_of_the_project():
    low, high = re.search(r"tensorrt-cu13>=([\d.]+),<(\d+)", PYPROJECT).groups()  # type: ignore[union-attr]
    chosen = defaults()["TENSORRT_VERSION"]
    assert [int(part) for part in low.split(".")] <= [int(part) for part in chosen.split(".")]
    assert int(chosen.split(".")[0]) < int(high)
    runtime = re.search(r"onnxruntime-gpu[\d.<>=,]+", PYPROJECT)
    assert runtime
    assert f"'{runtime.group()}'" in DOCKERFILE
    for extras in re.findall(r"'\.\[([\w,]+)]'", DOCKERFILE):
        for extra in extras.split(","):
            assert re.search(rf"^{extra} = \[", PYPROJECT, re.MULTILINE), extra


def test_no_index_is_named():
    assert not re.search(r"https?://|index-url|trusted-host", DOCKERFILE)
