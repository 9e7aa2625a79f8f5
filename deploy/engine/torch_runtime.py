"""What all torch sessions of a process share: torch's compiler, cuBLAS's workspace, the memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from calib_data.cache import cache_folder
from deploy.errors import BackendError

if TYPE_CHECKING:
    from torch import Tensor, fx

# torch compiles one thing at a time, and refuses to start what it compiled while another thread
# compiles. Replaying a CUDA graph is free of that.
COMPILER = threading.Lock()

_KERNEL_CACHES = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}


def compiled(module: fx.GraphModule) -> Callable[..., tuple[Tensor, ...]]:
    """Let torch fuse what lies between the GEMMs; kernels are kept in the user's cache folder."""
    import torch
    from torch import fx

    for variable, name in _KERNEL_CACHES.items():
        os.environ.setdefault(variable, str(cache_folder() / name))
    # A copy, on the same weights: torch keeps what it compiles by code, and limits how much.
    return torch.compile(fx.GraphModule(module, module.graph))


@contextmanager
def own_cublas_workspace() -> Iterator[None]:
    """Let what is captured take cuBLAS's workspace from the graph's memory.

    A graph keeps the workspace's address. torch keeps one workspace per stream and drops it when
    anybody in the process compiles with CUDA graphs or drops a graph: the next replay would write
    to memory of others (pytorch issues 192061, 193402).
    """
    import torch

    torch._C._cuda_clearCublasWorkspaces()
    try:
        yield
    finally:
        torch._C._cuda_clearCublasWorkspaces()


@contextmanager
def memory_explained() -> Iterator[None]:
    """Turn torch's lack of GPU memory into an error that says what to do.

    Raises:
        BackendError: The GPU has too little memory.
    """
    import torch

    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise BackendError(
            f"the GPU has too little memory: {str(error).splitlines()[0]}",
            "use a smaller --max-batch or fewer --buckets, or free the GPU",
        ) from error
