"""How a build is followed, stopped, and what it keeps for the next one."""

from __future__ import annotations

import _thread
import errno
import os
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from checkpoints import save_random_checkpoint

from calib_data.progress import SilentProgress
from calib_data.tasks import Head, get_task
from deploy.engine.build_monitor import BuildProgress, run_cancellable
from deploy.engine.builder import (
    BuilderOptions,
    EngineSpec,
    Flavour,
    HardwareCompatibility,
    build_engine,
    installed_flavours,
)
from deploy.engine.profiles import bucket_profiles
from deploy.engine.timing_cache import attach_timing_cache, keep_timing_cache, timing_cache_path
from deploy.errors import EngineError
from export.checkpoint import load_checkpoint
from export.onnx_export import export_onnx
from export.onnx_file import write_onnx

needs_rtx = pytest.mark.skipif(
    Flavour.TENSORRT_RTX not in installed_flavours(),
    reason="needs tensorrt-rtx: pip install tensorrt-rtx-cu13",
)


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory):
    folder = save_random_checkpoint(tmp_path_factory.mktemp("builder"))
    checkpoint = load_checkpoint(str(folder), get_task("sst2"))
    write_onnx(export_onnx(checkpoint, Head.SEQUENCE_CLASSIFICATION), folder / "model.fp32.onnx")
    return folder / "model.fp32.onnx"


def spec(onnx_file, **options) -> EngineSpec:
    profiles = bucket_profiles((32,), max_batch=2)
    return EngineSpec(onnx_file, Flavour.TENSORRT_RTX, profiles, "sm89", BuilderOptions(**options))


class Shares(SilentProgress):
    """Progress that remembers, and interrupts the main thread at a share of the build."""

    def __init__(self, interrupt: bool = False) -> None:
        self.seen: list[float] = []
        self.interrupt = interrupt

    def meter(self, description):
        self.description = description
        return nullcontext(self._show)

    def _show(self, share: float) -> None:
        self.seen.append(share)
        if self.interrupt and len(self.seen) == 1:
            _thread.interrupt_main()
            time.sleep(0.3)  # long enough for the main thread to hear it


@needs_rtx
def test_a_build_shows_how_far_it_is(onnx_file):
    shares = Shares()
    build_engine(spec(onnx_file), shares)
    assert len(shares.seen) > 10
    assert shares.seen == sorted(shares.seen)
    assert shares.seen[-1] == 1.0
    assert shares.description == "Building model.fp32 for sm89"


@needs_rtx
def test_ctrl_c_stops_a_build(onnx_file):
    shares = Shares(interrupt=True)
    with pytest.raises(KeyboardInterrupt):
        build_engine(spec(onnx_file), shares)
    # Told to stop at its first step, the builder did not go through the hundreds that follow.
    assert len(shares.seen) < 10
    assert not [t for t in threading.enumerate() if t.name == "tensorrt-build"]


@needs_rtx
def test_options_reach_the_builder(onnx_file):
    plain = build_engine(spec(onnx_file, workspace_mib=64, optimization_level=1))
    assert plain.plan
    # What TensorRT for RTX refuses shows that the option arrived.
    with pytest.raises(EngineError, match="lean"):
        build_engine(spec(onnx_file, version_compatible=True))
    level = HardwareCompatibility.SAME_COMPUTE_CAPABILITY
    said = build_engine(spec(onnx_file, hardware_compatibility=level)).log
    assert any("setHardwareCompatibilityLevel" in message for message in said)


def test_what_the_build_raises_is_raised_where_it_was_called():
    def fail():
        raise EngineError("broken", "mend it")

    with pytest.raises(EngineError, match="broken"):
        run_cancellable(fail, threading.Event())


def test_nested_phases_count_as_their_share_of_the_step_they_stand_in():
    seen: list[float] = []
    progress = BuildProgress(seen.append)
    progress.start("build", 2)
    progress.start("inner", 4)
    progress.step("inner", 0)
    assert seen == [0.125]
    progress.finish("inner")
    progress.step("build", 0)
    assert seen[-1] == 0.5
    # A phase that promises fewer steps than it takes must not run past its end, or back.
    progress.start("other", 1)
    for step in range(3):
        progress.step("other", step)
    assert seen[-1] == 1.0
    progress.step("unknown", 0)
    progress.finish("other")
    progress.finish("build")
    assert seen == sorted(seen)


@dataclass
class StandInConfig:
    """The timing cache calls of `trt.IBuilderConfig`, which needs a GPU elsewhere.

    A cache is a line of words; combining joins them, and garbage is refused.
    """

    cache: SimpleNamespace | None = None
    refuses: set[bytes] = field(default_factory=set)

    def create_timing_cache(self, content: bytes):
        if content in self.refuses:
            return None
        cache = SimpleNamespace(words=set(content.split()))
        cache.combine = lambda other, ignore_mismatch: cache.words.update(other.words) or True
        cache.serialize = lambda: b" ".join(sorted(cache.words))
        return cache

    def set_timing_cache(self, cache, ignore_mismatch):
        assert not ignore_mismatch  # another GPU's times are no times
        self.cache = cache
        return True

    def get_timing_cache(self):
        return self.cache


def test_the_timing_cache_is_kept_between_builds(tmp_path):
    path = tmp_path / "t.cache"
    first = StandInConfig()
    attach_timing_cache(first, path)
    first.cache.words.add(b"gemm")
    keep_timing_cache(first, path)
    second = StandInConfig()
    attach_timing_cache(second, path)
    assert second.cache.words == {b"gemm"}


def test_two_builds_at_once_lose_nothing_of_each_other(tmp_path):
    path = tmp_path / "t.cache"
    configs = [StandInConfig(), StandInConfig()]
    for config, word in zip(configs, (b"a", b"b"), strict=True):
        attach_timing_cache(config, path)
        config.cache.words.add(word)
    for config in configs:
        keep_timing_cache(config, path)
    assert path.read_bytes() == b"a b"


def test_a_damaged_timing_cache_is_made_anew(tmp_path, capfd):
    path = tmp_path / "t.cache"
    path.write_bytes(b"garbage")
    config = StandInConfig(refuses={b"garbage"})
    attach_timing_cache(config, path)
    assert config.cache.words == set()
    assert "refuses the timing cache" in capfd.readouterr().err
    config.cache.words.add(b"a")
    keep_timing_cache(config, path)
    assert path.read_bytes() == b"a"


@pytest.mark.parametrize("failure", ["a full disk", "a file in the way"])
def test_a_timing_cache_that_cannot_be_written_costs_no_engine(
    failure, tmp_path, monkeypatch, logged
):
    monkeypatch.setenv("BERT_TRT_DEPLOY_CACHE", str(tmp_path / "cache"))
    path = timing_cache_path("10.16.1", "NVIDIA L4, 580.95")
    if failure == "a full disk":
        monkeypatch.setattr(os, "fsync", no_space)
    else:
        (tmp_path / "cache").write_text("mine")
    config = StandInConfig()
    attach_timing_cache(config, path)
    keep_timing_cache(config, path)
    (warning,) = logged
    assert str(tmp_path / "cache") in warning
    assert "set BERT_TRT_DEPLOY_CACHE" in warning
    assert "--out" not in warning


def no_space(_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_every_gpu_and_release_has_a_timing_cache_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("BERT_TRT_DEPLOY_CACHE", str(tmp_path))
    names = {
        timing_cache_path(version, gpu).name
        for version in ("10.16.1", "11.4.0")
        for gpu in ("NVIDIA H100 80GB HBM3, 580.95", "NVIDIA L4, 580.95")
    }
    assert len(names) == 4
    assert "tensorrt-10.16.1-NVIDIA-L4-580-95.cache" in names
