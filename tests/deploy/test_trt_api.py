"""Whatever of TensorRT's API the code uses exists in every release it supports, or is guarded."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from trt_names import MODULE, Use, find_uses

from deploy.engine.builder import Flavour, installed_flavours

ROOT = Path(__file__).parents[2]
LISTS = sorted((ROOT / "../shared/trt_api").glob("*.json"))
DEPLOY = sorted((ROOT / "deploy").rglob("*.py"))

Api = dict[str, list[str]]

# Names that are guarded where this test cannot see it, and how.
GUARDED_ELSEWHERE = {
    ("deploy/engine/builder.py", name): "EngineSpec.target is given to tensorrt-rtx alone"
    for name in ("num_compute_capabilities", "set_compute_capability", "ComputeCapability")
}


def uses_of_the_project() -> dict[str, list[Use]]:
    found = {
        path.relative_to(ROOT).as_posix(): find_uses(path.read_text(encoding="utf-8"))
        for path in DEPLOY
    }
    return {name: uses for name, uses in found.items() if uses}


def offences(apis: dict[str, Api]) -> list[str]:
    return [
        f"{name}:{use.line}: {use.owner}.{use.name} is not in {', '.join(missing)}"
        for name, uses in uses_of_the_project().items()
        for use in uses
        if (missing := use.missing(apis)) and (name, use.name) not in GUARDED_ELSEWHERE
    ]


def installed_api(flavour: Flavour) -> Api:
    module = importlib.import_module(flavour.module)
    return {name: dir(getattr(module, name)) for name in dir(module)}


@pytest.fixture(scope="module")
def listed() -> dict[str, Api]:
    if not LISTS:
        pytest.skip("needs ../shared/trt_api")
    apis = {path.stem: json.loads(path.read_text(encoding="utf-8"))["api"] for path in LISTS}
    # The lists leave `name` out of every class, because every member of an enumeration has one.
    return {
        release: {owner: [*members, "name"] for owner, members in api.items()}
        for release, api in apis.items()
    }


@pytest.mark.shared
def test_every_name_is_in_every_release_or_guarded(listed):
    assert len(listed) == 3
    assert offences(listed) == []


@pytest.mark.skipif(
    Flavour.TENSORRT_RTX not in installed_flavours(),
    reason="needs tensorrt-rtx: pip install tensorrt-rtx-cu13",
)
def test_every_name_is_in_the_release_that_is_installed():
    assert offences({"installed": installed_api(Flavour.TENSORRT_RTX)}) == []


def test_the_walk_sees_what_builds_and_what_runs():
    found = {(use.owner, use.name) for uses in uses_of_the_project().values() for use in uses}
    assert found >= {
        (MODULE, "OnnxParser"),
        (MODULE, "Builder"),
        ("Builder", "build_serialized_network"),
        ("IBuilderConfig", "profiling_verbosity"),
        ("IOptimizationProfile", "set_shape"),
        ("ParserError", "node_name"),
        ("ITensor", "name"),
        ("IProgressMonitor", "step_complete"),
        ("Runtime", "deserialize_cuda_engine"),
        ("ICudaEngine", "num_io_tensors"),
        ("IExecutionContext", "execute_async_v3"),
        ("EngineInspector", "get_engine_information"),
    }
    for name, guarded in GUARDED_ELSEWHERE:
        assert guarded in {use.name for use in uses_of_the_project()[name]}, "no longer used"


@pytest.mark.shared
@pytest.mark.parametrize(
    "removed",
    [
        "def f(trt): return trt.BuilderFlag.FP16",
        "def f(trt): return 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)",
        "def f(trt): return trt.IInt8EntropyCalibrator2",
        "def f(trt): return getattr(trt.BuilderFlag, 'INT8')",
        "def f(config: Any): config.int8_calibrator = None",
        "def f(network: Any): return network.get_input(0).set_dynamic_range(-1, 1)",
        "def f(engine): return engine.num_bindings",
        "import tensorrt as trt\nbuilder = trt.Builder(None)\nbuilder.platform_has_fast_fp16",
        "import tensorrt as trt\nengine = trt.Runtime(None).deserialize_cuda_engine(b'')\n"
        "engine.create_execution_context().execute_async_v2([], 0)",
        "class A:\n  def __init__(self, engine): self._e = engine\n"
        "  def f(self): return self._e.get_binding_shape(0)",
        "class A:\n  context: Any\ndef f(lane: A): lane.context.execute_async_v2([])",
        "def f(trt):\n  class M(trt.IProgressMonitor):\n    def no_such_callback(self): ...",
        # A test for another name does not guard, nor does one in another function.
        "def f(engine): return hasattr(engine, 'num_io_tensors') or engine.num_bindings",
        "def g(engine): hasattr(engine, 'num_bindings')\ndef f(engine): return engine.num_bindings",
    ],
)
def test_a_name_that_some_release_lacks_is_found(removed, listed):
    assert [use for use in find_uses(removed) if use.missing(listed)]


@pytest.mark.shared
@pytest.mark.parametrize(
    "guarded",
    [
        "def f(trt): return getattr(trt.BuilderFlag, 'FP16', None)",
        "def f(engine): return engine.num_bindings if hasattr(engine, 'num_bindings') else 0",
        "def f(engine):\n  if 'num_bindings' in dir(engine): return engine.num_bindings",
        "def f(trt):\n  found = getattr(trt, 'DynamicShapesKernelSpecializationStrategy', None)\n"
        "  return found and found.EAGER",
        # An object of this project may have any name.
        "def f(engine: OurEngine): return engine.num_bindings",
        "class A:\n  def __init__(self, engine: B): self._engine = engine\n"
        "  def f(self): return self._engine.num_bindings",
    ],
)
def test_a_guarded_name_is_accepted(guarded, listed):
    assert [use for use in find_uses(guarded) if use.missing(listed)] == []
