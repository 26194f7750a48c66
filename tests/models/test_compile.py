"""Whole models in one graph, and one graph for every size."""

import warnings

import pytest
import timm
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from vimzoo.layers import SS2D

# name: options, first height and width, pixels from one size to the next
MODELS = {
    "test_vim": ({"dynamic_img_size": True}, (96, 112), 16),
    "test_vmamba": ({}, (192, 224), 32),
    "test_mambair": ({}, (24, 40), 8),
    "test_mila": ({}, (192, 224), 32),
}
QUICK = "test_vim"


def sizes(first: tuple[int, int], step: int) -> list[tuple[int, int]]:
    """Ten sizes, upright and lying, no two alike."""
    return [(first[0] + step * i, first[1] + step * (7 * i % 10)) for i in range(10)]


@pytest.mark.parametrize(
    "name", [name if name == QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_ten_sizes_take_two_compilations(name: str) -> None:
    """Forward and backward; the first image is compiled for, the second opens what the first left closed."""
    options, first, step = MODELS[name]
    torch._dynamo.reset()
    model = timm.create_model(name, **options)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        for height, width in sizes(first, step):
            images = torch.randn(2, 3, height, width)
            got = compiled(images)
            torch.testing.assert_close(got, model(images), atol=1e-4, rtol=1e-4)
            got.square().mean().backward()
    assert counter.frame_count <= 2
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_maps_of_one_chunk_are_no_case_of_their_own() -> None:
    """Of 32 steps and fewer no state but the first is saved; the compiler must not count how many are."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    mixer = SS2D(16)
    compiled = torch.compile(mixer, fullgraph=True, dynamic=True, backend=counter)
    for height, width in ((7, 9), (3, 5), (8, 4), (11, 3), (2, 7), (12, 20)):
        x = torch.randn(2, height, width, 16)
        got = compiled(x)
        torch.testing.assert_close(got, mixer(x))
        got.square().mean().backward()
    assert counter.frame_count <= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vim_tiny_patch16_224", "vmamba_tiny_s1l8", "mambair_light_x2"])
def test_published_models_compile_whole(name: str) -> None:
    torch._dynamo.reset()
    model = timm.create_model(name).eval()
    side = 32 if "mambair" in name else 224
    images = torch.randn(1, 3, side, side)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = torch.compile(model, fullgraph=True, backend="aot_eager")(images)
    torch.testing.assert_close(got, model(images), atol=1e-4, rtol=1e-4)
    got.square().mean().backward()
