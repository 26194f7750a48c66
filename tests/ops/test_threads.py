"""How many threads a region gets, and what a forked process does: counted, not timed."""

import os
import subprocess
import sys
import textwrap
import threading

import pytest
import timm
import torch

import vimzoo
from vimzoo.models.threads import multiply_adds
from vimzoo.ops.paths.path import BIDIRECTIONAL
from vimzoo.ops.runtime import native, threads

needs_native = pytest.mark.skipif(native.load()[0] is None, reason="no native library was built")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


@pytest.fixture(autouse=True)
def four_threads() -> None:
    torch.set_num_threads(4)


@pytest.mark.parametrize(
    ("grains", "want"), ((0, 1), (0.5, 1), (1.9, 1), (2.1, 2), (3.5, 3), (4.1, 4), (1000, 4))
)
def test_each_thread_has_a_grain(grains: float, want: int) -> None:
    assert threads.for_work(grains * threads.GRAIN) == want
    torch.set_num_threads(1)
    assert threads.for_work(grains * threads.GRAIN) == 1


def asked_of_c(monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    """Collects the number of threads in each call of a C function whose arguments are packed by ``name``."""
    numbers, pack = [], getattr(native, name)
    monkeypatch.setattr(native, name, lambda **fields: numbers.append(fields["threads"]) or pack(**fields))
    return numbers


@needs_native
@pytest.mark.parametrize(("length", "want"), ((16, 1), (4096, 4)))
def test_scans_of_few_tokens_run_on_one_thread(length: int, want: int, monkeypatch) -> None:
    numbers = asked_of_c(monkeypatch, "ScanPathsArgs")
    x, rows = torch.randn(1, length, 192, requires_grad=True), torch.randn(1, length, 2, 4 + 32)
    rates, weight, bias = -torch.rand(2, 192, 16), torch.randn(2, 192, 4), torch.zeros(2, 192)
    vimzoo.ops.scan_paths(x, rows, rates, weight, bias, paths=BIDIRECTIONAL).sum().backward()
    assert numbers == [want, want]


@needs_native
@pytest.mark.parametrize(("length", "want"), ((16, 1), (8192, 4)))
def test_other_operators_too(length: int, want: int, monkeypatch) -> None:
    names = ("SelectiveScanArgs", "CausalConvArgs", "AddNormArgs")
    numbers = {name: asked_of_c(monkeypatch, name) for name in names}
    u, matrix = torch.rand(1, 64, length), torch.rand(1, 16, length)
    vimzoo.ops.selective_scan(u, u, -torch.rand(64, 16), matrix, matrix)
    x = u.transpose(1, 2)
    vimzoo.ops.causal_conv1d(x, torch.rand(2, 64, 4), None, reverse=(False, True))
    vimzoo.ops.add_norm(x.repeat(1, 1, 4), None, torch.ones(256))
    assert numbers == {name: [want] for name in names}


@needs_native
def test_a_block_on_the_calling_thread_leaves_others_alone() -> None:
    seen: list[int] = []
    with threads.calling_thread():
        assert torch.get_num_threads() == 1 and threads.for_work(1e12) == 1
        other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        other.start()
        other.join()
    assert seen == [4] and torch.get_num_threads() == 4
    with pytest.raises(KeyError), threads.calling_thread():
        raise KeyError
    assert torch.get_num_threads() == 4


@needs_native
@pytest.mark.parametrize("name", ("test_vim", "test_vmamba", "test_mambair"))
def test_small_calls_of_a_model_run_on_one_thread(name: str) -> None:
    model, seen = timm.create_model(name).eval(), []
    for module in model.modules():
        module.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    small = torch.rand(1, 3, 16 if "mambair" in name else 64, 64)
    want = model(small)
    assert set(seen) == {1} and torch.get_num_threads() == 4
    seen.clear()
    with torch.no_grad():
        many = model(small.expand(1000 if name == "test_vim" else 80, -1, -1, -1))
    assert set(seen) == {4}
    assert torch.allclose(many[:1], want, atol=1e-4)


def test_work_grows_with_images_and_pixels() -> None:
    """Vim-T has 7 million weights, nearly all in its blocks, each multiplied with every one of 196 tokens."""
    model = timm.create_model("vim_tiny_patch16_224", num_classes=0)
    work = multiply_adds(model, torch.Size((1, 3, 224, 224)))
    assert 1.2e9 < work < 1.5e9
    assert multiply_adds(model, torch.Size((3, 3, 224, 448))) == pytest.approx(6 * work, rel=1e-3)


FORK = """
import logging, os, sys
import timm, torch
import vimzoo

logging.basicConfig(format="%(message)s")
torch.set_num_threads(2)
model, images = timm.create_model("test_vmamba").eval(), torch.rand(64, 3, 64, 64)
with torch.inference_mode():
    before = model(images)
    child = os.fork()
    if child == 0:
        same = torch.allclose(model(images), before, atol=1e-5)
        print("answers", same, torch.get_num_threads(), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    print("goes on", torch.equal(model(images), before), torch.get_num_threads())
"""


@needs_fork
def test_a_forked_process_answers() -> None:
    """It waited for ever for OpenMP's threads, which a fork does not copy."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FORK)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines() == ["answers True 1", "goes on True 2"], done.stderr
    assert done.stderr.count("runs on one thread") == 1
