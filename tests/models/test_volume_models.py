"""Blocks for volumes, and the networks made of them: any size, half precision, export, and what they refuse."""

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vimzoo import exporting
from vimzoo.compat import segmamba as official
from vimzoo.layers import SS2D, SS3D, GridMamba, VSSBlock2d, VSSBlock3d
from vimzoo.models import UMamba
from vimzoo.models.segmamba import SegMamba
from vimzoo.ops import CROSS_3D, ScanPath

PATHS = ["cross", "slices", "bidirectional"]


def volume(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("paths", PATHS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_block_reads_every_axis(paths: str, channels_last: bool) -> None:
    """The mixer is a scan along the paths, one after another, on tokens in the order of the axes."""
    block = VSSBlock3d(8, paths=paths, channels_last=channels_last, d_state=2).eval()
    x = volume(2, 3, 4, 5, 8) if channels_last else volume(2, 8, 3, 4, 5)
    y = block(x)
    assert y.shape == x.shape
    ss3d: SS3D = block.ss2d  # type: ignore[assignment]
    tokens = volume(2, 3, 4, 5, 8)
    flat = tokens.flatten(1, 3)
    expected = torch.zeros_like(flat)
    for k, path in enumerate(ss3d.paths):
        order = path.tokens(3, 4, 5)
        one = SS2D(8, d_state=2, paths=[ScanPath("row")]).ssm
        one.load_state_dict({name: value[k : k + 1] for name, value in ss3d.ssm.state_dict().items()})
        along = one(flat[:, order], None, [0], None, 1, 60)
        expected = expected.index_add(1, order, along)
    torch.testing.assert_close(ss3d.scan(tokens), expected.reshape(tokens.shape), atol=1e-5, rtol=1e-5)


def test_a_volume_of_one_slice_is_a_map() -> None:
    """With the weights of a block of maps, of which the 3-D convolution holds the middle slice."""
    flat = VSSBlock2d(8, paths=[ScanPath("row"), ScanPath("column")]).eval()
    deep = VSSBlock3d(8, paths=[ScanPath("row"), ScanPath.axes(0, 2, 1)]).eval()
    state = flat.state_dict()
    kernel = torch.zeros_like(deep.state_dict()["ss2d.conv.weight"])
    kernel[:, :, 1] = state["ss2d.conv.weight"]
    deep.load_state_dict({**state, "ss2d.conv.weight": kernel})
    x = volume(1, 8, 5, 6)
    torch.testing.assert_close(deep(x.unsqueeze(2)).squeeze(2), flat(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("paths", ["cross", pytest.param("slices", marks=pytest.mark.slow)])
def test_blocks_in_torchscript(paths: str) -> None:
    block = VSSBlock3d(8, paths=paths).eval()
    scripted, traced = torch.jit.script(block), torch.jit.trace(block, volume(1, 8, 3, 4, 5))
    for shape in ((2, 8, 3, 4, 5), (1, 8, 4, 3, 5)):
        x = volume(*shape)
        torch.testing.assert_close(scripted(x), block(x))
        if paths == "cross" and shape[2] == 4:  # it holds a table for the other size
            with pytest.raises(Exception, match=r"traced with a volume of \[3, 4, 5\], got \[4, 3, 5\]"):
                traced(x)
        else:
            torch.testing.assert_close(traced(x), block(x))


@pytest.mark.parametrize("make", [lambda: VSSBlock3d(8), lambda: GridMamba(8, "v3", 3)])
def test_a_training_step_in_bfloat16(make: Callable[[], nn.Module]) -> None:
    block = make().bfloat16()
    optimizer = torch.optim.AdamW(block.parameters(), lr=1e-2)
    x = volume(2, 8, 3, 4, 4).bfloat16()
    losses = []
    for _ in range(3):
        loss = (block(x).float() - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    "make", [lambda: VSSBlock3d(8), pytest.param(lambda: GridMamba(8, "v3", 3), marks=pytest.mark.slow)]
)
def test_onnx_of_a_block(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra vimzoo[onnx]")
    block, x = make().eval(), volume(1, 8, 3, 4, 5)
    program = torch.export.export(block, (x,))
    exporting.save_onnx(program, tmp_path / "block.onnx", {})
    session = runtime.InferenceSession(str(tmp_path / "block.onnx"))
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), block(x), atol=1e-5, rtol=1e-5)


class TwinUNet(nn.Module):
    """The U-net with a block at its bottleneck that the documents build with MONAI, in plain torch."""

    def __init__(self, bottleneck: nn.Module) -> None:
        super().__init__()
        self.down = nn.Conv3d(1, 8, 3, 2, 1)
        self.bottom = nn.Sequential(nn.Conv3d(8, 16, 3, 2, 1), bottleneck, nn.ConvTranspose3d(16, 8, 2, 2))
        self.up = nn.ConvTranspose3d(16, 2, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x).relu()
        return self.up(torch.cat([x, self.bottom(x).relu()], 1))


@pytest.mark.parametrize("block", [VSSBlock3d, GridMamba])
def test_a_bottleneck_learns(block: type[nn.Module]) -> None:
    """Two kinds of boxes, told apart by their intensity."""
    torch.manual_seed(0)
    net = TwinUNet(block(16))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    x = torch.zeros(2, 1, 8, 12, 16)
    x[:, :, 2:6, 4:8, 4:12] = 1
    losses = []
    for _ in range(12):
        loss = nn.functional.cross_entropy(net(x), x[:, 0].long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@torch.no_grad()
def test_networks_take_any_size() -> None:
    """They are padded and their scores cropped: the same scores as of the padded image."""
    net = SegMamba(1, 2, depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), hidden=8, d_state=2).eval()
    x = volume(1, 1, 20, 32, 30)
    scores = net(x)
    assert scores.shape == (1, 2, 20, 32, 30)
    padded = nn.functional.pad(x, (0, 2, 0, 0, 0, 12))
    torch.testing.assert_close(scores, net(padded)[:, :, :20, :, :30])
    deep = UMamba(1, 3, (8, 8, 8), "encoder", axes=3, strides=[1, (1, 2, 2), 2]).eval()
    assert deep(volume(1, 1, 5, 9, 10)).shape == (1, 3, 5, 9, 10)


def test_a_segmamba_file_of_the_authors(tmp_path: Path) -> None:
    sizes = dict(depths=[1, 1, 1, 1], feat_size=[8, 8, 8, 8], hidden_size=8)
    theirs = official.SegMamba(1, 2, **sizes).eval()  # type: ignore[arg-type]
    torch.save(
        {f"module.{name}": value for name, value in official.official_state_dict(theirs).items()},
        tmp_path / "a.pt",
    )
    again = official.SegMamba(1, 2, **sizes).eval()  # type: ignore[arg-type]
    again.load_pretrained(tmp_path / "a.pt")
    for name, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def test_compat_keeps_the_order_of_arguments() -> None:
    names = list(inspect.signature(official.SegMamba).parameters)
    assert names[:4] == ["in_chans", "out_chans", "depths", "feat_size"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: VSSBlock3d(8)(volume(1, 8, 4, 4)),
            r"x: expected a volume \(B, C, D, H, W\), got 4 dimensions",
        ),
        (
            lambda: VSSBlock3d(8, channels_last=True)(volume(1, 2, 3, 4, 7)),
            r"x: expected a volume \(B, D, H, W, C\) of 8 channels, got 7",
        ),
        (lambda: VSSBlock3d(8)(volume(1, 8, 2, 0, 3)), r"at least 1 x 1 x 1 positions, got 2 x 0 x 3"),
        (
            lambda: VSSBlock3d(8, paths=[ScanPath("column")]),
            r"paths: one is for grids of 2 axes, got a grid of 3",
        ),
        (
            lambda: VSSBlock3d(8, paths="atrous"),
            r"paths: expected one of \('cross', 'slices', 'bidirectional'\)",
        ),
        (lambda: SS2D(8, paths=CROSS_3D), r"paths: one is for grids of 3 axes, got a grid of 2"),
        (
            lambda: GridMamba(8, "v3", 5)(volume(1, 8, 3, 4, 4)),
            r"a length that 5 slices divide, got 48 tokens",
        ),
        (lambda: GridMamba(8, "v2", 5), r"slices: expected 1 with bimamba='v2', got 5"),
        (lambda: GridMamba(9, channel_tokens=True)(volume(1, 2, 2, 2)), r"x: expected 9 positions, got 4"),
        (lambda: GridMamba(8)(volume(1, 8)), r"x: expected a map .* or a volume .*, got 2 dimensions"),
        (lambda: SegMamba(dims=(8, 8)), r"expected one number per stage"),
        (lambda: UMamba(dims=(8, 8), depths=(1,)), r"depths: expected 2 entries for 2 stages, got 1"),
        (lambda: UMamba(mamba="decoder"), r"mamba: expected one of 'bottleneck', 'encoder', got 'decoder'"),
        (lambda: UMamba(axes=1), r"axes: expected 2 for maps or 3 for volumes, got 1"),
        (lambda: UMamba(strides=[1, (2, 2, 2)], dims=(8, 8)), r"expected one number or 2 of them"),
        (lambda: official.SegMamba(norm_name="batch"), r"norm_name: expected 'instance', got 'batch'"),
        (lambda: official.MambaEncoder(out_indices=[0]), r"out_indices: expected \[0, 1, 2, 3\], got \[0\]"),
    ],
)
def test_refusals(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
