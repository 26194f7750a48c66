"""Our models and blocks inside other people's networks: a segmentation library, a U-Net, a vision transformer."""

from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vimzoo  # noqa: F401  registers the models
from vimzoo.layers import SS2D, VSSBlock2d


def train_one_step(model: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor], unused: tuple = ()) -> None:
    """Every parameter that has to learn gets a gradient, and one step makes the loss on its batch smaller."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = loss(model(x))
    before.backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None and not name.endswith(unused)]
    assert not missing
    optimizer.step()
    assert loss(model(x)).isfinite() and loss(model(x)) < before


class SmallUNet(nn.Module):
    """Two resolutions and a bottleneck, which is where the block goes."""

    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.down1 = nn.Conv2d(3, dim, 3, stride=2, padding=1)
        self.down2 = nn.Conv2d(dim, 2 * dim, 3, stride=2, padding=1)
        self.bottleneck = nn.Sequential(VSSBlock2d(2 * dim), VSSBlock2d(2 * dim))
        self.up2 = nn.ConvTranspose2d(2 * dim, dim, 2, stride=2)
        self.up1 = nn.ConvTranspose2d(2 * dim, 2, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down1(x).relu()
        coarse = self.bottleneck(self.down2(fine).relu())
        return self.up1(torch.cat([fine, self.up2(coarse)], dim=1))


@pytest.mark.parametrize("size", [(32, 32), (24, 40)], ids=str)
def test_unet_with_our_bottleneck(size: tuple[int, int]) -> None:
    x, target = torch.randn(2, 3, *size), torch.randint(2, (2, *size))
    train_one_step(SmallUNet(), x, lambda y: F.cross_entropy(y, target))


class GridMixer(nn.Module):
    """SS2D on the tokens of a vision transformer, in place of its attention."""

    def __init__(self, dim: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid, self.mixer = grid, SS2D(dim)

    def forward(self, x: Tensor, **unused: object) -> Tensor:
        return self.mixer(x.unflatten(1, self.grid)).flatten(1, 2)


def test_vision_transformer_with_its_attention_replaced() -> None:
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, depth=2, num_classes=5, class_token=False, global_pool="avg"
    )
    for block in vit.blocks:
        block.attn = GridMixer(vit.embed_dim, vit.patch_embed.grid_size)
    x, target = torch.randn(2, 3, 64, 64), torch.tensor([1, 3])
    assert vit(x).shape == (2, 5)
    train_one_step(vit, x, lambda y: F.cross_entropy(y, target))


def segmentation_library():
    name = "segmentation_models_pytorch"
    return pytest.importorskip(name, reason=f"{name} is not installed; pip install 'vimzoo[test]'")


@pytest.mark.parametrize("network", ["Unet", "UPerNet"])
def test_segmentation_models_on_vmamba(network: str) -> None:
    model = getattr(segmentation_library(), network)("tu-vmamba_tiny_s1l8", encoder_weights=None, classes=2)
    x, target = torch.randn(2, 3, 64, 64), torch.randint(2, (2, 64, 64))
    train_one_step(model, x, lambda y: F.cross_entropy(y, target))


def test_dense_prediction_transformer_on_vim() -> None:
    model = segmentation_library().DPT(
        "tu-vim_tiny_patch16_224", encoder_weights=None, classes=2, dynamic_img_size=True
    )
    x, target = torch.randn(2, 3, 64, 64), torch.randint(2, (2, 64, 64))
    unused = ("norm.weight", "head.weight", "head.bias")  # DPT reads intermediate features only
    train_one_step(model, x, lambda y: F.cross_entropy(y, target), unused)
