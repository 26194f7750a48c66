"""How many threads a region gets, and what a forked process does: counted, not timed."""

import ctypes
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from typing import Any

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


@pytest.fixture
def own_pool() -> Iterator[None]:
    """The kernels' loops in their own pool, as in a build without OpenMP."""
    library = native.open_library(native.load()[1])
    assert library.vimzoo_use_pool(1)
    yield
    library.vimzoo_use_pool(0)


def answers() -> list[torch.Tensor]:
    """What every operator with a loop over threads returns for random numbers, gradients included."""
    random = torch.Generator().manual_seed(0)
    x, rows, rates, weight, taps = (
        torch.rand(shape, generator=random).sub(0.5).requires_grad_()
        for shape in ((2, 4096, 64), (2, 4096, 2, 4 + 16), (2, 64, 8), (2, 64, 4), (2, 64, 4))
    )
    convolved = vimzoo.ops.causal_conv1d(x, taps, None, reverse=(False, True))
    y = vimzoo.ops.scan_paths(convolved, rows, -rates.exp(), weight, torch.zeros(2, 64), paths=BIDIRECTIONAL)
    u = y.transpose(1, 2)
    matrix = rows[..., 0, :8].transpose(1, 2)
    y = y + vimzoo.ops.selective_scan(u, u, -rates[0].exp(), matrix, matrix).transpose(1, 2)
    y, _ = vimzoo.ops.add_norm(y, None, torch.ones(64))
    found = [y, *torch.autograd.grad(y.square().sum(), (x, rows, rates, weight, taps))]
    with torch.inference_mode():
        quantized = vimzoo.ops.quantize_weight(weight.flatten(0, 1).repeat(1, 16), bits=8)
        return [*found, vimzoo.ops.quantized_linear(x, quantized, activations="int8")]


@needs_native
def test_the_own_pool_answers_as_one_thread_does(own_pool: None) -> None:
    """Also several callers at once, of which one at a time gets the pool."""
    numbers: list[list[torch.Tensor]] = []
    callers = [threading.Thread(target=lambda: numbers.append(answers())) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    torch.set_num_threads(1)
    want = answers()
    assert len(numbers) == 3
    for got in numbers:
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


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


LOOP_PART = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
LOOP_RUNNER = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, LOOP_PART, ctypes.c_void_p)


@needs_native
def test_a_runtime_may_lend_its_threads() -> None:
    """OpenVINO and onnxruntime do. In any order, on any thread; the loops of other callers stay where they were."""
    library: Any = native.open_library(native.load()[1])
    lent: list[tuple[int, int]] = []

    def on_other_threads(runtime: int, parts: int, part: Any, loop: int) -> None:
        lent.append((runtime, parts))
        for i in reversed(range(parts)):
            thread = threading.Thread(target=part, args=(loop, i))
            thread.start()
            thread.join()

    runner = LOOP_RUNNER(on_other_threads)
    torch.set_num_threads(1)
    want = answers()
    torch.set_num_threads(4)
    library.vimzoo_borrow_threads.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    library.vimzoo_borrow_threads(ctypes.cast(runner, ctypes.c_void_p), 7)
    got = answers()
    calls = len(lent)
    elsewhere: list[list[torch.Tensor]] = []
    other = threading.Thread(target=lambda: elsewhere.append(answers()))
    other.start()
    other.join()
    library.vimzoo_borrow_threads(None, None)
    after = answers()
    assert (
        len(lent) == calls > 0
        and {runtime for runtime, _ in lent} == {7}
        and max(parts for _, parts in lent) == 4
    )
    for found in (got, elsewhere[0], after):
        assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))


@needs_fork
def test_a_forked_process_answers() -> None:
    """It waited for ever for OpenMP's threads, which a fork does not copy."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FORK)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines() == ["answers True 1", "goes on True 2"], done.stderr
    assert done.stderr.count("runs on one thread") == 1


FORK_OF_THE_POOL = """
import os
import torch
import vimzoo
from vimzoo.ops.runtime import native

torch.set_num_threads(4)
native.open_library(native.load()[1]).vimzoo_use_pool(1)
x, weight = torch.rand(1, 8192, 256), torch.ones(256)
want = bytes(vimzoo.ops.add_norm(x, None, weight)[0].numpy())
child = os.fork()
if child == 0:
    torch.set_num_threads(4)
    os._exit(bytes(vimzoo.ops.add_norm(x, None, weight)[0].numpy()) != want)
print("answers", os.waitpid(child, 0)[1] == 0)
"""


@needs_native
@needs_fork
def test_the_own_pool_after_a_fork() -> None:
    """Its threads are not copied; it starts others."""
    done = subprocess.run(
        [sys.executable, "-c", FORK_OF_THE_POOL], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "answers True\n", done.stderr


SHORT_OF_MEMORY = """
import resource, sys
import torch
import vimzoo
from vimzoo.ops.runtime import native

threads, own_pool = map(int, sys.argv[1:])
torch.set_num_threads(threads)
native.open_library(native.load()[1]).vimzoo_use_pool(own_pool)


def scan(length):
    x, rows = torch.rand(1, length, 128).bfloat16(), torch.rand(1, length, 4, 4 + 2).bfloat16()
    rates, weight, bias = -torch.ones(4, 128, 1), torch.rand(4, 128, 4), torch.zeros(4, 128)
    return lambda: vimzoo.ops.scan_paths(x, rows, rates, weight, bias, paths=vimzoo.ops.CROSS, grid=(64, length // 64))


with torch.inference_mode():
    small, large = scan(4096), scan(1 << 17)
    want = small()
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (48 << 20), resource.RLIM_INFINITY))  # 32 MiB are the output's
    try:
        large()
    except MemoryError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(torch.equal(small(), want), large().isfinite().all().item())
"""


@needs_native
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="limits memory as Linux does")
@pytest.mark.parametrize(("threads", "own_pool"), ((1, 0), (4, 0), (4, 1)))
def test_memory_that_is_short_is_an_error(threads: int, own_pool: int) -> None:
    """It ended the process; the next call computes as ever."""
    command = [sys.executable, "-c", SHORT_OF_MEMORY, str(threads), str(own_pool)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    text = "out of memory: none is left for the intermediate results of vimzoo_scan_paths_forward"
    assert done.stdout.splitlines() == [text, "True True"], done.stdout + done.stderr[-2000:]
