"""What layers and constructors refuse: each message names the argument, what was expected and what came."""

from __future__ import annotations

import ast
import copy
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import vimzoo
from vimzoo import metrics
from vimzoo.layers import (
    SS2D,
    AddNorm,
    BiMamba,
    BiMambaBlock,
    CausalConv,
    GridRope,
    Linear,
    MapBatchNorm,
    MapDownsample,
    MapStem,
    Mlp,
    PatchEmbed,
    SelectiveSSM,
    VSSBlock,
    VSSBlock2d,
)
from vimzoo.layers.attentive import AttentiveLayer, AttentiveScan, ConvFFN, WindowAttention
from vimzoo.layers.mambair import CAB, ChannelAttention, RestorationBlock
from vimzoo.layers.reconstruction import ImageHead
from vimzoo.ops import ScanPath, linear, pad_paths

MAPS: dict[str, nn.Module] = {
    "SS2D": SS2D(32),
    "cascade": SS2D(32, paths="cascade"),
    "table": SS2D(32, paths=[ScanPath.hilbert()]),
    "VSSBlock": VSSBlock(32),
    "MapBatchNorm": MapBatchNorm(32).eval(),
    "merge": MapDownsample(32, 8, "merge"),
    "conv2": MapDownsample(32, 8, "conv2"),
    "conv3": MapDownsample(32, 8, "conv3"),
    "ChannelAttention": ChannelAttention(32),
    "CAB": CAB(32),
    "RestorationBlock": RestorationBlock(32),
    "ImageHead": ImageHead(32, 3, 2, "pixelshuffle"),
    "ConvFFN": ConvFFN(32, 8),
    "AttentiveLayer": AttentiveLayer(32, 2, 4),
}
"""Layers of maps ``(B, H, W, 32)``."""
TOKENS: dict[str, Callable[..., Any]] = {
    "BiMamba": BiMamba(8),
    "BiMambaBlock": BiMambaBlock(8),
    "CausalConv": CausalConv(8),
    "AddNorm": lambda x: AddNorm(8)(x, None),
    "Mlp": Mlp(8, 16),
    "gated Mlp": Mlp(8, 16, gated=True),
    "GridRope": lambda x: GridRope(8)(x, torch.ones(2, 8), torch.ones(2, 8), 0),
}
"""Layers of tokens ``(B, L, 8)``."""
ANY_RANK = ("AddNorm", "Mlp", "gated Mlp")


def refused(layer: Callable[..., Any], x: Any, message: str, error: type[Exception] = ValueError) -> None:
    with pytest.raises(error, match="^" + re.escape(message)):
        layer(x)


@pytest.mark.parametrize("name", MAPS)
def test_maps(name: str) -> None:
    layer = MAPS[name]
    assert torch.isfinite(layer(torch.rand(2, 4, 4, 32))).all()
    refused(layer, torch.rand(2, 4, 32), "x: expected a map (B, H, W, C), got 3 dimensions")
    refused(layer, torch.rand(2, 32, 4, 5), "x: expected a map (B, H, W, C) of 32 channels, got 5")
    refused(layer, torch.ones(2, 4, 4, 32).int(), "x: expected a floating-point tensor, got torch.int32")
    refused(layer, None, "x: expected a tensor, got None of type NoneType", TypeError)


@pytest.mark.parametrize(
    "layer",
    [
        VSSBlock(8),
        VSSBlock2d(8, channels_last=True),
        RestorationBlock(32),
        AttentiveLayer(32, 2, 4),
        MapDownsample(8, 8, "merge"),
    ],
)
def test_float64_before_a_norm_of_float32(layer: nn.Module) -> None:
    x = torch.rand(1, 4, 4, layer.dim)
    refused(layer, x.double(), "x: expected the dtype of the weights, torch.float32, got torch.float64")
    refused(
        copy.deepcopy(layer).double(),
        x,
        "x: expected the dtype of the weights, torch.float64, got torch.float32",
    )
    assert copy.deepcopy(layer).double()(x.double()).dtype is torch.float64


@pytest.mark.parametrize("name", TOKENS)
def test_tokens(name: str) -> None:
    layer = TOKENS[name]
    layer(torch.rand(2, 3, 8))
    refused(layer, torch.rand(2, 3, 7), "x: expected tokens of width 8, got 7")
    if name not in ANY_RANK:
        refused(layer, torch.rand(3, 8), "x: expected tokens (B, L, 8), got 2 dimensions")
        refused(layer, torch.rand(2, 3, 4, 8), "x: expected tokens (B, L, 8), got 4 dimensions")
    refused(layer, torch.ones(2, 3, 8).long(), "x: expected a floating-point tensor, got torch.int64")
    refused(layer, [1.0], "x: expected a tensor, got [1.0] of type list", TypeError)


CALLS: list[tuple[Callable[[], Any], str]] = [
    (lambda: SS2D(8)(torch.rand(1, 0, 3, 8)), "x: expected a map of at least 1 x 1 positions, got 0 x 3"),
    (lambda: VSSBlock2d(8)(torch.rand(1, 8, 3, 0)), "x: expected a map of at least 1 x 1 positions, got 3 x 0"),
    (lambda: VSSBlock2d(8)(torch.rand(1, 3, 3, 8)), "x: expected a map (B, C, H, W) of 8 channels, got 3"),
    (
        lambda: MapDownsample(8, 8, "conv2")(torch.rand(1, 1, 3, 8)),
        "x: expected a map of at least 2 x 2 positions, got 1 x 3",
    ),
    (
        lambda: WindowAttention(8, 2, 4)(torch.rand(1, 4, 6, 24)),
        "x: expected a map of whole windows of 4, got 4 x 6 positions",
    ),
    (
        lambda: AttentiveScan(8)(torch.rand(1, 4, 4, 7), torch.rand(32, 8)),
        "x: expected a map (B, H, W, C) of 8 channels, got 7",
    ),
    (
        lambda: SelectiveSSM(8)(torch.rand(1, 4, 7), None, [0], None, 1, 4),
        "x: expected (1, 4, 8), got shape (1, 4, 7)",
    ),
    (
        lambda: GridRope(8)(torch.rand(1, 3, 8), torch.ones(4, 8), torch.ones(4, 8), 0),
        "x: expected at least 4 tokens, got 3",
    ),
    (lambda: Linear(8, 4)(torch.rand(2, 7)), "x: expected (2, 8), got shape (2, 7)"),
    (lambda: BiMamba(8)(torch.rand(1, 3, 8).double()), "x: expected the dtype of weight, torch.float32"),
    (lambda: linear(torch.rand(2, 8).half(), torch.rand(4, 8)), "x: expected the dtype of weight, torch.float32"),
    (
        lambda: PatchEmbed(16, 4)(torch.ones(1, 3, 16, 16, dtype=torch.uint8)),
        "x: expected a floating-point tensor, got torch.uint8",
    ),
    (lambda: MapStem()(torch.ones(1, 4, 16, 16)), "x: expected 3 channels (in_chans), got 4"),
    # constructors
    (lambda: SS2D(-4), "dim: expected a positive whole number, got -4"),
    (lambda: SS2D(8, ratio=0.01), "ratio: expected at least 1 / 8, for an inner width of 1, got 0.01"),
    (lambda: SS2D(8, ratio=-1.0), "ratio: expected at least 1 / 8, for an inner width of 1, got -1.0"),
    (lambda: SS2D(8, paths=5), "paths: expected one or more of ScanPath, got 5"),  # type: ignore[arg-type]
    (lambda: SS2D(8, dt_min=0), "dt_min: expected a positive number of at most dt_max=0.1, got 0"),
    (lambda: SS2D(8, drop_rate=2), "drop_rate: expected a rate in 0..1, got 2"),
    (lambda: BiMamba(8, expand=0), "expand: expected at least 1 / 8, for an inner width of 1, got 0"),
    (lambda: BiMamba(2.5), "dim: expected a positive whole number, got 2.5"),  # type: ignore[arg-type]
    (lambda: CausalConv(8, directions=3), "directions: expected 1 or 2, got 3"),
    (lambda: GridRope(6), "dim: expected a multiple of 4, got 6"),
    (lambda: MapStem(patch_size=3), "patch_size: expected an even number with overlapping patches, got 3"),
    (lambda: MapStem(kind="x"), "kind: expected one of 'patch', 'conv', got 'x'"),
    (lambda: MapDownsample(8, 8, "x"), "kind: expected one of 'merge', 'conv2', 'conv3', got 'x'"),
    (lambda: Mlp(8, 0), "hidden: expected a positive whole number, got 0"),
    (lambda: VSSBlock(8, mlp_ratio=-1), "mlp_ratio: expected at least 0 (0 omits the branch), got -1"),
    (lambda: VSSBlock(8, drop_path=1.5), "drop_path: expected a rate in 0..1, got 1.5"),
    (lambda: ScanPath("row").tokens(-1, 3), "height: expected a whole number of at least 0, got -1"),
    (lambda: ScanPath("row", "no"), "reverse: expected True or False, got 'no'"),  # type: ignore[arg-type]
    (lambda: pad_paths(5), "paths: expected one or more of ScanPath, got 5"),  # type: ignore[arg-type]
    # models name their own arguments, not those of their layers
    (lambda: timm.create_model("test_vmamba", stem="x"), "stem: expected one of 'patch', 'conv', got 'x'"),
    (lambda: timm.create_model("test_vmamba", downsample="x"), "downsample: expected one of 'merge', 'conv2',"),
    (lambda: timm.create_model("test_vmamba", drop_path_rate=2), "drop_path_rate: expected a rate in 0..1, got 2"),
    (lambda: timm.create_model("test_vmamba", global_pool="x"), "global_pool: expected one of '', 'avg', 'max',"),
    (lambda: timm.create_model("test_vim", drop_path_rate=2), "drop_path_rate: expected a rate in 0..1, got 2"),
    (lambda: timm.create_model("test_mambair", embed_dim=8), "embed_dim: expected at least 30 channels, got 8"),
    (lambda: timm.create_model("test_mambair", img_range=0), "img_range: expected a positive number, got 0"),
    (lambda: timm.create_model("test_vim").forward_intermediates(torch.ones(1, 3, 64, 64), output_fmt="X"),
     "output_fmt: expected one of 'NCHW', 'NHWC', 'NLC', got 'X'"),
    (lambda: timm.create_model("test_vmamba").forward_intermediates(torch.ones(1, 3, 64, 64), output_fmt="X"),
     "output_fmt: expected one of 'NCHW', 'NHWC', got 'X'"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), CALLS, ids=[message for _, message in CALLS])
def test_refused_with_a_reason(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        call()


IMAGE = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
PIXELS = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("measure", [metrics.psnr, metrics.ssim])
def test_images_that_cannot_be_compared(measure: Callable[..., float]) -> None:
    holes = IMAGE.clone()
    holes[0, :2, 0] = torch.nan
    for restored, original, error, message in (
        (
            PIXELS[0],
            PIXELS[1],
            ValueError,
            "restored: expected floating-point numbers in 0..1, got torch.uint8",
        ),
        (IMAGE, IMAGE > 0, ValueError, "original: expected floating-point numbers in 0..1, got torch.bool"),
        (holes, IMAGE, ValueError, "restored: expected finite numbers, got 2 of NaN or infinity"),
        (IMAGE, IMAGE / 0, ValueError, "original: expected finite numbers, got 768 of NaN or infinity"),
        (IMAGE.numpy(), IMAGE, TypeError, "restored: expected a tensor (C, H, W) in 0..1, got ndarray"),
        (
            IMAGE[None],
            IMAGE[None],
            ValueError,
            "restored: expected (3, H, W) or (1, H, W), got (1, 3, 16, 16)",
        ),
        (IMAGE.to("meta"), IMAGE, ValueError, "restored: expected a tensor with values, got one on the meta"),
    ):
        with pytest.raises(error, match="^" + re.escape(message)):
            measure(restored, original)
    with pytest.raises(TypeError, match=r"^crop: expected a whole number of pixels, got 1\.5"):
        measure(IMAGE, IMAGE, crop=1.5)


def test_random_pixels_have_the_psnr_of_their_squared_difference() -> None:
    """Of 8-bit pixels as fractions, as `to_image` makes them."""
    a, b = PIXELS.double()
    wanted = 10 * torch.log10(255**2 / (a - b).square().mean())
    assert metrics.psnr(a / 255, b / 255) == pytest.approx(wanted.item(), abs=1e-9)
    assert 7 < wanted < 8


def test_checks_are_in_traced_and_scripted_layers() -> None:
    x, wrong = torch.rand(2, 4, 4, 32), torch.rand(2, 4, 4, 31)
    for layer, given, refused_input in (
        (MAPS["VSSBlock"], x, wrong),
        (BiMamba(8), torch.rand(2, 5, 8), torch.rand(2, 5, 7)),
    ):
        for graph in (torch.jit.script(layer), torch.jit.trace(layer, given, check_trace=False)):
            torch.testing.assert_close(graph(given), layer(given))
            with pytest.raises(torch.jit.Error, match=r"x: expected .* got (31|7)"):
                graph(refused_input)


def test_asserts_tell_the_type_checker_what_it_cannot_see_and_nothing_else() -> None:
    """Input is refused with errors, which ``python -O`` keeps."""
    root, found = Path(vimzoo.__file__).parent, []
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Assert):
                said = ast.unparse(node.test)
                if node.msg is not None or not re.fullmatch(
                    r"\S+ is not None( and \S+ is not None)*|isinstance\(.*\)", said
                ):
                    found.append(f"{path.relative_to(root)}: {said}")
    assert found == []


def test_checks_hold_without_asserts() -> None:
    """In a process of ``python -O``, where pytest could not tell."""
    code = """
import torch
from vimzoo.layers import SS2D, BiMamba
for layer, shape in ((SS2D(8), (1, 2, 2, 7)), (BiMamba(8), (1, 2, 7))):
    try:
        layer(torch.ones(shape))
    except ValueError as error:
        print(error)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(vimzoo.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-O", "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "x: expected a map (B, H, W, C) of 8 channels, got 7", "x: expected tokens of width 8, got 7",
    ]  # fmt: skip
