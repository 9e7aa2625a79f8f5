"""Photograph the top of a report for README: `python docs/picture.py OUT/report.html`."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PICTURE = Path(__file__).with_name("images") / "report.png"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")

# In CSS pixels: about as wide as GitHub's column, down to the first chart of a build with two
# gates; every pixel is drawn twice as large, for dense displays.
_WIDTH, _HEIGHT, _SCALE = 820, 1410, 2
# Flat colours and the grey of smoothed letters; with more of them, the file is larger and no nicer.
_COLOURS = 48


def photograph(report: Path, picture: Path, height: int) -> None:
    """Render a report in a headless browser, in light colours, and keep its top as a PNG."""
    from PIL import Image

    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"no browser found: install one of {', '.join(BROWSERS)}")
    picture.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        command = [
            browser,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--blink-settings=preferredColorScheme=1",
            f"--force-device-scale-factor={_SCALE}",
            f"--window-size={_WIDTH},{height}",
            f"--screenshot={shot}",
            report.resolve().as_uri(),
        ]
        subprocess.run(command, capture_output=True, timeout=120, check=True)
        with Image.open(shot) as image:
            image.convert("RGB").quantize(_COLOURS).save(picture, optimize=True)
    print(f"{picture}: {picture.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """Parse the arguments, and take the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, help="report.html of a build")
    parser.add_argument("--out", type=Path, default=PICTURE, help="PNG to write")
    parser.add_argument("--height", type=int, default=_HEIGHT, help="CSS pixels from the top")
    given = parser.parse_args()
    if not given.report.is_file():
        parser.error(f"no report at {given.report}")
    photograph(given.report, given.out, given.height)


if __name__ == "__main__":
    main()
