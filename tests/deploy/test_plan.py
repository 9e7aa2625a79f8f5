"""Plans are loaded only when they are whole, known, and made for this machine."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
from manifests import manifest_of

from deploy.artifacts import BuildFolder, forget_files, make_folder, write_manifest
from deploy.config import config_from_dict, config_to_dict
from deploy.engine import plan as plans
from deploy.engine.builder import Flavour, HardwareCompatibility
from deploy.engine.plan import PlanInfo, load_plan, write_plan
from deploy.engine.profiles import bucket_profiles
from deploy.engine.session import Precision
from deploy.environment import Gpu
from deploy.errors import EngineError, PlanError
from export.recipe import PRESETS, recipe_to_dict

PLAN = bytes(range(256)) * 40
H100 = Gpu("NVIDIA H100 80GB HBM3", "580.95", "sm90")
H200 = Gpu("NVIDIA H200", "580.95", "sm90")
L4 = Gpu("NVIDIA L4", "580.95", "sm89")
B200 = Gpu("NVIDIA B200", "580.95", "sm100")

INFO = PlanInfo(
    sha256=hashlib.sha256(PLAN).hexdigest(),
    bytes=len(PLAN),
    precision=Precision.FP8,
    recipe="fp8",
    flavour=Flavour.TENSORRT,
    tensorrt_version="10.16.1.11",
    target="sm90",
    gpu=H100.name,
    driver=H100.driver,
    profiles=bucket_profiles((64, 128), max_batch=8),
    pad_token_id=1,
)


def build_folder(path, info: PlanInfo = INFO) -> BuildFolder:
    folder = BuildFolder(path)
    for each in (path, path / "engines"):
        make_folder(each)
    write_plan(folder, info, PLAN)
    seal(folder)
    return folder


def seal(folder: BuildFolder) -> None:
    write_manifest(folder, manifest_of(folder))


@pytest.fixture
def machine(monkeypatch):
    """Decide what GPU and TensorRT this machine has."""

    def set_up(gpus=(H100,), version="10.16.1.11"):
        monkeypatch.setattr(plans, "find_gpus", lambda: tuple(gpus))
        monkeypatch.setattr(
            plans, "import_flavour", lambda flavour: SimpleNamespace(__version__=version)
        )

    set_up()
    return set_up


def refusal(folder: BuildFolder, target: str = "sm90") -> PlanError:
    with pytest.raises(PlanError) as error:
        load_plan(folder, Precision.FP8, target)
    return error.value


def test_a_plan_comes_back_with_what_it_is(tmp_path, machine):
    info, plan = load_plan(build_folder(tmp_path / "out"), Precision.FP8, "sm90")
    assert (info, plan) == (INFO, PLAN)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda plan: plan[:-1], "has 10239 bytes; it was built with 10240"),
        (lambda plan: b"", "has 0 bytes"),
        (lambda plan: plan[:100] + bytes([plan[100] ^ 1]) + plan[101:], "has changed since"),
    ],
)
def test_a_damaged_plan_is_refused(tmp_path, machine, damage, reason):
    folder = build_folder(tmp_path / "out")
    path = folder.plan("fp8", "sm90")
    path.write_bytes(damage(path.read_bytes()))
    error = refusal(folder)
    assert reason in error.message
    assert f"deploy build --model 'my model' --task sst2 --out {tmp_path}" in error.remedy


def test_the_remedy_builds_what_was_built(tmp_path, machine, asked_of_build):
    recipe = {**recipe_to_dict(PRESETS["fp8"]), "name": "mine", "exclude": ["*.layer.0.*"]}
    asked = {"model": "org/model", "task": "sst2", "out": tmp_path / "out", "buckets": "64,128"}
    asked |= {"data_dir": "data", "engine": "tensorrt", "max_drop": 0.01, "recipe": [recipe]}
    config = config_from_dict(asked)
    folder = build_folder(tmp_path / "out")
    write_manifest(folder, {**manifest_of(folder), "config": config_to_dict(config)})
    folder.plan("fp8", "sm90").unlink()
    remedy = refusal(folder).remedy
    assert asked_of_build(remedy.removeprefix("build it again: ")) == config


def test_a_plan_that_nobody_vouches_for_is_refused(tmp_path, machine):
    folder = build_folder(tmp_path / "out")
    forget_files(folder, ["engines/model.fp8.sm90.plan"])
    assert "is not in the manifest" in refusal(folder).message
    folder.manifest.unlink()
    assert "no manifest that vouches for it" in refusal(folder).message
    folder.manifest.write_text("[]", encoding="utf-8")
    assert "no manifest that vouches for it" in refusal(folder).message


def test_a_plan_without_its_sidecar_is_refused(tmp_path, machine):
    folder = build_folder(tmp_path / "out")
    folder.plan_info("fp8", "sm90").unlink()
    assert "cannot read" in refusal(folder).message


def test_a_sidecar_cannot_be_rewritten(tmp_path, machine):
    folder = build_folder(tmp_path / "out")
    sidecar = folder.plan_info("fp8", "sm90")
    sidecar.write_text(sidecar.read_text(encoding="utf-8").replace("sm90", "sm89"), "utf-8")
    assert "has changed since" in refusal(folder).message


def test_a_sidecar_of_another_plan_is_refused(tmp_path, machine):
    folder = build_folder(tmp_path / "out", replace(INFO, sha256="0" * 64))
    assert "describes another plan" in refusal(folder).message


@pytest.mark.parametrize("content", ["{}", "[]", '"x"', '{"schema_version": 99}', "not json"])
def test_a_sidecar_that_is_none(tmp_path, machine, content):
    folder = build_folder(tmp_path / "out")
    folder.plan_info("fp8", "sm90").write_text(content, encoding="utf-8")
    seal(folder)
    assert "does not describe a plan" in refusal(folder).message


@pytest.mark.parametrize(
    ("gpus", "reason"),
    [
        ([L4], "was built for sm90, and this GPU (NVIDIA L4) is sm89"),
        ([H200], "was tuned on NVIDIA H100 80GB HBM3, and this is NVIDIA H200"),
        ([], "no NVIDIA GPU is visible"),
    ],
)
def test_a_plan_of_another_gpu_is_refused(tmp_path, machine, gpus, reason):
    machine(gpus=gpus)
    assert reason in refusal(build_folder(tmp_path / "out")).message


@pytest.mark.parametrize(
    ("compatibility", "gpu", "loads"),
    [
        (HardwareCompatibility.SAME_COMPUTE_CAPABILITY, H200, True),
        (HardwareCompatibility.SAME_COMPUTE_CAPABILITY, B200, False),
        (HardwareCompatibility.AMPERE_PLUS, L4, True),
        (HardwareCompatibility.AMPERE_PLUS, Gpu("NVIDIA T4", "580", "sm75"), False),
    ],
)
def test_hardware_compatibility_widens_what_may_load(tmp_path, machine, compatibility, gpu, loads):
    machine(gpus=[gpu])
    folder = build_folder(tmp_path / "out", replace(INFO, hardware_compatibility=compatibility))
    if loads:
        load_plan(folder, Precision.FP8, "sm90")
    else:
        assert "was built for sm90" in refusal(folder).message


@pytest.mark.parametrize(
    ("version", "compatible", "loads"),
    [
        ("10.16.1.12", False, False),
        ("10.16.1.12", True, True),
        ("10.14.0.1", True, False),  # older than the plan
        ("11.4.0.106", True, False),  # another major version
    ],
)
def test_a_plan_of_another_release(tmp_path, machine, version, compatible, loads):
    machine(version=version)
    folder = build_folder(tmp_path / "out", replace(INFO, version_compatible=compatible))
    if loads:
        load_plan(folder, Precision.FP8, "sm90")
    else:
        assert f"was built by tensorrt 10.16.1.11, here is {version}" in refusal(folder).message


def test_a_flavour_that_is_not_installed(tmp_path, machine, monkeypatch):
    def missing(flavour):
        raise EngineError(f"{flavour.value} is not installed", "pip install tensorrt-cu13")

    monkeypatch.setattr(plans, "import_flavour", missing)
    error = refusal(build_folder(tmp_path / "out"))
    assert "tensorrt is not installed" in error.message
    assert error.remedy == "pip install tensorrt-cu13"


def test_a_plan_for_rtx_runs_on_every_gpu_of_its_target(tmp_path, machine):
    machine(gpus=[L4], version="1.7.1.116")
    rtx = replace(
        INFO,
        flavour=Flavour.TENSORRT_RTX,
        tensorrt_version="1.7.1.116",
        target="sm89",
        gpu=None,
        driver=None,
    )
    info, _ = load_plan(build_folder(tmp_path / "out", rtx), Precision.FP8, "sm89")
    assert info == rtx
