"""What a build refuses before it reads a model or data."""

from __future__ import annotations

import pytest

from calib_data.errors import ToolchainError, UsageError
from calib_data.progress import SilentProgress
from deploy import inputs
from deploy.config import config_from_dict
from deploy.engine.builder import Flavour
from deploy.inputs import load_inputs

BUILD = {"model": "no-such-model", "task": "sst2", "out": "out", "engine": "tensorrt"}


@pytest.fixture
def refuse(monkeypatch, tmp_path):
    """A build on a machine with datacenter TensorRT and one GPU, which ends before its data."""
    monkeypatch.setattr(inputs, "installed_flavours", lambda: tuple(Flavour))
    monkeypatch.setattr(inputs, "gpu_names", lambda: ("a GPU",))

    def reached(*_):
        raise ToolchainError("its data are read", "")

    monkeypatch.setattr(inputs, "load_examples", reached)

    def refuse(here: str, **options: object) -> ToolchainError:
        monkeypatch.setattr(inputs, "gpu_targets", lambda: (here,))
        config = config_from_dict({**BUILD, "data_dir": str(tmp_path), **options})
        with pytest.raises(ToolchainError) as caught:
            load_inputs(config, SilentProgress())
        return caught.value

    return refuse


@pytest.mark.parametrize("engine", ["tensorrt", "auto"])
@pytest.mark.parametrize("target", ["sm120", "sm90,sm120"])
def test_a_target_that_tensorrt_would_not_build_for_is_refused(refuse, engine, target):
    error = refuse("sm90", engine=engine, target=target)
    assert isinstance(error, UsageError)
    assert f"--target {target}" in error.message
    assert "sm90" in error.message
    assert "--engine tensorrt-rtx" in error.remedy


@pytest.mark.parametrize("target", [None, "sm90"])
def test_the_target_that_is_here_may_be_named(refuse, target):
    options = {} if target is None else {"target": target}
    assert "its data are read" in refuse("sm90", **options).message


def test_fp8_is_refused_before_calibration_where_the_gpu_has_none(refuse):
    error = refuse("sm80", precision="fp8")
    assert isinstance(error, UsageError)
    assert "sm80 has no FP8 tensor cores" in error.message
    assert "--precision int8" in error.remedy
    assert "--target" not in error.remedy
    assert "its data are read" in refuse("sm80", precision="int8").message
