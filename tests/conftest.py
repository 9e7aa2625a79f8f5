from __future__ import annotations

from pathlib import Path

import pytest

from calib_data.demo.model import ensure_demo_model


@pytest.fixture(scope="session")
def demo_model() -> Path:
    return ensure_demo_model()
