"""`deploy triton`: the repository of a build, held against Triton's own schema and the models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from triton_interfaces import declared, of_onnx, of_plan, of_tensorrt
from triton_standin import NUMPY, parse_config
from tritonclient.grpc.model_config_pb2 import DataType, ModelInstanceGroup

from deploy.artifacts import (
    BuildFolder,
    read_json,
    sha256,
    update_manifest,
    write_bytes,
    write_json,
)
from deploy.config import config_from_dict
from deploy.engine.builder import Flavour, installed_flavours
from deploy.pipeline import build
from deploy.triton.config import triton_config_from_dict
from deploy.triton.model_config import quoted
from deploy.triton.pipeline import write_repository

BUCKETS, MAX_BATCH = (32, 64), 16
RTX = Flavour.TENSORRT_RTX in installed_flavours()
needs_rtx = pytest.mark.skipif(not RTX, reason="needs tensorrt-rtx: pip install tensorrt-rtx-cu13")


@pytest.fixture(scope="module")
def demo_build(demo_model, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("build") / "out"
    options = {"model": "demo", "task": "demo", "out": out, "precision": "fp8,fp16"}
    options |= {"engine": "auto" if RTX else "none", "calib_samples": 16, "limit": 50}
    build(config_from_dict({**options, "max_batch": MAX_BATCH}))
    return out


@pytest.fixture
def folder(demo_build, tmp_path) -> BuildFolder:
    return BuildFolder(Path(shutil.copytree(demo_build, tmp_path / "out")))


@pytest.fixture
def datacenter(folder) -> BuildFolder:
    """The same build as if TensorRT on an H100 had made its plans."""
    if not RTX:
        pytest.skip("needs tensorrt-rtx: pip install tensorrt-rtx-cu13")
    results = read_json(folder.results)
    written = [folder.results]
    for engine in results["engines"]:
        engine |= {"flavour": "tensorrt", "version": "11.4.0.106"}
        sidecar = folder.plan_info(engine["precision"], engine["target"])
        changes = {"flavour": "tensorrt", "tensorrt_version": "11.4.0.106", "gpu": "NVIDIA H100"}
        write_json(sidecar, {**read_json(sidecar), **changes})
        written.append(sidecar)
    write_json(folder.results, results)
    update_manifest(folder, written)
    return folder


def write(folder, repository, **options):
    plain = {"out": folder.path, "repository": repository, **options}
    return write_repository(triton_config_from_dict(plain))


def measured(folder, *rows):
    """Latencies as `deploy bench` writes them, of (precision, sequence, batch, p50 in ms)."""
    results = read_json(folder.results)
    results["latency"] = [
        {
            "sweep": "tensorrt",
            "precision": precision,
            "backend": "tensorrt",
            "device": "NVIDIA H100",
            "sequence": sequence,
            "batch": batch,
            "clock": clock,
            "host_copies": clock == "host",
            "cuda_graph": True,
            "simulated": False,
            "trusted": True,
            "distrust": None,
            **{f"p{share}_ms": p50 for share in (50, 90, 95, 99)},
            "throughput_per_s": 1000 * batch / p50,
            "iterations": 100,
            "spread": 0.0,
            "drift": 0.0,
        }
        for precision, sequence, batch, p50 in rows
        for clock in ("host", "device")
    ]
    results |= {"crossover": crossover_of(rows), "bench_environment": {"tensorrt": {}}}
    write_json(folder.results, results)
    update_manifest(folder, [folder.results])


def crossover_of(rows):
    shapes = {}
    for precision, sequence, batch, p50 in rows:
        shapes.setdefault((batch, sequence), {})[precision] = p50
    return [
        {
            "sweep": "tensorrt",
            "batch": batch,
            "sequence": sequence,
            "clock": "device",
            "entries": [
                {
                    "precision": precision,
                    "backend": "tensorrt",
                    "p50_ms": p50,
                    "fastest": p50 == min(times.values()),
                    "speedups": [],
                }
                for precision, p50 in times.items()
            ],
        }
        for (batch, sequence), times in shapes.items()
    ]


@needs_rtx
def test_a_plan_is_served_under_its_own_names_types_and_shapes(datacenter, tmp_path):
    write(datacenter, tmp_path / "models")
    for precision in ("fp8", "fp16"):
        model = tmp_path / "models" / f"demo-{precision}"
        config = parse_config(model)
        assert (config.name, config.platform) == (model.name, "tensorrt_plan")
        found = [declared(config.input), declared(config.output)]
        assert found == of_tensorrt(datacenter.onnx(precision))
        assert found == of_onnx(datacenter.onnx(precision))
        assert config.max_batch_size == MAX_BATCH
        plan = model / "1" / "model.plan"
        info = read_json(datacenter.plan_info(precision, "sm89"))
        assert sha256(plan) == info["sha256"]
        assert of_plan(plan) == [
            sorted(
                (name, kind, bucket if dims == [-1] else dims[0])
                for name, kind, dims in (*found[0], *found[1])
            )
            for bucket in BUCKETS
        ]
        parameters = {name: each.string_value for name, each in config.parameters.items()}
        assert parameters == {
            "model": "demo",
            "task": "demo",
            "precision": precision,
            **({"recipe": "fp8"} if precision == "fp8" else {}),
            "sha256": info["sha256"],
            "tensorrt_version": "11.4.0.106",
            "target": "sm89",
            "gpu": "NVIDIA H100",
        }


@needs_rtx
def test_every_profile_is_in_the_one_group_and_every_warm_up_in_a_profile(datacenter, tmp_path):
    measured(
        datacenter, ("fp8", 32, 1, 0.5), ("fp8", 32, 8, 1.0), ("fp8", 64, 1, 0.8), ("fp8", 64, 8, 6)
    )
    write(datacenter, tmp_path / "models", precision="fp8")
    model = tmp_path / "models" / "demo-fp8"
    config = parse_config(model)
    (group,) = config.instance_group
    assert (group.kind, list(group.profile)) == (ModelInstanceGroup.KIND_GPU, ["0", "1"])
    assert list(config.dynamic_batching.preferred_batch_size) == [8]
    assert config.dynamic_batching.max_queue_delay_microseconds == 250
    profiles = read_json(datacenter.plan_info("fp8", "sm89"))["profiles"]
    shapes = set()
    for warmup in config.model_warmup:
        assert set(warmup.inputs) == {each.name for each in config.input}
        for name, values in warmup.inputs.items():
            (sequence,) = values.dims
            # Random bytes would be token ids far beyond the vocabulary.
            assert values.WhichOneof("input_data_type") in {"zero_data", "input_data_file"}
            if values.input_data_file:
                assert name == "attention_mask"
                file = model / "warmup" / values.input_data_file
                mask = np.fromfile(file, NUMPY[DataType.Name(values.data_type)])
                assert mask.tolist() == [1] * sequence
        shapes.add((warmup.batch_size, sequence))
    fitting = [
        shape
        for shape in shapes
        for profile in profiles
        if profile["min"]["sequence"] <= shape[1] <= profile["max"]["sequence"]
        and profile["min"]["batch"] <= shape[0] <= profile["max"]["batch"]
    ]
    assert sorted(fitting) == [(b, s) for b in (1, 8, MAX_BATCH) for s in BUCKETS]
    graphs = config.optimization.cuda
    assert graphs.graphs
    batches = [each.batch_size for each in graphs.graph_spec]
    assert batches == [*range(1, 9), MAX_BATCH]
    # With shapes, Triton would try each on each profile and log an error where it does not fit.
    assert not any(each.input for each in graphs.graph_spec)


def test_onnx_models_are_served_where_triton_cannot_load_the_plans(folder, tmp_path):
    write(folder, tmp_path / "models", backend="onnxruntime")
    for precision in ("fp8", "fp16", "fp32"):
        model = tmp_path / "models" / f"demo-{precision}"
        config = parse_config(model)
        assert config.platform == "onnxruntime_onnx"
        assert [declared(config.input), declared(config.output)] == of_onnx(folder.onnx(precision))
        assert not config.optimization.cuda.graphs
        assert not config.instance_group[0].profile
        session = onnxruntime.InferenceSession(model / "1" / "model.onnx")
        for warmup in config.model_warmup:
            feed = {
                name: np.zeros((warmup.batch_size, *values.dims), np.int64)
                for name, values in warmup.inputs.items()
            }
            (logits,) = session.run(None, feed)
            assert logits.shape == (warmup.batch_size, *config.output[0].dims)


def refused(run_cli, said, *arguments, code=1):
    ran = run_cli("triton", *arguments)
    assert (ran.code, ran.out) == (code, "")
    assert [line.partition(" ")[0] for line in ran.err.splitlines()] == ["error:", "try:"]
    for each in said if isinstance(said, tuple) else (said,):
        assert each in ran.err


@needs_rtx
def test_plans_for_rtx_are_refused_with_both_ways_out(folder, tmp_path, run_cli):
    said = ("tensorrt-rtx", "--engine tensorrt", "--backend onnxruntime")
    refused(run_cli, said, folder.path, "--repository", tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_build_without_a_plan_is_refused(folder, tmp_path, run_cli):
    results = read_json(folder.results)
    write_json(folder.results, {**results, "engines": []})
    update_manifest(folder, [folder.results])
    refused(run_cli, "has no plan", folder.path, "--repository", tmp_path / "models")


@needs_rtx
@pytest.mark.parametrize("damaged", ["plan", "plan_info", "onnx"])
def test_what_changed_since_the_build_is_not_shipped(damaged, datacenter, tmp_path, run_cli):
    arguments = ("fp8",) if damaged == "onnx" else ("fp8", "sm89")
    path = getattr(datacenter, damaged)(*arguments)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused(run_cli, path.name, datacenter.path, "--repository", tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_wrong_usage_is_exit_2(folder, tmp_path, run_cli):
    models = ("--repository", tmp_path / "models", "--backend", "onnxruntime")
    refused(run_cli, "--repository DIR", folder.path, code=2)
    refused(run_cli, "any of: fp8, fp16, fp32", folder.path, *models, "--precision", "int8", code=2)
    refused(run_cli, "tensorrt, onnxruntime", folder.path, *models[:3], "torch", code=2)
    refused(run_cli, "letters", folder.path, *models, "--name", "a/b", code=2)
    refused(run_cli, "at least 0", folder.path, *models, "--max-queue-delay", "-1", code=2)
    refused(run_cli, "deploy build", tmp_path / "nothing", *models)
    assert not (tmp_path / "models").exists()


def contents(repository):
    return sorted(str(path.relative_to(repository)) for path in repository.rglob("*"))


def test_what_it_did_not_write_is_never_touched(folder, tmp_path, run_cli):
    models = tmp_path / "models"
    (models / "resnet").mkdir(parents=True)
    arguments = (folder.path, "--repository", models, "--backend", "onnxruntime")
    refused(run_cli, "did not write", *arguments)
    assert contents(models) == ["resnet"]
    shutil.rmtree(models)
    assert run_cli("triton", *arguments).code == 0
    # A model that someone put there later.
    (models / "other-fp8").mkdir()
    refused(run_cli, "is there already", *arguments, "--name", "other")
    assert contents(models / "other-fp8") == []
    (models / "deploy.json").write_text("{}")
    refused(run_cli, "deploy.json", *arguments)
    (tmp_path / "file").touch()
    refused(run_cli, "not a folder", folder.path, "--repository", tmp_path / "file", *arguments[3:])


def test_its_own_models_are_replaced_and_others_of_its_own_stay(folder, tmp_path):
    models = tmp_path / "models"
    write(folder, models, backend="onnxruntime", precision="fp8,fp16", text=True)
    write(folder, models, backend="onnxruntime", precision="fp32", name="second")
    before = (models / "second-fp32" / "config.pbtxt").stat().st_mtime_ns
    write(folder, models, backend="onnxruntime", precision="fp16", max_queue_delay=70)
    assert {path.name for path in models.iterdir()} == {"deploy.json", "demo-fp16", "second-fp32"}
    delay = parse_config(models / "demo-fp16").dynamic_batching.max_queue_delay_microseconds
    assert delay == 70
    assert (models / "second-fp32" / "config.pbtxt").stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_failure_while_writing_leaves_the_old_model_whole(folder, tmp_path, monkeypatch):
    models = tmp_path / "models"
    write(folder, models, backend="onnxruntime", precision="fp16")
    before = {name: (models / name).read_bytes() for name in contents(models) if "." in name[-7:]}

    def full(source, target):
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr("deploy.triton.repository.os.link", full)
    monkeypatch.setattr("deploy.triton.repository.shutil.copyfile", full)
    with pytest.raises(Exception, match="No space left") as error:
        write(folder, models, backend="onnxruntime", precision="fp16")
    assert "--repository" in error.value.remedy
    after = {name: (models / name).read_bytes() for name in contents(models) if "." in name[-7:]}
    assert after == before
    assert {path.name for path in tmp_path.iterdir()} == {"out", "models"}


def test_a_repository_on_another_disk_gets_copies(folder, tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("deploy.triton.repository.os.link", refuse)
    write(folder, tmp_path / "models", backend="onnxruntime", precision="fp16")
    copy = tmp_path / "models" / "demo-fp16" / "1" / "model.onnx"
    assert copy.stat().st_nlink == 1
    assert sha256(copy) == sha256(folder.onnx("fp16"))


def test_a_mounted_repository_is_written_within_its_own_file_system(folder, tmp_path, monkeypatch):
    models = tmp_path / "models"
    models.mkdir()
    staged = []
    monkeypatch.setattr(Path, "is_mount", lambda path: path == models)
    monkeypatch.setattr(
        "deploy.triton.repository.os.link", lambda _, to: staged.append(to) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        write(folder, models, backend="onnxruntime", precision="fp16")
    assert staged[0].is_relative_to(models)
    # Nothing half-made stays for the server to find.
    assert contents(models) == ["deploy.json"]
    monkeypatch.undo()
    write(folder, models, backend="onnxruntime", precision="fp16")


def test_a_build_made_anew_does_not_change_what_is_served(folder, tmp_path):
    write(folder, tmp_path / "models", backend="onnxruntime", precision="fp16")
    served = tmp_path / "models" / "demo-fp16" / "1" / "model.onnx"
    before = sha256(served)
    write_bytes(folder.onnx("fp16"), b"as every stage of a build writes its files")
    assert sha256(served) == before


@needs_rtx
def test_json_says_what_was_written_and_how_to_serve_it(datacenter, tmp_path, run_cli):
    models = tmp_path / "models"
    ran = run_cli("triton", datacenter.path, "--repository", models, "--text", "--json")
    assert (ran.code, ran.err) == (0, "")
    written = json.loads(ran.out)
    assert [each["name"] for each in written["models"]] == ["demo-fp8", "demo-fp16"]
    first = written["models"][0]
    assert [profile["max"] for profile in first["profiles"]] == [
        {"batch": MAX_BATCH, "sequence": bucket} for bucket in BUCKETS
    ]
    assert first["preferred_batch_size"] == [2, 4, 8, 16]
    assert "has not measured" in first["batching"]
    assert written["default"] == written["text"]["encoder"]
    *_, serve = written["serve"]
    assert f"{models}:/models" in serve
    assert "--model-repository=/models" in serve
    assert "--gpus all" in serve
    # As a table it says no less.
    table = run_cli("triton", datacenter.path, "--repository", models, "--text")
    assert (table.code, table.err) == (0, "")
    for said in (
        "demo-fp8",
        "2,4,8,16",
        "has not measured",
        "input_ids INT64 [-1]",
        "11.4.0.106",
        serve,
    ):
        assert said in table.out


@needs_rtx
def test_the_default_is_what_the_report_would_ship(datacenter, tmp_path, logged):
    rows = [("fp8", 32, 1, 1.0), ("fp16", 32, 1, 0.5), ("fp8", 32, 8, 4), ("fp16", 32, 8, 3)]
    measured(datacenter, *rows)
    assert write(datacenter, tmp_path / "models")["default"] == "demo-fp16"
    assert write(datacenter, tmp_path / "models", precision="fp8,fp16")["default"] == "demo-fp8"
    assert logged == []
    results = read_json(datacenter.results)
    for name in ("fp8", "fp16"):
        results["compare"][name]["accuracy"]["relative_drop"] = 0.5
    write_json(datacenter.results, results)
    update_manifest(datacenter, [datacenter.results])
    assert write(datacenter, tmp_path / "models")["default"] == "demo-fp16"
    assert "no precision may be shipped" in logged[0]


def test_texts_of_a_user_are_quoted_as_the_schema_reads_them(tmp_path):
    text = 'a "quoted" \\ path\n\twith ü, 🙂 and \x00'
    (tmp_path / "config.pbtxt").write_text(
        f'parameters {{ key: "k" value {{ string_value: {quoted(text)} }} }}', encoding="utf-8"
    )
    assert parse_config(tmp_path).parameters["k"].string_value == text
