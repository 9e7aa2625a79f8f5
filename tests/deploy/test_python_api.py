"""What `import deploy` offers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import deploy
from calib_data.errors import UsageError
from deploy.errors import BuildFolderError

ROOT = Path(__file__).parents[2]


def test_import_loads_nothing_heavy():
    probe = (
        "import sys, deploy; dir(deploy); "
        "print({'numpy', 'torch', 'transformers', 'yaml'} & sys.modules.keys())"
    )
    ran = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True)
    assert ran.stdout == "set()\n", ran.stderr


@pytest.mark.parametrize("name", deploy.__all__)
def test_every_promised_name_is_there(name):
    assert name in dir(deploy)
    assert callable(getattr(deploy, name))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'evalute'"):
        deploy.evalute  # noqa: B018


def test_evaluate_refuses_a_folder_that_holds_no_build(tmp_path):
    with pytest.raises(BuildFolderError) as raised:
        deploy.evaluate(deploy.EvaluateConfig(out=tmp_path))
    assert "results.json" in raised.value.message


def test_build_checks_its_configuration_as_the_command_line_does(tmp_path):
    config = deploy.BuildConfig(model="demo", task="demo", out=tmp_path / "out", max_batch=0)
    with pytest.raises(UsageError) as raised:
        deploy.build(config)
    assert raised.value.remedy == "give at least 1"
    assert not config.out.exists()


def test_docstring_and_page_show_the_same_example():
    indented = re.findall(r"^ {4}(.*)$", deploy.__doc__ or "", re.MULTILINE)
    page = (ROOT / "docs/python-api.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert example
    assert [line for line in example.group(1).splitlines() if line] == indented
