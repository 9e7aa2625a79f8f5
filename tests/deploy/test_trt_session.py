"""Session logic on stand-ins for TensorRT and CUDA: what needs a GPU is in tests/gpu."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from trt_standin import (
    NAMES,
    PAD,
    TORCH_STREAM,
    HostCuda,
    StandInEngine,
    expected,
    plan_info,
    stand_in_tensorrt,
)

from deploy.engine.builder import Flavour
from deploy.engine.profiles import bucket_profiles
from deploy.engine.trt_engine import TrtEngine
from deploy.engine.trt_session import TrtSession
from deploy.errors import BackendError, EngineError

PROFILES = bucket_profiles((8, 16), max_batch=6)
SIZES = 4  # 1, 2, 4, 6
ALL_TOLD = frozenset(
    [(what, name) for what in ("shape", "address") for name in NAMES] + [("address", "logits")]
)


@pytest.fixture
def opened(monkeypatch):
    """Open an engine on stand-ins; its `ICudaEngine` is `engine.trt`."""

    def open_engine(
        cuda=None, version="10.16.1.11", plan=b"plan", pad=PAD, profiles=PROFILES, **io
    ):
        cuda = cuda or HostCuda()
        trt_engine = StandInEngine(cuda, profiles, pad=pad, **io)
        module = stand_in_tensorrt(trt_engine, version)
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        engine = TrtEngine(plan, plan_info(profiles, pad_token_id=pad), cuda)
        engine.trt = trt_engine
        return engine

    return open_engine


def tokens(batch, sequence, seed=0, dtype=np.int64):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, sequence + 1, (batch, 1))
    mask = np.arange(sequence) < lengths
    ids = np.where(mask, rng.integers(PAD + 1, 100, (batch, sequence)), PAD + 1)
    types = rng.integers(0, 2, (batch, sequence))
    return {
        "input_ids": ids.astype(dtype),
        "attention_mask": mask.astype(dtype),
        "token_type_ids": types.astype(dtype),
    }


def device(inputs):
    return {name: torch.from_numpy(values) for name, values in inputs.items()}


def aligned(values):
    """A tensor where TensorRT would read it: torch's CPU allocator aligns to 64 bytes only."""
    storage = torch.zeros(values.size + 32, dtype=torch.int64)
    start = -storage.data_ptr() % 256 // 8
    tensor = storage[start : start + values.size].view(values.shape)
    return tensor.copy_(torch.from_numpy(values))


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("shape", [(1, 8), (3, 8), (5, 3), (6, 16), (1, 9)])
def test_padded_rows_and_columns_are_filled_and_dropped(opened, shape, warm):
    session = TrtSession(opened())
    if warm:
        session.warmup()
    inputs = tokens(*shape)
    logits = session.run(inputs)["logits"]
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, expected(inputs, 8 if shape[1] <= 8 else 16))


@pytest.mark.parametrize("warm", [False, True])
def test_outputs_per_token_end_with_the_real_tokens(opened, warm):
    session = TrtSession(opened(outputs=("start_logits", "end_logits")))
    if warm:
        session.warmup()
    inputs = tokens(3, 5)
    for found in (session.run(inputs), session.run_device(device(inputs))):
        start, end = (np.asarray(found[name]) for name in ("start_logits", "end_logits"))
        np.testing.assert_array_equal(start, inputs["input_ids"] + inputs["token_type_ids"] / 2)
        np.testing.assert_array_equal(end, np.zeros((3, 5)))


@pytest.mark.parametrize("declared", ["INT64", "INT32"])
@pytest.mark.parametrize("given", [np.int64, np.int32, np.uint8])
def test_inputs_are_cast_to_the_declared_type(opened, declared, given):
    session = TrtSession(opened(ids=declared))
    inputs = tokens(2, 5, dtype=given)
    np.testing.assert_array_equal(session.run(inputs)["logits"], expected(inputs, 8))
    found = session.run_device(device(inputs))["logits"]
    np.testing.assert_array_equal(found, expected(inputs, 8))


@pytest.mark.parametrize("output", ["HALF", "BF16"])
def test_16_bit_outputs_come_back_in_fp32(opened, output):
    session = TrtSession(opened(outputs=("start_logits", "end_logits"), output=output))
    inputs = tokens(2, 5)
    # Halves up to 100 are exact in both types.
    exact = (inputs["input_ids"] + inputs["token_type_ids"] / 2).astype(np.float32)
    found = session.run(inputs)["start_logits"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, exact)
    found = session.run_device(device(inputs))["start_logits"]
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found, exact)


def test_shapes_and_addresses_are_told_before_every_enqueue(opened):
    engine = opened()
    session = TrtSession(engine)
    for shape in ((1, 8), (1, 8), (2, 8), (1, 16), (1, 8)):
        session.run(tokens(*shape))
        session.run_device(device(tokens(*shape)))
    assert len(engine.trt.enqueues) == 10
    assert all(each == (ALL_TOLD, False) for each in engine.trt.enqueues)


def test_a_shape_is_run_before_it_is_captured(opened):
    engine = opened()
    TrtSession(engine).warmup()
    captured = [context for context in engine.trt.contexts if context.enqueues]
    # A context for each graph, untouched between the run that sets it up and the captures.
    assert len(captured) == SIZES * len(PROFILES)
    for context in captured:
        assert context.enqueues == [(ALL_TOLD, False), (frozenset(), True), (frozenset(), True)]


def test_nothing_is_allocated_or_captured_inside_a_request(opened):
    engine = opened()
    cuda = engine.cuda
    session = TrtSession(engine)
    allocated = cuda.calls["malloc"]
    laid_out = []
    for _ in range(2):
        for batch in range(1, 7):
            session.run(tokens(batch, 5))
            session.run_device(device(tokens(batch, 16)))
        laid_out.append(sum(context.asked for context in engine.trt.contexts))
    assert cuda.calls["malloc"] == allocated
    assert laid_out == [12, 12]  # every shape once
    assert cuda.calls["capture"] == cuda.calls["launch"] == 0


def test_graphs_are_captured_once_and_replayed_on_new_inputs(opened):
    engine = opened()
    cuda = engine.cuda
    session = TrtSession(engine)
    assert session.graphs_bytes == 0
    session.warmup()
    taken = session.graphs_bytes
    assert taken == 4096 * len(cuda.graphs) == 4096 * 2 * SIZES * len(PROFILES)
    captures, enqueues, allocated = cuda.calls["capture"], len(engine.trt.enqueues), len(cuda.live)
    launches, copies = cuda.calls["launch"], cuda.calls["copy"]
    session.warmup()
    for seed in range(3):
        inputs = tokens(3, 5, seed)
        np.testing.assert_array_equal(session.run(inputs)["logits"], expected(inputs, 8))
    assert cuda.calls["capture"] == captures
    assert cuda.calls["launch"] == launches + 3
    assert cuda.calls["copy"] == copies  # they are in the graph
    assert len(engine.trt.enqueues) == enqueues
    assert len(cuda.live) == allocated
    assert session.graphs_bytes == taken


def test_engine_that_cannot_be_captured_runs_without_graphs(opened, monkeypatch):
    engine = opened()
    monkeypatch.setattr(
        "trt_standin.StandInContext.is_stream_capturable", lambda self, stream: False, raising=False
    )
    session = TrtSession(engine)
    session.warmup()
    inputs = tokens(3, 5)
    np.testing.assert_array_equal(session.run(inputs)["logits"], expected(inputs, 8))
    assert not engine.cuda.graphs


def test_failed_warmup_leaves_a_session_that_runs(opened):
    engine = opened()
    session = TrtSession(engine)
    before = engine.cuda.leaked
    engine.trt.fail = True
    with pytest.raises(BackendError, match="on strike"):
        session.warmup()
    engine.trt.fail = False
    assert engine.cuda.leaked == before
    inputs = tokens(3, 5)
    np.testing.assert_array_equal(session.run(inputs)["logits"], expected(inputs, 8))


def test_results_are_copies_or_the_callers_arrays(opened):
    session = TrtSession(opened())
    first, second = tokens(2, 5), tokens(2, 5, seed=1)
    kept = session.run(first)["logits"]
    out = np.empty((2, 3), np.float32)
    found = session.run(second, {"logits": out})
    assert found["logits"] is out
    np.testing.assert_array_equal(out, expected(second, 8))
    np.testing.assert_array_equal(kept, expected(first, 8))
    target = torch.empty(2, 3)
    assert session.run_device(device(first), {"logits": target})["logits"] is target
    np.testing.assert_array_equal(target, expected(first, 8))
    with pytest.raises(BackendError, match="out"):
        session.run(first, {"logits": np.empty((4, 3), np.float32)})
    with pytest.raises(BackendError, match="out"):
        session.run_device(device(first), {"logits": torch.empty(4, 3)})


@pytest.mark.parametrize("pad", [0, 1, PAD])
@pytest.mark.parametrize("warm", [False, True])
def test_device_tensors_are_padded_on_the_device(opened, warm, pad):
    engine = opened(pad=pad)
    session = TrtSession(engine)
    if warm:
        session.warmup()
    for shape in ((1, 8), (3, 5), (5, 16)):
        inputs = tokens(*shape)
        session.run(tokens(6, 16, seed=1))  # leaves tokens where the padding goes
        # Aligned: a graph must not miss what TensorRT could have read in place.
        found = session.run_device({name: aligned(each) for name, each in inputs.items()})["logits"]
        np.testing.assert_array_equal(found, expected(inputs, 8 if shape[1] <= 8 else 16))


def test_device_tensors_of_the_buckets_shape_are_read_in_place(opened):
    engine = opened()
    session = TrtSession(engine)
    inputs = {name: aligned(values) for name, values in tokens(2, 8).items()}
    copies = engine.cuda.calls["copy"], engine.cuda.calls["copy_2d"]
    session.run_device(inputs)
    context = engine.trt.contexts[0]
    assert [context.addresses[name] for name in NAMES] == [t.data_ptr() for t in inputs.values()]
    # Only the output's.
    assert (engine.cuda.calls["copy"], engine.cuda.calls["copy_2d"]) == (copies[0], copies[1] + 1)


def test_device_work_follows_torchs_stream_and_torch_waits_for_it(opened):
    engine = opened()
    session = TrtSession(engine)
    session.run_device(device(tokens(2, 5)))
    assert engine.cuda.order == [
        ("record", TORCH_STREAM),
        ("wait", session.stream),
        ("record", session.stream),
        ("wait", TORCH_STREAM),
    ]


def test_device_tensors_that_are_transposed_or_sliced(opened):
    session = TrtSession(opened())
    inputs = tokens(3, 5)
    columns = {name: t.t().contiguous().t() for name, t in device(inputs).items()}
    np.testing.assert_array_equal(session.run_device(columns)["logits"], expected(inputs, 8))


def test_each_kind_of_input_has_its_method(opened):
    session = TrtSession(opened())
    inputs = tokens(1, 5)
    with pytest.raises(BackendError, match="is a Tensor, not a numpy array") as error:
        session.run(device(inputs))
    assert "run_device" in error.value.remedy
    with pytest.raises(BackendError, match="is a ndarray, not a torch tensor"):
        session.run_device(inputs)
    with pytest.raises(BackendError, match=r"torch.float32, not integer"):
        session.run_device({**device(inputs), "input_ids": torch.ones(1, 5)})
    with pytest.raises(BackendError, match="is on meta, the session on cpu"):
        session.run_device({**device(inputs), "input_ids": torch.ones(1, 5, device="meta")})
    with pytest.raises(BackendError, match="fits no profile"):
        session.run(tokens(1, 17))


def mixed_up(session, thread):
    """Calls that got something else than their own result."""
    failures = []
    for call in range(1000):
        inputs = tokens(1 + call % 6, 1 + (call + thread) % 16, seed=1000 * thread + call)
        bucket = 8 if inputs["input_ids"].shape[1] <= 8 else 16
        if not np.array_equal(session.run(inputs)["logits"], expected(inputs, bucket)):
            failures.append((thread, call))
    return failures


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("sessions", [1, 8])
def test_8_threads_never_get_one_anothers_results(opened, sessions, warm):
    engine = opened()
    made = [TrtSession(engine) for _ in range(sessions)]
    for session in made if warm else ():
        session.warmup()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # a switch of threads at every chance
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(mixed_up, (made * 8)[:8], range(8)))
    finally:
        sys.setswitchinterval(interval)
    assert found == [[]] * 8


def test_failed_enqueue_quotes_tensorrt(opened):
    engine = opened()
    session = TrtSession(engine)
    engine.trt.fail = True
    with pytest.raises(BackendError, match="TensorRT refuses to run: the kernel is on strike"):
        session.run(tokens(1, 8))
    engine.trt.fail = False
    inputs = tokens(1, 8)
    np.testing.assert_array_equal(session.run(inputs)["logits"], expected(inputs, 8))


def test_close_frees_everything(opened):
    cuda = HostCuda()
    with opened(cuda) as engine:
        with TrtSession(engine) as session:
            session.warmup()
            session.run_device(device(tokens(2, 5)))
        assert cuda.leaked == 0
        session.close()
        for call in (
            lambda: session.run(tokens(1, 8)),
            lambda: session.run_device(device(tokens(1, 8))),
            session.warmup,
        ):
            with pytest.raises(BackendError, match="the session is closed"):
                call()
    with pytest.raises(EngineError, match="the engine is closed"):
        TrtSession(engine)
    assert cuda.leaked == 0


@pytest.mark.parametrize("capacity", [100, 2_000, 4_000])
def test_out_of_memory_frees_what_was_allocated(opened, capacity):
    cuda = HostCuda(capacity)
    with pytest.raises(BackendError, match="out of memory"):
        TrtSession(opened(cuda))
    assert cuda.leaked == 0


def test_profiles_in_any_order(opened):
    session = TrtSession(opened(profiles=PROFILES[::-1]))
    assert session.profiles == PROFILES
    inputs = tokens(2, 5)
    np.testing.assert_array_equal(session.run(inputs)["logits"], expected(inputs, 8))


def test_says_what_it_is(opened):
    session = TrtSession(opened())
    assert session.input_names == NAMES
    info = session.info
    assert (info.backend.value, info.arithmetic, info.simulated) == ("tensorrt", "fp8", False)
    assert info.device == "a stand-in"


def test_refused_plan_quotes_tensorrt(opened):
    with pytest.raises(EngineError, match="refuses the plan: magic tag does not match"):
        opened(plan=b"garbage")


def test_plan_whose_outputs_no_session_can_hold(opened):
    with pytest.raises(EngineError, match="'logits' has the type FP8"):
        opened(output="FP8")


def test_missing_flavour_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match="tensorrt is not installed") as error:
        TrtEngine(b"plan", plan_info(PROFILES), HostCuda())
    assert "pip install tensorrt-cu13" in error.value.remedy


def test_before_tensorrt_10_a_second_session_is_refused_until_the_first_is_closed(opened):
    engine = opened(version="8.6.1")
    assert not engine.shares_profiles
    with TrtSession(engine) as session:
        session.warmup()  # on the contexts that the session has
        inputs = tokens(3, 5)
        np.testing.assert_array_equal(session.run(inputs)["logits"], expected(inputs, 8))
        with pytest.raises(EngineError, match=r"TensorRT 8\.6\.1 allows profile 0 to one"):
            TrtSession(engine)
    TrtSession(engine).close()


def test_tensorrt_8_6_makes_contexts_in_its_own_way(opened, monkeypatch):
    engine = opened(version="8.6.1")
    monkeypatch.delattr(sys.modules["tensorrt"], "ExecutionContextAllocationStrategy")
    monkeypatch.delattr("trt_standin.StandInContext.set_device_memory")
    monkeypatch.setattr(
        "trt_standin.StandInContext.device_memory",
        property(fset=lambda context, address: setattr(context, "memory", address)),
        raising=False,
    )
    engine.trt.create_execution_context_without_device_memory = lambda: (
        engine.trt.create_execution_context("user managed")
    )
    session = TrtSession(engine)
    inputs = tokens(3, 5)
    np.testing.assert_array_equal(session.run(inputs)["logits"], expected(inputs, 8))


def test_rtx_versions_count_from_one_and_share_profiles(monkeypatch):
    trt_engine = StandInEngine(HostCuda(), PROFILES)
    module = stand_in_tensorrt(trt_engine, "1.7.1.116")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", module)
    info = plan_info(PROFILES, Flavour.TENSORRT_RTX)
    assert TrtEngine(b"plan", info, trt_engine.cuda).shares_profiles


def test_rtx_compiles_a_captured_shape_at_once_and_others_in_the_background(opened, monkeypatch):
    engine = opened()
    trt = sys.modules["tensorrt"]
    strategy = type("Strategy", (), {"EAGER": "eager"})
    monkeypatch.setattr(trt, "DynamicShapesKernelSpecializationStrategy", strategy, raising=False)
    asked = []

    class RuntimeConfig:
        def set_execution_context_allocation_strategy(self, allocation):
            self.allocation = allocation

    def create(how):
        asked.append(getattr(how, "dynamic_shapes_kernel_specialization_strategy", "default"))
        return StandInEngine.create_execution_context(engine.trt, getattr(how, "allocation", how))

    engine.trt.create_runtime_config = RuntimeConfig
    engine.trt.create_execution_context = create
    TrtSession(engine).warmup()
    assert asked == ["default"] * len(PROFILES) + ["eager"] * SIZES * len(PROFILES)
