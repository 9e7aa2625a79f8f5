"""What a user would run instead: the same checkpoint in torch, or its ONNX in onnxruntime."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any

from calib_data.quiet import quiet_transformers
from calib_data.tasks import Head
from deploy.artifacts import BuildFolder
from deploy.bench.probes import device_probes, host_probe
from deploy.bench.sweep import Contestant, Probe
from deploy.engine.session import Arrays, Precision
from deploy.environment import cpu_name
from deploy.errors import BackendError

if TYPE_CHECKING:
    import torch

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class Baseline(str, Enum):
    """Something other than this project's engines that runs the same model."""

    TORCH_EAGER = "torch-eager"
    TORCH_COMPILE = "torch-compile"
    ONNXRUNTIME_CUDA = "onnxruntime-cuda"


@dataclass(frozen=True)
class BaselineModel:
    """What baselines run.

    Attributes:
        folder: The build, for its ONNX.
        checkpoint: What it was made from: folder or hub id.
        head: Of the model.
        shapes: How many shapes will be measured.
    """

    folder: BuildFolder
    checkpoint: str
    head: Head
    shapes: int


def baseline_probes(baseline: Baseline, model: BaselineModel) -> tuple[Probe, ...]:
    """Load a baseline.

    torch runs FP16 on a GPU and FP32 on the CPU; onnxruntime runs the build's FP16 model, or its
    FP32 one where there is no other.

    Raises:
        BackendError: The checkpoint cannot be loaded, or onnxruntime has no CUDA provider.
    """
    if baseline is Baseline.ONNXRUNTIME_CUDA:
        return _onnxruntime_cuda(model)
    return _torch(baseline, model)


def _torch(baseline: Baseline, model: BaselineModel) -> tuple[Probe, ...]:
    import torch

    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    compiled = baseline is Baseline.TORCH_COMPILE
    module = _load(baseline, model, torch.float16 if on_gpu else torch.float32)
    module = module.to(device).eval()
    accepted = inspect.signature(module.forward).parameters
    names = [name for name in _INPUTS if name in accepted]
    forward = _compile(module, on_gpu, model.shapes) if compiled else module

    def run_tensors(tensors: Mapping[str, torch.Tensor]) -> Any:
        with torch.inference_mode():
            return forward(**{name: tensors[name] for name in names})

    def run(arrays: Arrays) -> list[Any]:
        outputs = run_tensors({name: torch.from_numpy(arrays[name]).to(device) for name in names})
        return [output.float().cpu().numpy() for output in outputs.values()]

    contestant = Contestant(
        precision=(Precision.FP16 if on_gpu else Precision.FP32).value,
        backend=baseline.value,
        device=torch.cuda.get_device_name() if on_gpu else cpu_name(),
        simulated=False,
        cuda_graph=compiled and on_gpu,
    )
    if not on_gpu:
        return (host_probe(contestant, run),)
    stream = torch.cuda.current_stream()
    return (
        host_probe(contestant, run),
        *device_probes(contestant, lambda tensors: partial(run_tensors, tensors), stream),
    )


def _load(baseline: Baseline, model: BaselineModel, dtype: torch.dtype) -> torch.nn.Module:
    from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification

    auto = {
        Head.SEQUENCE_CLASSIFICATION: AutoModelForSequenceClassification,
        Head.QUESTION_ANSWERING: AutoModelForQuestionAnswering,
    }[model.head]
    try:
        with quiet_transformers():
            loaded: torch.nn.Module = auto.from_pretrained(
                model.checkpoint, dtype=dtype, use_safetensors=True, trust_remote_code=False
            )
    except Exception as error:  # whatever the library raises about a bad checkpoint
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise BackendError(
            f"--baseline {baseline.value}: cannot load '{model.checkpoint}': {reason}",
            "give the checkpoint that was built with --model, or drop --baseline",
        ) from error
    return loaded


def _compile(module: torch.nn.Module, on_gpu: bool, shapes: int) -> Callable[..., Any]:
    import torch

    # Beyond its limit, torch silently runs a new shape uncompiled.
    config: Any = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, 2 * shapes)
    compiled: Callable[..., Any] = torch.compile(
        module, dynamic=False, mode="reduce-overhead" if on_gpu else "default"
    )
    return compiled


def _onnxruntime_cuda(model: BaselineModel) -> tuple[Probe, ...]:
    import onnxruntime
    import torch

    provider = "CUDAExecutionProvider"
    if provider not in onnxruntime.get_available_providers() or not torch.cuda.is_available():
        raise BackendError(
            "--baseline onnxruntime-cuda: onnxruntime or torch has no CUDA here",
            "install onnxruntime-gpu in place of onnxruntime (`deploy doctor` shows how), or drop "
            "the baseline",
        )
    has_fp16 = model.folder.onnx(Precision.FP16.value).is_file()
    precision = Precision.FP16 if has_fp16 else Precision.FP32
    cuda: Any = torch.cuda  # partly untyped
    stream = cuda.Stream()
    session = onnxruntime.InferenceSession(
        str(model.folder.onnx(precision.value)),
        providers=[(provider, {"user_compute_stream": str(stream.cuda_stream)})],
    )
    names = [value.name for value in session.get_inputs()]
    outputs = [value.name for value in session.get_outputs()]

    def run(arrays: Arrays) -> Any:
        return session.run(outputs, {name: arrays[name] for name in names})

    def prepare(tensors: Mapping[str, torch.Tensor]) -> Callable[[], object]:
        binding = session.io_binding()
        for name in names:
            tensor = tensors[name]
            binding.bind_input(name, "cuda", 0, "int64", tuple(tensor.shape), tensor.data_ptr())
        for name in outputs:
            binding.bind_output(name, "cuda")

        def call(kept: Any = tensors) -> None:  # the binding holds addresses, not the tensors
            session.run_with_iobinding(binding)

        return call

    contestant = Contestant(
        precision=precision.value,
        backend=Baseline.ONNXRUNTIME_CUDA.value,
        device=torch.cuda.get_device_name(),
        simulated=False,
        cuda_graph=False,
    )
    return (host_probe(contestant, run), *device_probes(contestant, prepare, stream))
