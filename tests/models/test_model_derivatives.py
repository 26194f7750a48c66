"""Second derivatives, forward mode and `torch.func` transforms of whole models, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from vimzoo.models.mambair import MambaIRv2

MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "vim": (lambda: timm.create_model("test_vim"), 64),
    "vmamba": (lambda: timm.create_model("test_vmamba"), 32),
    "mambair": (lambda: timm.create_model("test_mambair"), 8),
    "mambairv2": (
        lambda: MambaIRv2(
            embed_dim=12, depths=(2,), num_heads=2, window=4, num_tokens=4, rank=4, routing="argmax"
        ),
        8,
    ),
}
"""How a small model is made, and the side of its images."""
STEP = 1e-5
"""Of central differences, whose error is its square."""


@pytest.fixture(scope="module", params=MODELS)
def model_and_images(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    make, side = MODELS[request.param]
    model = make().double().eval()
    with torch.no_grad():  # fresh weights leave some derivatives near zero
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model, torch.rand(2, 3, side, side, dtype=torch.float64)


def loss_of(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda images: model(images).square().mean()


def gradient(loss: Callable[[Tensor], Tensor], images: Tensor, create_graph: bool = False) -> Tensor:
    images = images.detach().requires_grad_()
    return torch.autograd.grad(loss(images), images, create_graph=create_graph)[0]


def assert_near(found: Tensor, expected: Tensor, tolerance: float = 1e-6) -> None:
    assert expected.norm() > 0
    assert (found - expected).norm() <= tolerance * expected.norm()


def test_hessian_vector_product(model_and_images: tuple[nn.Module, Tensor]) -> None:
    """Backward over backward, forward over backward, backward over forward, and finite differences of the gradient."""
    model, images = model_and_images
    loss, direction = loss_of(model), torch.randn_like(images)
    found = torch.autograd.functional.hvp(loss, images, direction)[1]
    with sdpa_kernel(SDPBackend.MATH):  # torch's fused attention has no forward mode
        assert_near(jvp(grad(loss), (images,), (direction,))[1], found, 1e-9)
        assert_near(grad(lambda x: jvp(loss, (x,), (direction,))[1])(images), found, 1e-9)
    if isinstance(model, MambaIRv2):
        return  # its routing has straight-through gradients, which are no derivatives
    ahead, behind = (gradient(loss, images + step * direction) for step in (STEP, -STEP))
    assert_near(found, (ahead - behind) / (2 * STEP))


@pytest.mark.parametrize("model_and_images", ["vim", "vmamba", "mambair"], indirect=True)
def test_gradient_penalty(model_and_images: tuple[nn.Module, Tensor]) -> None:
    """The derivative of the gradient's norm with respect to all weights, along one direction."""
    model, images = model_and_images
    loss, weights = loss_of(model), list(model.parameters())
    gradient(loss, images, create_graph=True).square().sum().backward()
    directions = [torch.randn_like(w) for w in weights]
    found = sum(
        ((w.grad * v).sum() for w, v in zip(weights, directions, strict=True) if w.grad is not None),
        torch.zeros(()),
    )
    model.zero_grad()
    penalties = []
    for step in (STEP / 10, -STEP / 5, STEP / 10):  # ahead, behind, back
        with torch.no_grad():
            torch._foreach_add_(weights, directions, alpha=step)
        penalties.append(gradient(loss, images).square().sum())
    assert_near(found, (penalties[0] - penalties[1]) / (STEP / 5), 1e-5)


def test_forward_mode(model_and_images: tuple[nn.Module, Tensor]) -> None:
    model, images = model_and_images
    loss, direction = loss_of(model), torch.randn_like(images)
    expected = (gradient(loss, images) * direction).sum()
    with sdpa_kernel(SDPBackend.MATH):
        assert_near(jvp(loss, (images,), (direction,))[1], expected, 1e-9)
    with sdpa_kernel(SDPBackend.MATH), torch.autograd.forward_ad.dual_level():
        dual = loss(torch.autograd.forward_ad.make_dual(images, direction))
        assert_near(torch.autograd.forward_ad.unpack_dual(dual).tangent, expected, 1e-9)


def test_per_sample_gradients(model_and_images: tuple[nn.Module, Tensor]) -> None:
    model, images = model_and_images
    weights = {name: w.detach() for name, w in model.named_parameters()}

    def loss(weights: dict[str, Tensor], image: Tensor) -> Tensor:
        return functional_call(model, weights, (image[None],)).square().mean()

    found = vmap(grad(loss), in_dims=(None, 0))(weights, images)
    for i, image in enumerate(images):
        model.zero_grad()
        loss_of(model)(image[None]).backward()
        for name, weight in model.named_parameters():
            if weight.grad is not None:
                torch.testing.assert_close(found[name][i], weight.grad, rtol=1e-9, atol=1e-12)
    model.zero_grad()
