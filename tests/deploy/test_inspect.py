"""`deploy inspect` and `deploy check`, on real engines."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import onnx
import pytest
from graphs import Exported, export_random, strip_qdq

from deploy.artifacts import BuildFolder, write_text
from deploy.engine.builder import EngineSpec, Flavour, build_engine, installed_flavours
from deploy.engine.layer_report import read_report, report_build, report_to_json
from deploy.engine.profiles import Profile, Shape, bucket_profiles
from export.onnx_file import read_onnx
from export.recipe import PRESETS

pytestmark = pytest.mark.skipif(
    Flavour.TENSORRT_RTX not in installed_flavours(),
    reason="needs tensorrt-rtx: pip install tensorrt-rtx-cu13",
)

PROFILES = (
    *bucket_profiles((32, 64), max_batch=4),
    Profile(Shape(1, 16), Shape(4, 48), Shape(4, 64)),
)
TOO_SHORT = "dynamic sequence 16 to 64: FP8 attention fuses from 32 tokens, the shortest counts"


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Exported:
    exported = export_random(tmp_path_factory.mktemp("model"), hidden=128, layers=3)
    for name in ("fp8", "fp16"):
        exported.derive(name, PRESETS.get(name))
    return exported


@pytest.fixture(scope="module")
def folder(exported, tmp_path_factory) -> BuildFolder:
    """What a build leaves of its engines: the layers of FP8 for two targets, and of FP16."""
    folder = BuildFolder(tmp_path_factory.mktemp("out"))
    (folder.path / "engines").mkdir()
    for precision, target in (("fp16", "sm89"), ("fp8", "sm120"), ("fp8", "sm89")):
        spec = EngineSpec(exported[precision], Flavour.TENSORRT_RTX, PROFILES, target)
        built = build_engine(spec)
        report = report_build(spec, built, target, precision, read_onnx(spec.onnx))
        write_text(folder.layers(precision, target), report_to_json(report))
        assert read_report(folder.layers(precision, target)) == report
    return folder


def rows(text: str, start: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.startswith(start)]


def test_encoder_layers_that_are_alike_share_a_line(folder, run_cli):
    ran = run_cli("inspect", folder.path)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("fp8 for sm89, tensorrt-rtx ")
    assert "also built: fp8 sm120, fp16 sm89" in ran.out
    buckets, dynamic = ran.out.split("profile 2: batch 1-4, sequence 16-64")
    assert "profile 0: batch 1-4, sequence 32" in buckets
    assert "profile 1: batch 1-4, sequence 64" in buckets
    columns = r"0-2 +fp8, merged +fp8 +fp8 +fp8 +fp8"
    assert [bool(re.fullmatch(columns, row)) for row in rows(buckets, "0-2")] == [True]
    assert "18 of 18 GEMMs in 8 bits, 3 of 3 attentions fused" in buckets
    assert "18 of 18 GEMMs in 8 bits, 0 of 3 attentions fused" in dynamic
    assert re.search(rf"^0-2 +attention +{re.escape(TOO_SHORT)}$", dynamic.strip(), re.MULTILINE)


def test_everything_fits_80_columns(folder, run_cli, monkeypatch):
    monkeypatch.setattr("deploy.cli.output._UNLIMITED_WIDTH", 80)
    for options in ((), ("--all",), ("--precision", "fp16", "--all")):
        ran = run_cli("inspect", folder.path, *options)
        assert max(map(len, ran.out.splitlines())) <= 80
        assert "…" in ran.out if options else "…" not in ran.out


def test_all_lists_every_layer_with_what_it_came_from(folder, run_cli):
    ran = run_cli("inspect", folder.path, "--target", "sm89", "--profile", 0, "--all")
    report = json.loads(run_cli("inspect", folder.path, "--target", "sm89", "--json").out)
    table = ran.out.split("─\n")[1].splitlines()
    assert len(table) == report["profiles"][0]["layers"]
    assert re.search(r"^_gemm_mha_v2 +kgen +fp8,fp16 +fp8 +2 attention *$", ran.out, re.MULTILINE)
    assert re.search(r"^2 output.dense +gemm +fp8 +fp16 +2 ffn out *$", ran.out, re.MULTILINE)


def test_json_has_every_profile_with_its_layers_and_reasons(folder, run_cli):
    ran = run_cli("inspect", folder.path, "--target", "sm120", "--json")
    summary = json.loads(ran.out)
    assert (summary["precision"], summary["target"]) == ("fp8", "sm120")
    *buckets, dynamic = summary["profiles"]
    for profile in (*buckets, dynamic):
        assert len(profile["listing"]) == profile["layers"]
        assert sum(kind["count"] for kind in profile["types"]) == profile["layers"]
        # SM120 does not merge query, key and value of FP8.
        assert not any(operation["merged"] for operation in profile["operations"])
    assert [profile["unfused"] for profile in buckets] == [[], []]
    assert dynamic["unfused"] == [
        {"module": f"bert.encoder.layer.{layer}.attention.self", "reason": TOO_SHORT}
        for layer in range(3)
    ]


def test_require_fusion_judges_what_is_shown(folder, run_cli):
    assert run_cli("inspect", folder.path, "--require-fusion").code == 3
    assert run_cli("inspect", folder.path, "--require-fusion", "--profile", 1).code == 0
    assert run_cli("inspect", folder.path, "--require-fusion", "--precision", "fp16").code == 0


def refused(ran, code: int, *said: str) -> None:
    assert (ran.code, ran.out) == (code, "")
    lines = ran.err.splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["error:", "try:"], ran.err
    for words in said:
        assert words in ran.err


def test_what_is_not_there_is_said_with_what_is(folder, run_cli, tmp_path):
    refused(run_cli("inspect", folder.path, "--precision", "int8"), 1, "int8", "fp8 sm120")
    refused(run_cli("inspect", folder.path, "--profile", 3), 2, "3 profiles", "0 to 2")
    refused(run_cli("inspect", tmp_path), 1, "no layer report", "deploy build", "deploy check")
    engines = tmp_path / "engines"
    engines.mkdir()
    for text, said in (("{", "JSON"), ("{}", "version"), ('{"schema_version": 1}', "layer report")):
        (engines / "model.fp8.sm89.layers.json").write_text(text)
        refused(run_cli("inspect", tmp_path), 1, said)


CHECK = ("--max-batch", 4, "--buckets", "64")


def test_check_accepts_for_every_target_and_writes_nothing(exported, run_cli):
    before = sorted(exported.folder.iterdir())
    ran = run_cli("check", exported["fp8"], "--target", "sm89,sm120", *CHECK, "--require-fusion")
    assert (ran.code, ran.err) == (0, "")
    assert len(re.findall(r"for sm(?:89|120): accepted by tensorrt-rtx", ran.out)) == 2
    assert sorted(exported.folder.iterdir()) == before


def test_check_gates_on_fusion_and_gives_the_reason(exported, run_cli):
    dynamic = ("--max-batch", 4, "--dynamic-sequence", "16:48:64")
    assert run_cli("check", exported["fp8"], *dynamic).code == 0
    ran = run_cli("check", exported["fp8"], *dynamic, "--require-fusion", "--json")
    assert ran.code == 3
    ((profile,),) = (found["report"]["profiles"] for found in json.loads(ran.out)["targets"])
    assert {each["reason"] for each in profile["unfused"]} == {TOO_SHORT}


def test_check_finds_a_module_that_is_half_quantized(exported, run_cli):
    torn = strip_qdq(exported["fp8"], "torn", "bert.encoder.layer.1.output.dense.weight")
    ran = run_cli("check", torn, *CHECK, "--require-fusion")
    assert ran.code == 3
    assert re.search(r"^1 +ffn out +only its input is quantized", ran.out, re.MULTILINE)
    assert re.search(r"^1 +fp8, merged +fp8 +fp8 +fp8 +fp16, unfused$", ran.out, re.MULTILINE)


def test_check_of_a_foreign_model_lists_types_and_holds_it_to_nothing(exported, run_cli, tmp_path):
    model = onnx.load(exported["fp8"])
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    ran = run_cli("check", tmp_path / "foreign.onnx", *CHECK)
    assert ran.code == 0
    # Three layers of qkv, attention out, ffn in and ffn out.
    assert re.search(r"^ *12 +gemm +fp8 +fp16$", ran.out, re.MULTILINE)
    assert "fusion is unknown" in ran.out
    assert run_cli("check", tmp_path / "foreign.onnx", *CHECK, "--require-fusion").code == 3


def test_check_says_what_the_builder_refuses_and_goes_on(exported, run_cli):
    # SM75 has no FP8.
    ran = run_cli("check", exported["fp8"], "--target", "sm75,sm89", *CHECK, "--json")
    assert ran.code == 1
    turing, ada = json.loads(ran.out)["targets"]
    assert "fp8" in turing["refusal"]["message"]
    assert (turing["accepted"], ada["accepted"]) == (False, True)
    ran = run_cli("check", exported["fp8"], "--target", "sm75", *CHECK)
    assert ran.code == 1
    assert "for sm75: refused" in ran.out
    assert "Traceback" not in ran.out + ran.err


def test_check_says_what_the_parser_refuses(run_cli, tmp_path):
    bad = token_model(tmp_path / "bad.onnx", operator="NoSuchOperator")
    ran = run_cli("check", bad, *CHECK)
    assert ran.code == 1
    assert "the_culprit" in ran.out
    assert "NoSuchOperator" in ran.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--target", "sm90"), "sm120"),
        (("--target", "turing"), "sm89"),
        (("--buckets", "x"), "'x'"),
        (("--max-batch", "0"), "at least 1"),
        (("--dynamic-sequence", "16:64"), "16:128:384"),
        (("--dynamic-sequence", "64:16:128"), "16:128:384"),
    ],
)
def test_wrong_usage_of_check_is_exit_2(options, said, run_cli, exported):
    refused(run_cli("check", exported["fp16"], *options), 2, said)


def test_files_that_are_no_whole_model_are_refused(run_cli, exported, tmp_path):
    whole = exported["fp8"].read_bytes()
    for name, content, said in (
        ("missing", None, "cannot read"),
        ("truncated", whole[: len(whole) // 2], "cannot read"),
        ("garbage", b"garbage", "cannot read"),
        ("empty", b"", "the file is empty"),
        ("no_text", whole.replace(b"LayerNorm", b"LayerNor\xff"), "not UTF-8"),
        ("hollow", onnx.ModelProto(ir_version=10).SerializeToString(), "no graph"),
    ):
        if content is not None:
            (tmp_path / f"{name}.onnx").write_bytes(content)
        refused(run_cli("check", tmp_path / f"{name}.onnx"), 1, said, f"{name}.onnx")


@pytest.mark.skipif(os.name != "posix", reason="a path is text elsewhere")
def test_a_path_that_is_no_text(run_cli, exported, tmp_path):
    path = tmp_path / os.fsdecode(b"model\xff.onnx")
    path.write_bytes(exported["fp8"].read_bytes())
    assert run_cli("check", path, *CHECK).code == 0


@pytest.mark.parametrize("opset", [5, 99])
def test_an_opset_that_nobody_defined_or_tensorrt_left_behind(opset, run_cli, exported, tmp_path):
    model = onnx.load(exported["fp8"])
    model.opset_import[0].version = opset
    onnx.save(model, tmp_path / "model.onnx")
    refused(run_cli("check", tmp_path / "model.onnx"), 1, f"opset {opset}")


def test_external_data_that_is_missing_or_cut_short(run_cli, exported, tmp_path):
    path, data = tmp_path / "model.onnx", tmp_path / "model.data"
    onnx.save(
        onnx.load(exported["fp8"]),
        path,
        save_as_external_data=True,
        location=data.name,
        size_threshold=0,
    )
    assert run_cli("check", path, *CHECK).code == 0
    data.write_bytes(data.read_bytes()[:1000])
    refused(run_cli("check", path), 1, "cut short", "model.data")
    data.unlink()
    refused(run_cli("check", path), 1, "missing", "model.data")


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (["batch", 3, "height", "width"], "'height'"),
        (["batch"], "[batch, sequence]"),
        (["batch", 48], "--buckets 48"),
        ([2, "sequence"], "dynamic batch"),
    ],
)
def test_inputs_that_no_profile_fits_are_named(shape, said, run_cli, tmp_path):
    model = token_model(tmp_path / "model.onnx", shape=shape)
    refused(run_cli("check", model, *CHECK), 1, "input 'tokens'", said)


def test_a_fixed_sequence_is_a_bucket_of_its_own(run_cli, tmp_path):
    model = token_model(tmp_path / "model.onnx", shape=["batch", 48])
    assert run_cli("check", model, "--buckets", "48").code == 0


def token_model(path: Path, operator: str = "Relu", shape=("batch", "sequence")) -> Path:
    node = onnx.helper.make_node(operator, ["tokens"], ["y"], name="the_culprit")
    x, y = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(shape))
        for name in ("tokens", "y")
    )
    graph = onnx.helper.make_graph([node], "g", [x], [y])
    opsets = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets), path)
    return path
