"""compose.yaml, the entry point and the H100 pipeline, without Docker."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_lines import (
    ROOT,
    RejectedError,
    dry_run,
    print_pipeline,
    split_script,
    subcommand,
)

BIN = Path(sys.executable).parent
COMPOSE = ROOT / "docker/compose.yaml"
PIPELINE = ROOT / "docker/build-and-report.sh"
STEPS = ["build", "evaluate", "bench", "triton"]


def services() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"])


def without_variables(text: str) -> str:
    """Docker Compose's ${NAME:-default}, replaced by the default."""
    return re.sub(r"\$\{\w+:-([^}]*)}", r"\1", text)


def default_of(variable: str, text: str) -> str:
    found = re.search(rf"{variable}(?::-|=)([^}}\s]+)", text)
    assert found
    return found.group(1)


@pytest.mark.parametrize("script", sorted((ROOT / "docker").glob("*.sh")), ids=lambda p: p.name)
def test_shellcheck_has_no_complaint(script):
    done = subprocess.run([BIN / "shellcheck", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    assert os.access(script, os.X_OK)


def test_compose_follows_the_specification():
    done = subprocess.run(
        [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["build", "evaluate", "bench", "repository"])
def test_the_parser_accepts_what_a_service_runs(name):
    command = [without_variables(word) for word in services()[name]["command"]]
    dry_run(["deploy", *command])


def test_services_run_one_after_another_on_a_gpu():
    chain = ["build", "evaluate", "bench", "repository", "triton"]
    for before, name in itertools.pairwise(chain):
        assert services()[name]["depends_on"] == {
            before: {"condition": "service_completed_successfully"}
        }
    for name in chain:
        (device,) = services()[name]["deploy"]["resources"]["reservations"]["devices"]
        assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])


def test_triton_reads_the_repository_and_says_when_it_is_ready():
    triton = services()["triton"]
    assert triton["volumes"] == ["models:/models:ro"]
    assert "/v2/health/ready" in " ".join(triton["healthcheck"]["test"])
    assert [port.split(":")[1] for port in triton["ports"]] == ["8000", "8001", "8002"]
    assert "models:/models" in services()["repository"]["volumes"]


def test_images_have_versions_and_both_files_build_the_same_tensorrt():
    for name, service in services().items():
        tag = without_variables(service["image"]).rpartition(":")[2]
        assert re.match(r"\d+\.\d+", tag), name
    dockerfile = (ROOT / "docker/Dockerfile").read_text(encoding="utf-8")
    compose = COMPOSE.read_text(encoding="utf-8")
    assert default_of("TENSORRT_VERSION", compose) == default_of("TENSORRT_VERSION", dockerfile)
    version = re.search(
        r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE
    )
    assert version
    assert services()["build"]["image"] == f"bert-trt-deploy:{version.group(1)}-gpu"
    assert f"image=bert-trt-deploy:{version.group(1)}-" in PIPELINE.read_text(encoding="utf-8")


OPTIONS = (
    *("--max-drop", "0.01", "--limit", "500", "--baseline", "torch-compile", "--text"),
    *("--tensorrt-version", "10.16.1.11"),
)


@pytest.mark.parametrize("step", range(len(STEPS)), ids=STEPS)
@pytest.mark.parametrize("options", [(), OPTIONS], ids=["plain", "every option"])
def test_the_parsers_accept_each_step_of_the_pipeline(step, options):
    ours = [c for c in split_script(print_pipeline("org/name", "sst2", *options)) if subcommand(c)]
    assert [subcommand(command) for command in ours] == STEPS
    dry_run(ours[step])


@pytest.mark.parametrize("options", [(), OPTIONS], ids=["plain", "every option"])
def test_the_image_is_built_first_and_by_the_dockerfile_that_is_here(options):
    image, folder, *_ = split_script(print_pipeline("org/name", "sst2", *options))
    assert image[:2] == ["docker", "build"]
    assert folder[:2] == ["mkdir", "-p"]
    dry_run(image)


def test_local_folders_are_mounted_and_names_with_spaces_survive(tmp_path):
    model, data, out = (tmp_path / name for name in ("my model", "my data", "it's out"))
    model.mkdir()
    data.mkdir()
    printed = print_pipeline(str(model), "sst2", "--data-dir", str(data), "--out", str(out))
    build = next(each for each in split_script(printed) if subcommand(each) == "build")
    assert f"type=bind,source={model},target=/model,readonly" in build
    assert f"type=bind,source={data},target=/data,readonly" in build
    assert f"type=bind,source={out},target=/workspace" in build
    assert build[build.index("--model") + 1] == "/model"
    assert build[build.index("--data-dir") + 1] == "/data"
    assert not out.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("org/name",),
        ("org/name", "sst2", "more"),
        ("org/name", "sst2", "--fast"),
        ("org/name", "sst2", "--out"),
        ("org/name", "sst2", "--out", "--print"),
        ("", "sst2"),
        ("org/name", "tickets.yaml"),
        ("org/name", "sst2", "--data-dir", "/no/such/folder"),
        ("org/name", "sst2", "--pip-conf", "/no/such/file"),
        ("org/name", "sst2", "--out", "a,b"),
    ],
)
def test_wrong_usage_ends_with_2_and_a_hint(arguments):
    done = subprocess.run([PIPELINE, *arguments, "--print"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "\ntry: " in done.stderr


def stand_in(folder: Path, name: str, script: str) -> dict[str, str]:
    """A program in front of all others of its name."""
    tool = folder / name
    tool.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    tool.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("failing", "code", "ran"),
    [
        ("nothing", 0, ["build", "evaluate", "bench", "triton"]),
        ("evaluate /workspace/build", 3, ["build", "evaluate", "bench", "triton"]),
        ("bench /workspace/build", 1, ["build", "evaluate", "bench"]),
    ],
)
def test_a_gate_is_told_at_the_end_and_a_failure_at_once(failing, code, ran, tmp_path):
    log = tmp_path / "log"
    environment = stand_in(
        tmp_path,
        "docker",
        f'echo "$@" >> {shlex.quote(str(log))}\ncase "$*" in *"{failing}"*) exit {code} ;; esac',
    )
    done = subprocess.run(
        [PIPELINE, "demo", "demo", "--out", tmp_path / "out"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == code
    called = [["docker", *line.split()] for line in log.read_text(encoding="utf-8").splitlines()]
    assert called[0][:2] == ["docker", "build"]
    assert [subcommand(command) for command in called[1:]] == ran
    assert ("report.html" in done.stderr) == (code != 1)


@pytest.mark.parametrize(
    ("given", "run"),
    [
        (["build", "--out", "a b"], "deploy:build:--out:a b"),
        (["deploy", "doctor"], "deploy:doctor"),
        (["--help"], "deploy:--help"),
        ([], "deploy"),
        (["bash", "-c", "echo shell"], "shell"),
    ],
)
def test_the_entry_point_passes_arguments_on_to_deploy(given, run, tmp_path):
    environment = stand_in(tmp_path, "deploy", 'printf deploy; for each; do printf ":$each"; done')
    done = subprocess.run(
        [ROOT / "docker/entrypoint.sh", *given], env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == run, done.stderr


def test_a_command_that_no_parser_takes_is_refused():
    for command in (
        ["deploy", "build", "--presicion", "fp8"],
        ["deploy", "build", "--precision", "fp9"],
        ["deploy", "bild"],
        ["docker", "run", "bert-trt-deploy:0.1.0-gpu", "evaluate"],
        ["docker", "build", "--file", "docker/Dockerfile", "--target", "tpu", "."],
        ["make", "no-such-target"],
        ["pip", "install", ".[fast]"],
        ["python", "benchmarks/recipes.py", "--modle", "x"],
        ["sudo", "reboot"],
    ):
        with pytest.raises(RejectedError):
            dry_run(command)
