"""The 8-bit kernels against the same arithmetic in plain torch, and whole graphs executed."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from checkpoints import VOCABULARY
from graphs import export_random

from deploy.engine import torch_kernels
from deploy.engine.ort import OrtSession
from deploy.engine.profiles import bucket_profiles
from deploy.engine.session import Precision
from deploy.engine.torch_graph import AS_WRITTEN
from deploy.engine.torch_session import TorchSession
from export.recipe import PRESETS
from export.verify import relative_error

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA build of torch"),
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton"),
    pytest.mark.skipif(
        torch.cuda.is_available() and torch.cuda.get_device_capability() < (9, 0),
        reason="needs compute capability 9.0",
    ),
]

TYPES = [torch.float8_e4m3fn, torch.int8]


def codes(shape, dtype, seed=0):
    generator = torch.Generator("cuda").manual_seed(seed)
    if dtype is torch.int8:
        return torch.randint(-127, 128, shape, dtype=dtype, device="cuda", generator=generator)
    return (torch.randn(shape, device="cuda", generator=generator) * 40).clamp(-448, 448).to(dtype)


def assert_same_codes(found, expected):
    """Sums in another order move a value across a rounding boundary now and then, by one step.

    FP8 tensor cores keep about 13 bits of a sum. Before attention's second rounding that moves
    1.6 % of the codes on an H200, each by about a sixteenth.
    """
    assert found.dtype == expected.dtype
    found, expected = found.float(), expected.float()
    assert (found != expected).float().mean() < 0.03
    assert relative_error(found.cpu().numpy(), expected.cpu().numpy()) < 2e-2


@pytest.fixture
def one_configuration(monkeypatch):
    """Tiles change no result, and each is compiled for a second: the last serves here."""
    from deploy.engine import triton_attention, triton_linear

    for kernel in (triton_linear._linear_kernel, triton_attention._attention_kernel):
        monkeypatch.setattr(kernel, "configs", kernel.configs[-1:])


@pytest.mark.usefixtures("one_configuration")
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("gelu", "quantizes"), [(False, False), (False, True), (True, True)])
@pytest.mark.parametrize("shape", [((1, 1), 64, 192), ((3, 70), 96, 160), ((8, 128), 768, 3072)])
def test_linear(dtype, gelu, quantizes, shape):
    from deploy.engine.triton_linear import quantized_linear

    rows, k, n = shape
    x, weight = codes((*rows, k), dtype), codes((n, k), dtype, 1).t()
    spread = x.float().std() * weight.float().std() * k**0.5
    scale = (1.0 / spread).reshape(())
    channel = torch.linspace(0.1, 1.0, n, device="cuda")
    bias = torch.linspace(-2, 2, n, device="cuda").half()
    largest = 448.0 if dtype is torch.float8_e4m3fn else 127.0
    steps = torch.full((n,), largest / 5.0, device="cuda") if quantizes else None
    arguments = (x, weight, scale, channel, bias, gelu, steps)
    found = quantized_linear(*arguments)
    expected = torch_kernels.quantized_linear(*arguments)
    assert found.shape == expected.shape == (*rows, n)
    if quantizes:
        assert_same_codes(found, expected)
    else:
        # FP8 tensor cores keep about 13 bits of a sum; the result is FP16.
        assert relative_error(found.float().cpu().numpy(), expected.float().cpu().numpy()) < 3e-3


@pytest.mark.usefixtures("one_configuration")
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("sequence", "head_dim"), [(16, 64), (100, 32), (384, 64), (200, 128)])
def test_attention(dtype, masked, sequence, head_dim):
    from deploy.engine.triton_attention import quantized_attention

    batch, heads = 3, 4
    qkv = codes((batch, sequence, 3 * heads * head_dim), dtype)
    largest = 448.0 if dtype is torch.float8_e4m3fn else 127.0
    spread = float(qkv.float().std()) ** 2 * head_dim**0.5
    scales = torch.tensor([3.0 / spread, 1 / largest, 0.01, 0.003], device="cuda")
    mask = None
    if masked:
        mask = torch.zeros(batch, 1, 1, sequence, device="cuda").half()
        mask[1, ..., sequence // 2 :] = -30000.0
        mask[2, ..., :3] = -30000.0
    found = quantized_attention(qkv, scales, heads, mask)
    assert_same_codes(found, torch_kernels.quantized_attention(qkv, scales, heads, mask))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export_random(tmp_path_factory.mktemp("exported"), hidden=128)


@pytest.mark.parametrize("precision", [Precision.FP8, Precision.INT8])
def test_a_quantized_graph_is_executed_as_written(exported, precision):
    """In 8 bits end to end, and as near to the graph node by node as rounding allows."""
    onnx = exported.derive(precision.value, PRESETS[precision.value])
    profiles = bucket_profiles((32,), max_batch=8)
    reference = OrtSession(onnx, precision, profiles)
    fp32 = OrtSession(exported["fp32"], Precision.FP32, profiles)
    inputs = random_tokens(8, 32)
    with TorchSession(onnx, precision, profiles) as session:
        assert session.info.arithmetic == precision.value
        assert not session.info.simulated
        assert session.info.simulated_parts == ()
        session.warmup([8])
        found = session.run(inputs)["logits"]
    with TorchSession(onnx, precision, profiles, lowering=AS_WRITTEN) as literal:
        assert literal.info.simulated
        as_written = literal.run(inputs)["logits"]
    simulated, exact = (each.run(inputs)["logits"] for each in (reference, fp32))
    effect = relative_error(simulated, exact)
    # FP16 between the operations moves values across rounding boundaries: by less than
    # quantization itself does, however it is executed.
    assert relative_error(found, simulated) < effect
    assert relative_error(found, as_written) < effect


def random_tokens(batch, sequence):
    ids = np.random.default_rng(0).integers(4, VOCABULARY, (batch, sequence))
    mask = np.ones_like(ids)
    mask[1, sequence // 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
