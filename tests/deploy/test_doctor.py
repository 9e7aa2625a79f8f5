from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.bench.environment import gpu_states
from deploy.doctor.abilities import abilities
from deploy.doctor.facts import Facts, Gpu, gather_facts
from deploy.doctor.findings import Status, check_cache, check_fp8, check_onnxruntime, check_torch
from deploy.engine.builder import Flavour

HEAVY = ("torch", "transformers", "modelopt", "onnxruntime", "datasets", "tensorrt_rtx", "tensorrt")
PACKAGES = dict.fromkeys(
    (
        *("torch", "transformers", "onnx", "onnx-ir", "onnxscript", "nvidia-modelopt"),
        *("requests", "datasets", "onnxruntime"),
    ),
    "1.0",
)
RTX, DATACENTER = Flavour.TENSORRT_RTX, Flavour.TENSORRT
LAPTOP = Facts((), None, None, PACKAGES, {RTX: "1.7"})
H100 = Facts(
    gpus=(Gpu("NVIDIA H100", "580.1", (9, 0)),),
    driver_cuda=(13, 0),
    torch_cuda=(13, 0),
    packages={**PACKAGES, "cuda-bindings": "13.0"},
    flavours={DATACENTER: "10.16", RTX: "1.7"},
)
ADA = replace(H100, gpus=(Gpu("NVIDIA GeForce RTX 4090", "580.1", (8, 9)),))


def works(facts: Facts) -> list[str]:
    return [ability.name for ability in abilities(facts) if ability.works]


def remedies(facts: Facts) -> dict[str, str]:
    return {a.name: a.remedy or "" for a in abilities(facts) if not a.works}


def without(facts: Facts, package: str) -> Facts:
    return replace(facts, packages={k: v for k, v in facts.packages.items() if k != package})


def fake_nvidia_smi(folder: Path, monkeypatch, line: str) -> None:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{line}'\n", encoding="utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_without_a_gpu_engines_are_built_and_not_run():
    able = works(LAPTOP)
    assert {"export and quantize", "calibrate"} <= set(able)
    assert any(name.startswith("build engines for RTX GPUs: fp8 for sm89") for name in able)
    missing = remedies(LAPTOP)
    assert "machine" in missing["run engines"]
    assert all(missing.values())


def test_on_an_h100_its_own_engines_run_and_those_for_rtx_do_not():
    able = works(H100)
    assert "build engines for this GPU, sm90, fp8 too, by datacenter TensorRT" in able
    assert "run engines of tensorrt on sm90" in able
    only_rtx = replace(H100, flavours={RTX: "1.7"})
    assert not any(name.startswith("run engines") for name in works(only_rtx))
    assert "tensorrt-cu13" in remedies(only_rtx)["run engines on sm90"]


def test_on_an_rtx_gpu_either_flavour_runs():
    assert "run engines of tensorrt and tensorrt-rtx on sm89" in works(ADA)
    assert "run engines of tensorrt-rtx on sm89" in works(replace(ADA, flavours={RTX: "1.7"}))


@pytest.mark.parametrize(
    ("package", "stops"),
    [
        ("torch", "export and quantize"),
        ("nvidia-modelopt", "calibrate"),
        ("requests", "calibrate"),
        ("onnxruntime", "evaluate on the CPU (all but fp32 simulated)"),
        ("cuda-bindings", "run engines of tensorrt on sm90"),
    ],
)
def test_what_a_missing_package_stops_and_the_command_that_adds_it(package, stops):
    assert stops in works(H100)
    assert remedies(without(H100, package))[stops] == f"pip install {package}"


def test_onnxruntimes_that_overwrite_each_other_are_found():
    assert check_onnxruntime(LAPTOP).status is Status.OK
    both = replace(H100, packages={**H100.packages, "onnxruntime-gpu": "1.0"})
    finding = check_onnxruntime(both)
    assert finding.status is Status.WARNING
    assert finding.remedy == (
        "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
    )
    assert not any("onnxruntime on the GPU" in name for name in works(both))
    alone = without(both, "onnxruntime")
    assert any("onnxruntime on the GPU" in name for name in works(alone))
    assert check_onnxruntime(without(LAPTOP, "onnxruntime")).status is Status.MISSING


@pytest.mark.parametrize(
    ("facts", "status", "said"),
    [
        (LAPTOP, Status.OK, "CPU build"),
        (H100, Status.OK, "CUDA 13.0"),
        (replace(H100, torch_cuda=None), Status.WARNING, "CPU build beside a GPU"),
        (replace(H100, driver_cuda=(12, 4)), Status.WARNING, "too new for the driver"),
        # Within a major release, an older driver runs what a newer toolkit built.
        (replace(H100, torch_cuda=(13, 1)), Status.OK, "CUDA 13.1"),
        (without(H100, "torch"), Status.MISSING, "not installed"),
    ],
)
def test_torch_is_held_against_gpu_and_driver(facts, status, said):
    finding = check_torch(facts)
    assert (finding.status, said in finding.value) == (status, True)
    assert (finding.remedy is None) is (status is Status.OK)


@pytest.mark.parametrize(
    ("capability", "status"), [((8, 6), Status.WARNING), ((8, 9), Status.OK), ((9, 0), Status.OK)]
)
def test_fp8_begins_with_ada(capability, status):
    facts = replace(H100, gpus=(Gpu("a GPU", "1", capability),))
    assert check_fp8(facts).status is status
    assert ("fp8 too" in " ".join(works(facts))) is (status is Status.OK)


def test_looking_at_the_cache_does_not_make_it(tmp_path, monkeypatch):
    folder = tmp_path / "a" / "cache"
    monkeypatch.setenv("BERT_TRT_DEPLOY_CACHE", str(folder))
    assert str(folder) in check_cache(LAPTOP).value
    assert not folder.exists()


def test_a_gpu_is_read_from_what_the_driver_says(tmp_path, monkeypatch):
    fake_nvidia_smi(tmp_path, monkeypatch, "580.65.06, 9.0, NVIDIA H100 80GB HBM3, x")
    (gpu,) = gather_facts().gpus
    assert gpu == Gpu("NVIDIA H100 80GB HBM3, x", "580.65.06", (9, 0))
    assert gpu.target == "sm90"


def test_state_that_a_gpu_does_not_tell_is_none(tmp_path, monkeypatch):
    fake_nvidia_smi(
        tmp_path,
        monkeypatch,
        "NVIDIA L4, 580.65.06, P0, Enabled, [N/A], Disabled, "
        "1980 MHz, 2040 MHz, 6251 MHz, 72.00 W, [Unknown Error], 41, 0 %, 512 MiB",
    )
    (gpu,) = gpu_states()
    assert (gpu.name, gpu.ecc, gpu.mig, gpu.persistence) == (
        *("NVIDIA L4", "Enabled", None, "Disabled"),
    )
    assert (gpu.sm_clock_mhz, gpu.max_sm_clock_mhz, gpu.memory_clock_mhz) == (1980, 2040, 6251)
    assert (gpu.power_limit_w, gpu.power_draw_w) == (72.0, None)
    assert (gpu.temperature_c, gpu.utilization_percent, gpu.memory_used_mib) == (41, 0, 512)


@pytest.mark.parametrize("line", ["x'; exit 9; '", "No devices were found"])
def test_an_nvidia_smi_without_an_answer_is_no_gpu(line, tmp_path, monkeypatch):
    fake_nvidia_smi(tmp_path, monkeypatch, line)
    assert (gpu_states(), gather_facts().gpus) == ((), ())


def test_the_command_loads_nothing_heavy():
    program = f"""
import sys
from deploy.cli.main import main
sys.argv = ["deploy", "doctor", "--json"]
try:
    main()
finally:
    loaded = [name for name in {HEAVY!r} if name in sys.modules]
    print(loaded, file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")
    found = json.loads(done.stdout)
    assert {finding["name"] for finding in found["findings"]} >= {
        *("python", "gpu", "torch", "onnxruntime", "nvidia-modelopt", "tensorrt", "disk", "cache"),
    }
    # This very environment runs the other tests.
    assert {"export and quantize", "calibrate"} <= set(found["works"])
    assert all(each["lacks"] and each["remedy"] for each in found["missing"])
    assert found["packages"]["torch"]


def test_the_table_lists_what_works_and_what_is_missing(run_cli):
    ran = run_cli("doctor")
    assert (ran.code, ran.err) == (0, "")
    here, _, missing = ran.out.partition("works here:")[2].partition("missing:")
    assert "  export and quantize\n" in here
    assert "export and quantize" not in missing


@pytest.mark.parametrize(
    ("facts", "options", "code"),
    [
        (LAPTOP, (), 0),
        (LAPTOP, ("--require-gpu",), 1),
        (H100, ("--require-gpu",), 0),
        (replace(H100, flavours={}), ("--require-gpu",), 1),
        (without(LAPTOP, "onnx"), (), 1),
    ],
)
def test_the_exit_code_says_whether_what_is_needed_is_there(
    facts, options, code, run_cli, monkeypatch
):
    monkeypatch.setattr("deploy.doctor.facts.gather_facts", lambda: facts)
    ran = run_cli("doctor", "--json", *options)
    assert ran.code == code
    assert {"findings", "works", "missing"} <= json.loads(ran.out).keys()
