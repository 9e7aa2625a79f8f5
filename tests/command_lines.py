"""Dry runs of commands as they stand in scripts and pages, by the parsers they are meant for."""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr
from importlib.metadata import metadata
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import typer.main
import yaml

from calib_data.errors import ToolchainError
from calib_data.tasks import get_task, is_task_file
from deploy.cli.app import app
from deploy.config import EngineChoice
from deploy.option_values import (
    parse_backend,
    parse_buckets,
    parse_max_drop,
    parse_member,
    parse_min,
    parse_min_agreement,
    parse_precisions,
    parse_targets,
)

ROOT = Path(__file__).parents[1]
IMAGE = re.compile(r"bert-trt-deploy:\S+")

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
# What the parser takes as text, and the command's own code would refuse.
_VALUES: Mapping[str, Callable[[Any], Any]] = {
    "precision": parse_precisions,
    "target": parse_targets,
    "buckets": parse_buckets,
    "backend": parse_backend,
    "engine": lambda value: parse_member(EngineChoice, "engine", value),
    "max_drop": parse_max_drop,
    "minimum": parse_min,
    "min_agreement": parse_min_agreement,
    "task": lambda value: None if is_task_file(value) else get_task(value),
}


class RejectedError(Exception):
    """A command line that would end in a usage error."""


class _Parsed(BaseException):
    """Thrown from argparse once it has accepted; nothing of the script's own catches it."""


def split_script(text: str) -> Iterator[list[str]]:
    """The commands of a shell script that has no control flow, without comments and variables."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
        lexer.whitespace_split = True
        command: list[str] = []
        for token in (*lexer, ";"):
            if set(token) <= set("&|;"):
                if command:
                    yield command
                command = []
            elif command or not _ASSIGNMENT.match(token):
                command.append(token)


def dry_run(command: list[str]) -> None:
    """Have a command line parsed by its own parser, and nothing done.

    Raises:
        RejectedError: It is not accepted, or is of a program that is not known here.
    """
    program, *arguments = command
    check = _CHECKS.get(program)
    if check is None:
        raise RejectedError(f"nothing here knows how to check `{program}`")
    check(arguments)


def subcommand(command: list[str]) -> str | None:
    """The subcommand of `deploy` that a command line comes to, if it comes to one."""
    program, *arguments = command
    if program == "docker":
        arguments = _inside_container(arguments)
    elif program != "deploy":
        return None
    return next((argument for argument in arguments if not argument.startswith("-")), None)


def _deploy(arguments: list[str]) -> None:
    root: Any = typer.main.get_command(app)
    if not arguments or arguments in (["--help"], ["--version"]):
        return
    name, *rest = arguments
    if name not in root.commands:
        raise RejectedError(f"`deploy` has no command '{name}'")
    try:
        context = root.commands[name].make_context(name, rest)
    except Exception as error:  # click's, or typer's own copy of it, by release
        raise RejectedError(f"deploy {name}: {error.format_message()}") from error  # type: ignore[attr-defined]
    for option, parse in _VALUES.items():
        value = context.params.get(option)
        try:
            if value:
                parse(value)
        except ToolchainError as error:
            raise RejectedError(f"deploy {name}: {error.message}") from error


def _python(arguments: list[str]) -> None:
    script, *rest = arguments
    path = ROOT / script
    if not path.is_file():
        raise RejectedError(f"no script '{script}'")
    parse = argparse.ArgumentParser.parse_args

    def parse_only(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        parse(self, *args, **kwargs)
        raise _Parsed

    said = StringIO()
    with (
        mock.patch.object(sys, "argv", [str(path), *rest]),
        mock.patch.object(sys, "path", [str(path.parent), *sys.path]),
        mock.patch.object(argparse.ArgumentParser, "parse_args", parse_only),
        redirect_stderr(said),
    ):
        try:
            runpy.run_path(str(path), run_name="__main__")
        except _Parsed:
            return
        except SystemExit as ended:
            raise RejectedError(f"python {script}: {said.getvalue()}") from ended
    raise RejectedError(f"python {script} parsed no arguments")


def _make(arguments: list[str]) -> None:
    done = subprocess.run(
        ["make", "--dry-run", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RejectedError(f"make: {done.stderr}")


def _source(arguments: list[str]) -> None:
    # The environment that `make` leaves; a checkout need not have it yet.
    if arguments != [".venv/bin/activate"]:
        raise RejectedError(f"nothing here makes '{' '.join(arguments)}'")


def _pip(arguments: list[str]) -> None:
    extras = metadata("bert-trt-deploy").get_all("Provides-Extra") or ()
    for argument in arguments:
        found = re.fullmatch(r"\.\[([\w,]+)]", argument)
        for extra in found.group(1).split(",") if found else ():
            if extra not in extras:
                raise RejectedError(f"pip: the project has no extra '{extra}'")


def _docker(arguments: list[str]) -> None:
    if arguments[0] == "run":
        if any(IMAGE.fullmatch(argument) for argument in arguments):
            _deploy(_inside_container(arguments))
    elif arguments[0] == "build":
        _docker_build(arguments[1:])
    elif arguments[0] == "compose":
        _docker_compose(arguments[1:])
    else:
        raise RejectedError(f"docker: nothing here knows how to check `{arguments[0]}`")


def _inside_container(arguments: list[str]) -> list[str]:
    """What the image's entry point is given; nothing where no container is run."""
    if arguments[:1] != ["run"]:
        return []
    image = next((i for i, each in enumerate(arguments) if IMAGE.fullmatch(each)), None)
    return [] if image is None else arguments[image + 1 :]


def _docker_build(arguments: list[str]) -> None:
    parser = _parser("docker build")
    for option in ("--file", "--target", "--tag", "--secret"):
        parser.add_argument(option)
    parser.add_argument("--build-arg", action="append", default=[])
    parser.add_argument("context")
    given = _parse(parser, arguments)
    text = (ROOT / given.file).read_text(encoding="utf-8")
    if given.target and not re.search(rf"^FROM .* AS {given.target}$", text, re.MULTILINE):
        raise RejectedError(f"docker build: the Dockerfile has no target '{given.target}'")
    for argument in given.build_arg:
        name = argument.partition("=")[0]
        if not re.search(rf"^ARG {name}\b", text, re.MULTILINE):
            raise RejectedError(f"docker build: the Dockerfile has no argument '{name}'")
    if not (ROOT / given.context).is_dir():
        raise RejectedError(f"docker build: no folder '{given.context}'")


def _docker_compose(arguments: list[str]) -> None:
    parser = _parser("docker compose")
    parser.add_argument("--file", required=True)
    actions = parser.add_subparsers(required=True)
    for action in ("up", "run", "build", "logs", "down"):
        sub = actions.add_parser(action)
        for flag in ("--detach", "--rm", "--no-deps", "--volumes", "--follow", "--build"):
            sub.add_argument(flag, action="store_true")
        sub.add_argument("service", nargs="?" if action in ("up", "down", "logs") else None)
        sub.add_argument("command", nargs=argparse.REMAINDER)
    given = _parse(parser, arguments)
    services = yaml.safe_load((ROOT / given.file).read_text(encoding="utf-8"))["services"]
    if given.service and given.service not in services:
        raise RejectedError(f"docker compose: no service '{given.service}'")
    if given.command:
        _deploy(given.command)


def _pipeline(arguments: list[str]) -> None:
    for command in split_script(print_pipeline(*arguments)):
        dry_run(command)


def print_pipeline(*arguments: str) -> str:
    """What docker/build-and-report.sh would run.

    Raises:
        RejectedError: It does not accept its arguments.
    """
    script = ROOT / "docker/build-and-report.sh"
    done = subprocess.run(
        [str(script), *arguments, "--print"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RejectedError(f"exit code {done.returncode}: {done.stderr}")
    return done.stdout


def _parser(program: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=program, exit_on_error=False, allow_abbrev=False)


def _parse(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    said = StringIO()
    try:
        with redirect_stderr(said):
            return parser.parse_args(arguments)
    except (argparse.ArgumentError, SystemExit) as error:
        raise RejectedError(f"{parser.prog}: {said.getvalue() or error}") from error


_CHECKS: Mapping[str, Callable[[list[str]], None]] = {
    ".": _source,
    "deploy": _deploy,
    "python": _python,
    "make": _make,
    "pip": _pip,
    "mkdir": lambda arguments: None,
    "docker": _docker,
    "docker/build-and-report.sh": _pipeline,
}
