"""What `--backend auto` takes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_plan import H100, INFO, L4, PLAN, seal

from deploy.artifacts import BuildFolder, make_folder
from deploy.engine import opening
from deploy.engine.builder import Flavour
from deploy.engine.opening import best_backend
from deploy.engine.plan import write_plan
from deploy.engine.session import Backend, Precision
from deploy.errors import PlanError

RTX, DATACENTER = Flavour.TENSORRT_RTX, Flavour.TENSORRT
BOTH = (Precision.FP8, Precision.FP16)


@pytest.fixture
def machine(monkeypatch):
    """Decide which GPUs and which TensorRT this machine has; its torch has CUDA."""

    def set_up(gpus, flavours):
        monkeypatch.setattr(opening, "find_gpus", lambda: gpus)
        monkeypatch.setattr(opening, "installed_flavours", lambda: flavours)
        monkeypatch.setattr(opening, "_torch_has_cuda", lambda: True)

    return set_up


@pytest.fixture
def folder(tmp_path) -> BuildFolder:
    folder = BuildFolder(tmp_path)
    make_folder(tmp_path / "engines")
    return folder


def add(folder: BuildFolder, flavour: Flavour, target: str, *precisions: Precision) -> None:
    for precision in precisions:
        info = replace(INFO, flavour=flavour, target=target, precision=precision)
        write_plan(folder, info, PLAN)
    seal(folder)


@pytest.mark.parametrize("built", [RTX, DATACENTER])
@pytest.mark.parametrize("installed", [(DATACENTER, RTX), (RTX,), (DATACENTER,), ()])
def test_plans_run_on_the_tensorrt_that_built_them(built, installed, machine, folder):
    machine((L4,), installed)
    add(folder, built, "sm89", *BOTH)
    expected = Backend(built.value) if built in installed else Backend.TORCH
    assert best_backend(folder, BOTH) is expected


def test_torch_runs_what_has_no_plan_for_this_gpu_or_none_of_one_kind(machine, folder):
    machine((L4,), (DATACENTER, RTX))
    assert best_backend(folder, BOTH) is Backend.TORCH
    add(folder, RTX, "sm89", Precision.FP8)
    assert best_backend(folder, BOTH) is Backend.TORCH
    assert best_backend(folder, (Precision.FP8,)) is Backend.TENSORRT_RTX
    add(folder, DATACENTER, "sm89", Precision.FP16)
    assert best_backend(folder, BOTH) is Backend.TORCH
    machine((H100,), (DATACENTER, RTX))
    assert best_backend(folder, (Precision.FP8,)) is Backend.TORCH
    machine((), (DATACENTER, RTX))
    assert best_backend(folder, (Precision.FP8,)) is Backend.ONNXRUNTIME


def test_a_plan_that_nothing_describes_is_not_passed_over(machine, folder):
    machine((L4,), (DATACENTER, RTX))
    add(folder, RTX, "sm89", Precision.FP8)
    folder.plan_info("fp8", "sm89").unlink()
    with pytest.raises(PlanError, match=r"plan\.json") as caught:
        best_backend(folder, (Precision.FP8,))
    assert "deploy build" in caught.value.remedy
