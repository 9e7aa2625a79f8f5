"""What every session on a GPU must do; the reference is onnxruntime on the CPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from checkpoints import VOCABULARY

from calib_data.tasks import Head
from deploy.errors import BackendError
from export.verify import relative_error

CLASSIFICATION, ANSWERING = Head.SEQUENCE_CLASSIFICATION, Head.QUESTION_ANSWERING

# The reference computes the same FP16 weights in FP32. FP16 rounds each of some 30 operations by
# 5e-4, which adds up to half a percent; a row, token or padding out of place gives errors near 1.
TOLERANCE = 2e-2
# The same kernels on the same numbers, but TensorRT may choose others for another batch size.
SAME = 5e-3

needs_torch_cuda = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA build of torch"
)


def tokens(batch, sequence, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(sequence // 2 + 1, sequence + 1, (batch, 1))
    mask = (np.arange(sequence) < lengths).astype(np.int64)
    ids = rng.integers(4, VOCABULARY, (batch, sequence)) * mask
    types = rng.integers(0, 2, (batch, sequence)) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def assert_close(found, expected, inputs, tolerance):
    assert found.keys() == expected.keys()
    for name, values in found.items():
        assert values.shape == expected[name].shape
        assert values.dtype == np.float32
        # Of tokens that the caller masked, outputs mean nothing.
        by_token = values.shape == inputs["input_ids"].shape
        mask = inputs["attention_mask"] == 1 if by_token else ...
        assert relative_error(values[mask], expected[name][mask]) < tolerance


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("head", [CLASSIFICATION, ANSWERING])
@pytest.mark.parametrize("shape", [(1, 32), (3, 32), (5, 20), (6, 64), (2, 33)])
def test_agrees_with_onnxruntime(open_session, reference, head, shape, warm):
    session = open_session(head)
    if warm:
        session.warmup()
    inputs = tokens(*shape)
    assert_close(session.run(inputs), reference(head).run(inputs), inputs, TOLERANCE)


def test_graphs_replay_on_new_inputs(open_session):
    plain, warm = open_session(CLASSIFICATION), open_session(CLASSIFICATION)
    assert warm.graphs_bytes == 0
    warm.warmup()
    assert warm.graphs_bytes > 0
    for seed in range(20):
        inputs = tokens(1 + seed % 6, 20 + seed, seed)
        assert_close(warm.run(inputs), plain.run(inputs), inputs, SAME)


@needs_torch_cuda
def test_graphs_outlive_what_others_in_the_process_compile_and_free(open_session, reference):
    session, inputs = open_session(CLASSIFICATION), tokens(6, 64)
    session.warmup()
    # Dropping cuBLAS's workspaces is part of both.
    layer = torch.nn.Linear(256, 256, device="cuda", dtype=torch.float16)
    compiled = torch.compile(layer, mode="reduce-overhead")
    with torch.inference_mode():
        for _ in range(4):
            compiled(torch.ones(64, 256, device="cuda", dtype=torch.float16))
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    # Whatever a replay would now write to is someone else's.
    others = [torch.full((1 << 20,), 7, device="cuda") for _ in range(32)]
    assert_close(session.run(inputs), reference(CLASSIFICATION).run(inputs), inputs, TOLERANCE)
    assert all(bool((each == 7).all()) for each in others)


@pytest.mark.parametrize("sessions", [1, 4])
def test_threads_never_get_one_anothers_results(open_session, reference, sessions):
    made = [open_session(CLASSIFICATION) for _ in range(sessions)]
    made[0].warmup()
    batches = [tokens(1 + seed % 6, 20 + 4 * seed, seed) for seed in range(8)]
    expected = [reference(CLASSIFICATION).run(inputs) for inputs in batches]

    def work(thread):
        for call in range(200):
            index = (thread + call) % len(batches)
            found = made[thread % sessions].run(batches[index])
            assert_close(found, expected[index], batches[index], TOLERANCE)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


@needs_torch_cuda
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("head", [CLASSIFICATION, ANSWERING])
@pytest.mark.parametrize("shape", [(1, 32), (3, 20), (6, 64)])
def test_device_tensors_give_what_arrays_give(open_session, head, shape, warm):
    session = open_session(head)
    if warm:
        session.warmup()
    inputs = tokens(*shape)
    on_device = {name: torch.from_numpy(values).cuda() for name, values in inputs.items()}
    found = session.run_device(on_device)
    assert all(values.is_cuda for values in found.values())
    as_arrays = {name: values.cpu().numpy() for name, values in found.items()}
    assert_close(as_arrays, session.run(inputs), inputs, SAME)


@needs_torch_cuda
@pytest.mark.parametrize("warm", [False, True])
def test_device_work_waits_for_torch_and_torch_for_it(open_session, warm):
    session = open_session(CLASSIFICATION)
    if warm:
        session.warmup()
    inputs = tokens(6, 64)
    right = {name: torch.from_numpy(values).cuda() for name, values in inputs.items()}
    late = {name: torch.zeros_like(values) for name, values in right.items()}
    expected = session.run(inputs)["logits"]
    busy = torch.randn(4096, 4096, device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(50):
            busy = busy @ busy / 64
        for name, values in right.items():
            late[name].copy_(values)  # long after the host has gone on
        logits = session.run_device(late)["logits"]
        for values in late.values():
            values.zero_()
        doubled = (2 * logits).cpu().numpy()
    assert relative_error(doubled / 2, expected) < SAME


@needs_torch_cuda
def test_outputs_go_where_the_caller_wants_them(open_session):
    session = open_session(CLASSIFICATION)
    inputs = tokens(2, 32)
    array, tensor = np.empty((2, 2), np.float32), torch.empty(2, 2, device="cuda")
    on_device = {name: torch.from_numpy(values).cuda() for name, values in inputs.items()}
    assert session.run(inputs, {"logits": array})["logits"] is array
    assert session.run_device(on_device, {"logits": tensor})["logits"] is tensor
    assert relative_error(tensor.cpu().numpy(), array) < SAME


@pytest.mark.parametrize("shape", [(7, 32), (1, 65)])
def test_beyond_the_profiles(open_session, shape):
    with pytest.raises(BackendError, match="fits no profile"):
        open_session(CLASSIFICATION).run(tokens(*shape))


def test_closed_session_is_refused_and_gave_its_memory_back(open_session, cuda):
    open_session(CLASSIFICATION).run(tokens(1, 32))  # loads what is loaded once
    session = open_session(CLASSIFICATION)
    session.warmup()
    held = cuda.free_memory()
    session.close()
    assert cuda.free_memory() > held
    with pytest.raises(BackendError, match="is closed"):
        session.run(tokens(1, 32))
