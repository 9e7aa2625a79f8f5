"""Stand-ins for TensorRT and CUDA on host memory, that record what a session asks of them.

A stream runs nothing until somebody waits for it, and a graph replays copies and runs on whatever
the buffers hold by then: a missing synchronization, copy or address shows in the numbers.
"""

from __future__ import annotations

import ctypes
import itertools
from collections import Counter
from enum import Enum
from types import ModuleType

import ml_dtypes
import numpy as np

from deploy.engine.builder import Flavour
from deploy.engine.plan import PlanInfo
from deploy.engine.session import Precision
from deploy.errors import BackendError

PAD = 7
TORCH_STREAM = 0
NAMES = ("input_ids", "attention_mask", "token_type_ids")


class HostCuda:
    """`Cuda` on host memory."""

    torch_device = "cpu"

    def __init__(self, capacity=1 << 30):
        self.capacity = capacity
        self.live = {}
        self.calls = Counter()
        self.pending = {}
        self.recording = {}
        self.graphs = {}
        self.events = {}
        self.order = []
        self.ids = itertools.count(1000)

    def device_name(self):
        return "a stand-in"

    def free_memory(self):
        held = sum(memory.nbytes for memory in self.live.values())
        return self.capacity - held - 4096 * len(self.graphs)

    def malloc(self, size):
        self.calls["malloc"] += 1
        assert not self.recording, "allocated while capturing"
        if size > self.free_memory():
            raise BackendError("out of memory", "a smaller --max-batch")
        memory = np.full(size + 256, 0xAB, np.uint8)  # no token, and no number to hide behind
        address = -(-memory.ctypes.data // 256) * 256
        self.live[address] = memory
        return address

    def free(self, address):
        del self.live[address]

    def malloc_host(self, size):
        address = self.malloc(size)
        memory = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        memory[:] = 0
        return memory

    def free_host(self, memory):
        self.free(memory.ctypes.data)

    def copy(self, target, source, size, stream):
        self.calls["copy"] += 1
        self.put(stream, lambda: ctypes.memmove(target, source, size))

    def copy_2d(self, target, target_pitch, source, source_pitch, width, height, stream):
        assert width <= min(target_pitch, source_pitch)

        def work():
            for line in range(height):
                ctypes.memmove(target + line * target_pitch, source + line * source_pitch, width)

        self.calls["copy_2d"] += 1
        self.put(stream, work)

    def fill(self, address, byte, size, stream):
        self.put(stream, lambda: ctypes.memset(address, byte, size))

    def create_stream(self):
        stream = next(self.ids)
        self.pending[stream] = []
        return stream

    def destroy_stream(self, stream):
        assert not self.pending.pop(stream), "destroyed a stream with work on it"

    def synchronize(self, stream):
        assert stream not in self.recording, "waited while capturing"
        work, self.pending[stream] = self.pending[stream], []
        for each in work:
            each()

    def torch_stream(self):
        return TORCH_STREAM

    def create_event(self, timing=False):
        event = next(self.ids)
        self.events[event] = None
        return event

    def destroy_event(self, event):
        del self.events[event]

    def record(self, event, stream):
        self.order.append(("record", stream))
        self.events[event] = stream

    def wait(self, stream, event):
        self.order.append(("wait", stream))
        source = self.events[event]
        if source != TORCH_STREAM:  # torch on the CPU is always up to date
            self.synchronize(source)

    def elapsed_ms(self, start, end):
        return 0.0

    def capture(self, stream, work):
        self.calls["capture"] += 1
        assert not self.pending[stream], "captured on a stream with work on it"
        self.recording[stream] = []
        try:
            work()
        finally:
            recorded = self.recording.pop(stream)
        graph = next(self.ids)
        self.graphs[graph] = recorded
        return graph

    def launch(self, graph, stream):
        self.calls["launch"] += 1
        assert stream not in self.recording
        self.pending[stream] += self.graphs[graph]

    def destroy_graph(self, graph):
        del self.graphs[graph]

    def put(self, stream, work):
        self.recording.get(stream, self.pending[stream]).append(work)

    @property
    def leaked(self):
        return len(self.live) + len(self.graphs) + len(self.events) + len(self.pending)


class DataType(Enum):
    FLOAT = np.float32
    HALF = np.float16
    BF16 = ml_dtypes.bfloat16
    INT64 = np.int64
    INT32 = np.int32
    FP8 = np.uint8


class StandInContext:
    """An execution context.

    `enqueues` has, for each run, what was told it since the one before and whether it was captured;
    `asked`, how often somebody wanted to know an output's shape.
    """

    def __init__(self, engine):
        self.engine = engine
        self.shapes, self.addresses = {}, {}
        self.told = set()
        self.enqueues = []
        self.asked = 0
        self.profile = None
        self.memory = None

    def set_device_memory(self, address, size):
        assert size >= self.engine.device_memory_size_v2
        self.memory = address

    def set_optimization_profile_async(self, profile, stream):
        self.profile = profile
        return True

    def set_input_shape(self, name, shape):
        low, _, high = self.engine.get_tensor_profile_shape(name, self.profile)
        self.shapes[name] = shape
        self.told.add(("shape", name))
        return all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))

    def set_tensor_address(self, name, address):
        assert address % 256 == 0
        self.addresses[name] = address
        self.told.add(("address", name))
        return True

    def get_tensor_shape(self, name):
        self.asked += 1
        return self.shape_of(name)

    def shape_of(self, name):
        batch, sequence = self.shapes["input_ids"]
        _, columns = self.engine.get_tensor_shape(name)
        return (batch, sequence if columns == -1 else columns)

    def execute_async_v3(self, stream):
        cuda = self.engine.cuda
        if self.engine.fail:
            self.engine.logger.log(StandInLogger.ERROR, "the kernel is on strike")
            return False
        assert self.memory is not None
        self.enqueues.append((frozenset(self.told), stream in cuda.recording))
        self.told.clear()
        arrays = {
            name: view(self.addresses[name], self.shape_of(name), dtype)
            for name, dtype in self.engine.dtypes.items()
        }
        cuda.put(stream, lambda: compute(arrays, self.engine.pad))
        return True


def view(address, shape, dtype):
    count = int(np.prod(shape)) * np.dtype(dtype.value).itemsize
    memory = np.ctypeslib.as_array((ctypes.c_uint8 * count).from_address(address))
    return memory.view(dtype.value).reshape(shape)


def compute(arrays, pad):
    """A function of all inputs, to which every token and every padding token counts."""
    ids, mask, types = (arrays[name].astype(np.int64) for name in NAMES)
    padding = (ids == pad) & (mask == 0) & (types == 0)
    if "logits" in arrays:
        arrays["logits"][:, 0] = (ids * mask * np.arange(1, ids.shape[1] + 1)).sum(axis=1)
        arrays["logits"][:, 1] = padding.sum(axis=1)
        arrays["logits"][:, 2] = types.sum(axis=1)
    else:
        arrays["start_logits"][:] = ids + types / 2
        arrays["end_logits"][:] = padding


def expected(inputs, sequence):
    """The logits of real rows in a bucket."""
    ids, mask, types = (np.asarray(inputs[name], np.int64) for name in NAMES)
    weights = np.arange(1, ids.shape[1] + 1)
    padded = np.full(len(ids), sequence - ids.shape[1])
    columns = (ids * mask * weights).sum(axis=1), padded, types.sum(axis=1)
    return np.stack(columns, axis=1).astype(np.float32)


class StandInEngine:
    """An `ICudaEngine`."""

    device_memory_size_v2 = 512

    def __init__(self, cuda, profiles, outputs=("logits",), output="FLOAT", ids="INT64", pad=PAD):
        self.cuda = cuda
        self.profiles = profiles
        self.pad = pad
        self.dtypes = dict.fromkeys(NAMES, DataType[ids])
        self.dtypes |= dict.fromkeys(outputs, DataType[output])
        self.contexts = []
        self.fail = False
        self.logger = None

    @property
    def num_io_tensors(self):
        return len(self.dtypes)

    @property
    def num_optimization_profiles(self):
        return len(self.profiles)

    def get_tensor_name(self, index):
        return list(self.dtypes)[index]

    def get_tensor_mode(self, name):
        return "input" if name in NAMES else "output"

    def get_tensor_dtype(self, name):
        return self.dtypes[name]

    def get_tensor_shape(self, name):
        return (-1, 3) if name == "logits" else (-1, -1)

    def get_tensor_profile_shape(self, name, index):
        profile = self.profiles[index]
        return [(each.batch, each.sequence) for each in (profile.min, profile.opt, profile.max)]

    def create_execution_context(self, strategy):
        assert strategy == "user managed"
        self.contexts.append(StandInContext(self))
        return self.contexts[-1]

    @property
    def enqueues(self):
        return [each for context in self.contexts for each in context.enqueues]


class StandInLogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


def stand_in_tensorrt(engine, version="10.16.1.11"):
    """A `tensorrt` module whose runtime deserializes "plan" to the engine."""
    trt = ModuleType("tensorrt")
    trt.__version__ = version
    trt.ILogger = StandInLogger
    trt.TensorIOMode = type("TensorIOMode", (), {"INPUT": "input", "OUTPUT": "output"})
    trt.ExecutionContextAllocationStrategy = type("Strategy", (), {"USER_MANAGED": "user managed"})

    class Runtime:
        def __init__(self, logger):
            engine.logger = logger

        def deserialize_cuda_engine(self, plan):
            if plan == b"plan":
                return engine
            engine.logger.log(StandInLogger.ERROR, "magic tag does not match")
            engine.logger.log(StandInLogger.INFO, "nothing to see here")
            return None

    trt.Runtime = Runtime
    return trt


def plan_info(profiles, flavour=Flavour.TENSORRT, pad_token_id=PAD):
    return PlanInfo(
        sha256="0" * 64,
        bytes=4,
        precision=Precision.FP8,
        recipe="fp8",
        flavour=flavour,
        version="10.16.1.11",
        target="sm90",
        gpu="a stand-in",
        driver="1.0",
        profiles=profiles,
        pad_token_id=pad_token_id,
        hardware_compatible=False,
        version_compatible=False,
    )
