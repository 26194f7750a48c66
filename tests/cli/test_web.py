"""The folder for the browser: its scripts in node, and the page in a real browser."""

from __future__ import annotations

import base64
import functools
import http.server
import io
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from exported import CLASSES, FACTS, network, picture
from PIL import Image
from timm.data import create_transform

from vimzoo import export, predict
from vimzoo.errors import UsageError
from vimzoo.exporting import FORMATS, Source
from vimzoo.exporting.formats import web
from vimzoo.restoration import Restorer
from vimzoo.restoration.tiling import blended_axis

WAIT = 60.0
pytest.importorskip("onnx", reason="needs the extra vimzoo[export]")


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's scripts, where node takes them for modules."""
    if shutil.which("node") is None:
        pytest.skip("needs node")
    folder = tmp_path_factory.mktemp("scripts")
    for name in web.PAGE:
        (folder / name).write_bytes((resources.files("vimzoo.exporting.web") / name).read_bytes())
    (folder / "package.json").write_text('{"type": "module"}')
    return folder


def in_node(scripts: Path, code: str, *given: Any) -> Any:
    """The value of some lines of JavaScript, which see ``given``."""
    (scripts / "given.json").write_text(json.dumps(given))
    lines = [
        'import * as pictures from "./pictures.js"; import * as tiles from "./tiles.js"; import fs from "node:fs";',
        'const given = JSON.parse(fs.readFileSync("given.json"));',
        f"console.log(JSON.stringify({code}));",
    ]
    (scripts / "run.js").write_text("\n".join(lines))
    done = subprocess.run(["node", "run.js"], cwd=scripts, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"interpolation": "bilinear", "input_size": (3, 24, 40)},
        {"interpolation": "lanczos", "crop_mode": "squash", "crop_pct": 0.875},
        {"input_size": (1, 24, 24), "mean": (0.5,), "std": (0.25,)},
        {"crop_pct": 0.5},
    ],
)
@pytest.mark.parametrize("size", [(41, 33), (20, 57), (48, 48)])
def test_pictures_are_prepared_as_timm_does(
    changed: dict[str, Any], size: tuple[int, int], scripts: Path, tmp_path: Path
) -> None:
    """Pillow's resizing and torchvision's cropping, to the last bit."""
    facts = FACTS["classifier"] | changed
    pixels = picture(tmp_path / "picture.png", *size)
    given = {
        key: facts[key] for key in ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
    }
    mode = "L" if facts["input_size"][0] == 1 else "RGB"
    want = create_transform(**given, is_training=False)(Image.fromarray(pixels).convert(mode))
    rgba = np.dstack([pixels, np.full(size, 255, np.uint8)])
    data = {"data": rgba.flatten().tolist(), "height": size[0], "width": size[1]}
    found = in_node(scripts, "Array.from(pictures.prepare(given[0], given[1]))", data, facts)
    torch.testing.assert_close(torch.tensor(found).reshape(want.shape), want, rtol=0, atol=2e-7)


@pytest.mark.parametrize(
    "numbers", [(100, 32, 8, 2, 1), (33, 32, 16, 1, 8), (7, 16, 4, 3, 16), (128, 128, 0, 1, 1)]
)
def test_tiles_are_those_of_the_restorer(numbers: tuple[int, ...], scripts: Path) -> None:
    code = "tiles.axis(...given).map((tile) => [tile.start, tile.length, Array.from(tile.weights)])"
    found = in_node(scripts, code, *numbers)
    want = blended_axis(*numbers)
    assert [(start, start + length) for start, length, _ in found] == [
        (span.start, span.stop) for span in want
    ]
    for (_, _, weights), span in zip(found, want, strict=True):
        torch.testing.assert_close(
            torch.tensor(weights, dtype=torch.float32), span.weights, rtol=0, atol=1e-6
        )


def test_the_check_is_made_of_the_same_images(scripts: Path) -> None:
    worker = (scripts / "worker.js").read_text()
    formula = "((i * 7919) % 1009) / 1009"
    assert formula in worker
    found = in_node(scripts, f"Array.from(Float32Array.from({{length: 3000}}, (_, i) => {formula}))")
    assert torch.equal(torch.tensor(found), web.check_images((1, 3, 20, 50)).flatten())


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Something in the place of onnxruntime-web, above the current folder."""
    folder = tmp_path / "node_modules" / "onnxruntime-web" / "dist"
    folder.mkdir(parents=True)
    (folder.parent / "package.json").write_text('{"version": "0"}')
    for name, module in web.BUNDLES.items():
        (folder / module).write_text(f'"ort-wasm-{name}.wasm"\n//# sourceMappingURL=x.map')
        (folder / f"ort-wasm-{name}.wasm").write_text(name)
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    return folder


def source(what: str, **facts: Any) -> Source:
    side = FACTS[what]["input_size"][1]
    return Source(network(what), torch.rand(2, 3, side, side), True, FACTS[what] | facts)


def test_folder(runtime: Path, tmp_path: Path) -> None:
    """It has all that the page fetches, and what the page compares itself with."""
    path = tmp_path / "site"
    FORMATS["web"].save(source("classifier"), path)
    assert {str(file.relative_to(path)) for file in path.rglob("*.*")} == {
        *web.PAGE, "model.onnx", "model.json", "ort/package.json", "ort/wasm.js", "ort/wasm.wasm", "ort/webgpu.js",
        "ort/webgpu.wasm",
    }  # fmt: skip
    facts = json.loads((path / "model.json").read_text())
    check = facts["check"]
    output = network("classifier")(web.check_images(tuple(check["shape"]))).flatten()
    assert check["values"] == output.tolist() and facts["names"] == CLASSES
    assert "map" not in (path / "ort" / "wasm.js").read_text()


@pytest.mark.parametrize(
    ("what", "facts", "message"),
    [
        ("classifier", {"crop_mode": "border"}, "crop_mode border; expected a classifier of pictures"),
        ("classifier", {"interpolation": "nearest"}, "interpolation nearest"),
        ("classifier", {"input_size": (8, 24, 24)}, "the model takes 8 channels"),
        ("restorer", {"input_size": (1, 16, 16)}, "the model takes 1 channels"),
        ("classifier", {"num_classes": 0}, "neither classes nor a scale"),
    ],
)
def test_what_the_page_cannot_show_is_refused(what: str, facts: dict, message: str) -> None:
    with pytest.raises(UsageError, match=f"--format web: .*{message}"):
        web.page_facts(source(what, **facts))


def test_tiles_of_a_file_for_one_size_have_it(scripts: Path, tmp_path: Path) -> None:
    """Here of 16 x 24 pixels; the picture is continued by reflection to whole tiles."""
    oblong = source("restorer", input_size=(3, 16, 24))._replace(dynamic_size=False)
    facts = web.page_facts(oblong)
    assert facts["sides"] == (16, 24) and facts["check"]["shape"] == (1, 3, 16, 24)
    pixels = picture(tmp_path / "picture.png", 20, 30)
    image = {"pixels": pixels.flatten().tolist(), "height": 20, "width": 30, "channels": 3}
    code = """await (async () => {
        globalThis.ImageData = function (data, width, height) { Object.assign(this, {data, width, height}); };
        const shapes = [], repeat = (tile, shape) => {
            shapes.push(shape);
            const [, channels, height, width] = shape, result = new Float32Array(4 * tile.length);
            for (let i = 0; i < result.length; i++) {
                const x = i % (2 * width), y = Math.floor(i / (2 * width)) % (2 * height);
                const channel = Math.floor(i / (4 * width * height));
                result[i] = tile[(channel * height + (y >> 1)) * width + (x >> 1)];
            }
            return result;
        };
        const image = await tiles.restore(given[0], given[1], 128, 8, repeat, () => 0);
        return [shapes, image.height, image.width, Array.from(image.data)];
    })()"""
    shapes, height, width, data = in_node(scripts, code, image, {"scale": 2, "sides": [16, 24]})
    assert shapes == [[1, 3, 16, 24]] * 4 and (height, width) == (40, 60)
    found = np.array(data, np.uint8).reshape(40, 60, 4)
    assert np.array_equal(found[..., :3], pixels.repeat(2, 0).repeat(2, 1)) and (found[..., 3] == 255).all()


def test_needs_are_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert export.main(["test_vim", "--random", "--format", "web"]) == 2
    assert "--format web: needs onnxruntime-web" in capsys.readouterr().err
    monkeypatch.setitem(FORMATS, "web", replace(FORMATS["web"], prepare=None))
    (tmp_path / "test_vim.web").mkdir()
    assert export.main(["test_vim", "--random", "--format", "web"]) == 2
    assert "--output test_vim.web: exists; expected the name of a new folder" in capsys.readouterr().err


MODELS = {"vim": "test_vim", "vmamba": "test_vmamba", "mambair": "test_mambair"}


def made(name: str) -> Any:
    """A model with weights of its own."""
    torch.manual_seed(1)
    return timm.create_model(MODELS[name]).eval()


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server of a folder with a site for each model, and pictures. npm brings onnxruntime-web."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm")
    folder = tmp_path_factory.mktemp("sites")
    subprocess.run(["npm", "install", "--silent", "onnxruntime-web@1.30.0"], cwd=folder, check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in MODELS:
            timm.models.save_for_hf(made(name), str(folder / f"{name}.saved"))
            export.export(str(folder / f"{name}.saved"), "web", folder / name)
        FORMATS["web"].save(source("classifier"), folder / "tiny")
    picture(folder / "picture.png", 50, 70)
    (folder / "damaged.png").write_bytes(b"\x89PNG")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()


class Page:
    """A page in the browser, from the loaded model on."""

    def __init__(self, browser: Any, address: str) -> None:
        self.browser = browser
        browser.get(address)
        assert self.reached("ready", "failed") == "ready", self.element("error").text

    def element(self, name: str) -> Any:
        return self.browser.find_element("id", name)

    def reached(self, *states: str) -> str:
        """Wait for one of some states; returns it."""
        deadline = time.monotonic() + WAIT
        while (
            state := self.browser.find_element("tag name", "body").get_attribute("data-state")
        ) not in states:
            assert time.monotonic() < deadline, f"{state}: {self.element('status').text}"
            time.sleep(0.1)
        return state

    def show(self, path: Path) -> str:
        self.element("file").send_keys(str(path))
        return self.reached("done", "failed")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vim", "vmamba"])
def test_classification_in_a_browser(name: str, sites: tuple[str, Path], browser: Any) -> None:
    """The probabilities are PyTorch's, and the page stays alive while it works."""
    address, folder = sites
    page = Page(browser, f"{address}/{name}/")
    assert float(browser.find_element("tag name", "body").get_attribute("data-difference")) < 3e-5
    assert page.show(folder / "picture.png") == "done"
    (answer,) = predict.predictions(made(name), [folder / "picture.png"])
    found = browser.find_elements("css selector", "#classes li")
    probabilities = [float(item.get_attribute("data-probability")) for item in found]
    assert [item.get_attribute("data-name") for item in found] == [c["class"] for c in answer["classes"]]
    assert probabilities == pytest.approx([c["probability"] for c in answer["classes"]], rel=1e-5)
    assert page.show(folder / "damaged.png") == "failed" and page.element("error").text


@pytest.mark.slow
def test_restoration_in_a_browser(sites: tuple[str, Path], browser: Any) -> None:
    """In tiles, the result is the restorer's; the slider shows more or less of it."""
    address, folder = sites
    page = Page(browser, f"{address}/mambair/")
    for name, value in (("tile", "40"), ("overlap", "10")):
        browser.execute_script(f"document.getElementById('{name}').value = {value}")
    assert page.show(folder / "picture.png") == "done"
    code = """const done = arguments[0];
    const blob = await (await fetch(document.getElementById("download").href)).blob(), reader = new FileReader();
    reader.onload = () => done(reader.result); reader.readAsDataURL(blob);"""
    browser.set_script_timeout(WAIT)
    url = browser.execute_async_script(f"(async (...arguments) => {{ {code} }})(...arguments)")
    found = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"))
    pixels = np.asarray(Image.open(folder / "picture.png"))
    want = Restorer(made("mambair"), tile=40, overlap=10)(pixels)
    assert found.shape == want.shape == (100, 140, 3)
    differences = np.abs(found.astype(int) - want.astype(int))
    assert differences.max() <= 1 and (differences > 0).mean() < 0.01
    browser.execute_script(
        "const s = document.getElementById('slider'); s.value = 20; s.dispatchEvent(new Event('input'))"
    )
    assert "20%" in page.element("after").get_attribute("style")


SOFTWARE_GPU = (
    "enable-unsafe-webgpu",
    "use-webgpu-adapter=swiftshader",
    "enable-features=Vulkan",
    "ignore-gpu-blocklist",
)


@pytest.mark.slow
@pytest.mark.parametrize("browser", [SOFTWARE_GPU], indirect=True, ids=["swiftshader"])
def test_webgpu_is_tried_after_webassembly(sites: tuple[str, Path], browser: Any) -> None:
    """On a GPU in software, which is slow, and for which a network with scans would take minutes."""
    address, _ = sites
    page = Page(browser, f"{address}/tiny/")
    assert browser.find_element("tag name", "body").get_attribute("data-backend") in ("WebAssembly", "WebGPU")
    deadline = time.monotonic() + WAIT
    while not (outcome := page.element("status").get_attribute("title")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert float(outcome.partition("difference ")[2]) < 1e-4, outcome
