"""One model called from several threads: every answer is what it is alone, bit for bit."""

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import timm
import torch

import vimzoo  # noqa: F401  registers the models
from vimzoo.models import MambaIR, MambaIRUNet, MambaIRv2
from vimzoo.restoration import Restorer, read_picture

THREADS = 4
CALLS = 3
SMALL = dict(embed_dim=32, depths=(1, 1), d_state=4)
CLASSIFIERS = {
    "vim": lambda: timm.create_model("test_vim", dynamic_img_size=True),
    "vmamba": lambda: timm.create_model("test_vmamba"),
}
RESTORATION = {
    "mambair": lambda: MambaIR(**SMALL),
    "v2": lambda: MambaIRv2(
        **SMALL, num_heads=4, window=8, rank=6, num_tokens=10, upsampler="pixelshuffledirect"
    ),
    "unet": lambda: MambaIRUNet(embed_dim=32, depths=(1, 1, 1, 1), refinement_depth=1, d_state=4),
}


@pytest.fixture(autouse=True)
def threads_that_change_often() -> Iterator[None]:
    """One thread for each operator, and Python's own change every few microseconds."""
    before = sys.getswitchinterval()
    torch.set_num_threads(1)
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def in_threads(work: Callable[[int], Any], count: int = THREADS) -> list[list[Any]]:
    """What each of several threads gets from ``work(its number)``, called again and again; errors are raised."""
    results: list[Any] = [None] * count
    start = threading.Barrier(count)

    def body(number: int) -> None:
        try:
            start.wait()
            results[number] = [work(number) for _ in range(CALLS)]
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=body, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors := [result for result in results if isinstance(result, Exception)]:
        raise errors[0]
    return results


def check(work: Callable[[int], Any]) -> None:
    """``work(i)`` gives in thread i what it gave alone."""
    alone = [np.asarray(work(number)) for number in range(THREADS)]
    for number, answers in enumerate(in_threads(work)):
        assert all(np.array_equal(np.asarray(answer), alone[number]) for answer in answers), number


@pytest.mark.parametrize("kind", (*CLASSIFIERS, *RESTORATION))
def test_one_model(kind: str) -> None:
    model = (CLASSIFIERS | RESTORATION)[kind]().eval()
    if kind == "v2":
        model.routing = "argmax"
    sides = (32, 48, 64, 40) if kind in RESTORATION else (64, 96, 64, 128)
    images = [torch.rand(1, 3, side, sides[0]) for side in sides]

    @torch.no_grad()
    def work(number: int) -> torch.Tensor:
        return model(images[number])

    check(work)


@pytest.mark.parametrize("kind", (*CLASSIFIERS, *RESTORATION))
def test_gradients_of_one_model(kind: str) -> None:
    model = (CLASSIFIERS | RESTORATION)[kind]()
    for module in model.modules():  # random layers draw from the generator that all threads share
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
    if kind == "v2":
        model.routing = "argmax"
    side = 64 if kind in CLASSIFIERS else 16
    images = [torch.rand(2, 3, side, side) for _ in range(THREADS)]
    weight = next(model.parameters())

    def work(number: int) -> torch.Tensor:
        return torch.autograd.grad(model(images[number]).square().sum(), weight)[0]

    check(work)


def pictures() -> Sequence[np.ndarray]:
    return [np.random.default_rng(i).integers(0, 256, (40 + 8 * i, 48, 3), np.uint8) for i in range(THREADS)]


@pytest.mark.parametrize("shared", (False, True), ids=("restorer_each", "one_restorer"))
@pytest.mark.parametrize("kind", RESTORATION)
def test_restorers_of_one_model(kind: str, shared: bool) -> None:
    """MambaIRv2 draws its routes at random; tiles at once differ, as other users of the model may ask."""
    model = RESTORATION[kind]().eval()
    one, several = pictures(), (Restorer(model, tile=32, batch=batch) for batch in (1, 4, 1, 4))
    restorers = [Restorer(model, tile=32)] * THREADS if shared else list(several)
    check(lambda number: restorers[number](one[number]))


@pytest.mark.parametrize("kind", RESTORATION)
def test_a_tile_by_the_memory_beside_calls(kind: str) -> None:
    """How much a model takes is found out while other threads use it: by a copy, not by exchanging its weights."""
    model = RESTORATION[kind]().eval()
    one = pictures()
    check(lambda number: Restorer(model, tile="auto" if number % 2 else 32)(one[number]))


def test_noise_of_a_call_is_an_argument() -> None:
    """Two threads with noise of their own on one MambaIRv2, which holds none of it."""
    model, image = RESTORATION["v2"]().eval(), torch.rand(1, 3, 32, 32)
    before = dict(model.__dict__)

    @torch.no_grad()
    def work(number: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(number)
        return model(image, noise=lambda scores: torch.empty_like(scores).exponential_(generator=generator))

    check(work)
    assert not torch.equal(work(0), work(1))
    assert model.__dict__ == before


def test_lack_of_memory_in_two_threads() -> None:
    """Both halve their tiles; the limit that a restorer keeps is the lower one, and tiles never become none."""
    model = RESTORATION["mambair"]().eval()
    restore, picture = Restorer(model, tile=64, batch=2), pictures()[3]
    want = Restorer(model, tile=32)(picture)
    both = threading.Barrier(2, timeout=60)
    threads = threading.local()

    def check_size(_: torch.nn.Module, args: tuple[torch.Tensor]) -> None:
        if args[0].shape[0] * args[0].shape[-1] > 32:
            threads.failures = getattr(threads, "failures", 0) + 1
            if threads.failures == 1:
                both.wait()
            raise MemoryError

    model.register_forward_pre_hook(check_size)
    found = in_threads(lambda _: restore(picture), 2)
    assert all(np.array_equal(answer, want) for answers in found for answer in answers)
    assert restore.batch == 1


def test_pictures_of_several_limits(tmp_path) -> None:
    """Pillow's limit is global; a thread that allows many pixels neither lends its limit nor leaves it behind."""
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")

    def work(number: int) -> str:
        try:
            return str(read_picture(tmp_path / "a.png", max_pixels=1200 if number % 2 else 1199).pixels.shape)
        except ValueError as error:
            return str(error)

    check(work)
    assert "expected at most 1199" in work(0) and work(1) == "(30, 40, 3)"
    assert limit == Image.MAX_IMAGE_PIXELS
