from __future__ import annotations

import pytest

from deploy.errors import BuildFolderError
from deploy.paths import inside


def test_a_path_within_the_folder(tmp_path):
    assert inside(tmp_path, "onnx/model.fp8.onnx") == tmp_path / "onnx" / "model.fp8.onnx"


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "onnx/../../secret",
        "onnx/..",
        "/etc/passwd",
        "",
        ".",
        "C:\\secret",
        "..\\secret",
        "c:secret",
        "a\x00b",
        "a/" * 3000,
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(tmp_path, name):
    with pytest.raises(BuildFolderError, match="does not lie within"):
        inside(tmp_path, name)


def test_a_link_that_leads_out_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "secret").write_text("x")
    (tmp_path / "out" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "out" / "circle").symlink_to("circle")
    for name in ("link", "circle"):
        with pytest.raises(BuildFolderError, match="does not lie within"):
            inside(tmp_path / "out", name)
