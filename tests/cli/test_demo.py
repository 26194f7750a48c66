"""The page to try the models: its functions, and the page itself in a real browser."""

import runpy
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from vimzoo import demo, plots
from vimzoo.compat import mambair
from vimzoo.models import MambaIRv2

WAIT = 90.0  # seconds for a page or an answer, on a busy machine


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture, its halves, a file that is none, and weights of two small models."""
    folder = tmp_path_factory.mktemp("demo")
    noise = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "picture.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # to be shown a quarter turn to the right
    Image.fromarray(noise).save(folder / "turned.png", exif=turned)
    Image.fromarray(noise).convert("RGBA").save(folder / "alpha.png")
    Image.fromarray(noise[..., 0].astype(np.uint16) << 8).save(folder / "deep grey.png")
    (folder / "no picture.png").write_bytes(b"\x89PNG\r\n\x1a\n, but not quite")
    torch.save({"model": timm.create_model("test_vmamba").state_dict()}, folder / "classifier.pth")
    model = MambaIRv2(
        embed_dim=16, depths=(1,), d_state=4, num_heads=2, window=8, rank=6, num_tokens=10,
        upsampler="pixelshuffledirect",
    )  # fmt: skip
    torch.save({"params": mambair.official_state_dict(model)}, folder / "restorer.pth")
    return folder


@pytest.mark.parametrize("name", ["picture", "turned", "alpha", "deep grey"])
def test_classify_any_picture(name: str, files: Path) -> None:
    scores, heat, paths = demo.classify(
        str(files / f"{name}.png"), "test_vmamba", str(files / "classifier.pth")
    )
    assert len(scores) == 5 and 0 < sum(scores.values()) <= 1
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    assert heat.std() > 0 and paths.shape[1] > 3 * paths.shape[0]  # four paths side by side


@pytest.mark.filterwarnings("ignore:'vimzoo.demo' found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--help"], 0, "--restore-model"),
        (["--port", "x"], 2, "error: argument --port: invalid int value: 'x'; "),
        ([], 2, "error: the page needs vimzoo.restoration; pip install 'vimzoo[demo]'"),
    ],
)
def test_its_options_need_no_other_packages(
    words: list[str],
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "vimzoo.restoration", None)
    monkeypatch.setattr(sys, "argv", ["demo", *words])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("vimzoo.demo", run_name="__main__")
    shown = capsys.readouterr()
    assert stop.value.code == status and said in shown.out + shown.err
    assert "usage:" not in shown.err


def test_restore(files: Path) -> None:
    told: list[float] = []
    weights = str(files / "restorer.pth")
    before, after = demo.restore(str(files / "picture.png"), "", weights, told.append)
    assert before.shape == after.shape == (96, 80, 3) and before.dtype == after.dtype == np.uint8
    assert np.array_equal(before[::2, ::2], np.asarray(Image.open(files / "picture.png")))
    assert told[-1] == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda f: demo.classify(None, "test_vim"), "Choose a picture first"),
        (
            lambda f: demo.classify(str(f / "no picture.png"), "test_vmamba", str(f / "classifier.pth")),
            "cannot be read as a picture",
        ),
        (lambda f: demo.classify(str(f / "picture.png"), "vmamba_tiny"), "no such model.*similar names: vmamba_"),
        (lambda f: demo.classify(str(f / "picture.png"), "test_vim", str(f / "restorer.pth")), "restorer.pth"),
        (lambda f: demo.restore(str(f / "picture.png"), "", ""), "Name a model, or a file"),
        (lambda f: demo.restore(str(f / "picture.png"), "mambair_none"), "mambair_none: no such model or folder"),
        (lambda f: demo.restore(str(f / "picture.png"), "", str(f / "classifier.pth")), "classifier.pth"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_said(call: Any, words: str, files: Path) -> None:
    with pytest.raises(demo.DemoError, match=words):
        call(files)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "vim_tny"], "--model vim_tny: no such model or folder; similar names: vim_tiny"),
        (["--restore-model", "mambair_dm"], "--restore-model mambair_dm: no such model or folder"),
        (["--restore-checkpoint", "none.pth"], "--restore-checkpoint none.pth: no such file"),
    ],
)
def test_what_does_not_exist_opens_no_page(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main(words) == 2
    assert message in capsys.readouterr().err


def test_attribution_points_at_what_counts() -> None:
    """A model that looks at one corner alone."""

    class Corner(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            corner = x[:, :, :8, :8].square().mean((1, 2, 3))
            return torch.stack([corner, -corner], 1)

    heat = plots.attribution(Corner(), torch.rand(2, 3, 32, 32), torch.tensor([0, 1]))
    assert heat.shape == (2, 32, 32) and heat.amax().item() == pytest.approx(1)
    assert (heat[:, :8, :8].mean((1, 2)) > 0.5).all() and heat[:, 16:, 16:].amax() == 0
    with pytest.raises(ValueError, match="odd"):
        plots.attribution(Corner(), torch.rand(1, 3, 8, 8), torch.tensor([0]), blur=4)


@pytest.fixture
def server(files: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The page served by a process of its own; its address."""
    pytest.importorskip("gradio", reason="needs the extra vimzoo[demo]")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "vimzoo.demo", "--no-browser", "--port", str(port), "--model", "test_vmamba",
        "--checkpoint", str(files / "classifier.pth"), "--restore-checkpoint", str(files / "restorer.pth"),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + WAIT
        while True:
            assert process.poll() is None, "the server ended"
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.slow
def test_page_in_a_browser(server: str, browser: Any, files: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    wait = WebDriverWait(browser, WAIT)

    def element(selector: str) -> Any:
        return wait.until(lambda page: page.find_elements(By.CSS_SELECTOR, selector))[0]

    def upload(tab: str, file: str) -> None:
        element(f"#{tab}-file input[type=file]").send_keys(str(files / file))
        wait.until(lambda page: file.split()[0][:4] in page.find_element(By.ID, f"{tab}-file").text)

    def press(name: str) -> None:
        browser.execute_script("arguments[0].click()", element(f"#{name}-button"))

    browser.get(server)
    press("classify")
    wait.until(lambda page: "Choose a picture first" in page.find_element(By.TAG_NAME, "body").text)
    upload("classify", "picture.png")
    press("classify")
    wait.until(lambda page: page.find_element(By.ID, "classify-result").text.count("%") == 5)
    for picture in ("heat", "paths"):
        shown = element(f"#classify-{picture} img")
        wait.until(lambda page, img=shown: page.execute_script("return arguments[0].naturalWidth", img) > 100)

    tabs = wait.until(lambda page: page.find_elements(By.CSS_SELECTOR, "button[role=tab]"))
    next(tab for tab in tabs if tab.text == "Restore").click()
    upload("restore", "picture.png")
    press("restore")
    wait.until(
        lambda page: (
            sorted(
                page.execute_script("return arguments[0].naturalWidth", img)
                for img in page.find_elements(By.CSS_SELECTOR, "#restore-result img")
            )
            == [80, 80]
        )
    )
    browser.refresh()
    upload("classify", "no picture.png")
    press("classify")
    wait.until(lambda page: "cannot be read as a picture" in page.find_element(By.TAG_NAME, "body").text)
