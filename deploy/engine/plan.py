"""What a plan file is, written beside it, and checked before anything reads it.

A plan is code: whoever deserialises one runs it. So a plan is loaded only out of its build folder,
after its hash was found in the manifest, and after everything that a TensorRT runtime would refuse
it for.
"""

from __future__ import annotations

from dataclasses import dataclass

from deploy.engine.builder import Flavour
from deploy.engine.profiles import Profile
from deploy.engine.session import Precision


@dataclass(frozen=True)
class PlanInfo:
    """What a plan is.

    Attributes:
        sha256: Of the plan, in hexadecimal.
        bytes: Size of the plan.
        precision: Of the model.
        recipe: Name of its recipe; None where nothing is quantized.
        flavour: Which TensorRT built it.
        version: Version of that TensorRT.
        target: Compute capability that it runs on, such as "sm90".
        gpu: Name of the GPU it was tuned on; None where it was built without one.
        driver: Version of that GPU's driver; None without one.
        profiles: Optimization profiles, by their indexes in the engine.
        pad_token_id: What `input_ids` are padded with.
        hardware_compatible: Whether it also runs on newer GPUs than `target`.
        version_compatible: Whether newer TensorRT releases of the same major version load it.
    """

    sha256: str
    bytes: int
    precision: Precision
    recipe: str | None
    flavour: Flavour
    version: str
    target: str
    gpu: str | None
    driver: str | None
    profiles: tuple[Profile, ...]
    pad_token_id: int
    hardware_compatible: bool
    version_compatible: bool
