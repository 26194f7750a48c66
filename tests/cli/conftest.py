"""A real browser for the pages, and exported files for the commands that take them."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from exported import picture, written


@pytest.fixture
def browser(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A headless Chromium, where there is one; a parameter may be options in place of ``disable-gpu``."""
    selenium = pytest.importorskip("selenium.webdriver", reason="needs the package selenium")
    chromium, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "headless", "no-sandbox", "disable-quic", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", "window-size=1200,1400",
        *getattr(request, "param", ("disable-gpu",)),
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    page = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    yield page
    page.quit()


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The networks of `exported` as ONNX files for any size, one for one size, and a picture."""
    folder = tmp_path_factory.mktemp("files")
    for what in ("classifier", "restorer"):
        written(what, "onnx", folder)
    written("restorer", "onnx", folder, 16)
    picture(folder / "picture.png")
    return folder
