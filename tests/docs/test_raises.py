"""What public docstrings list under "Raises" is raised: one call for every name and type of error.

Names are those that the packages export. A type that no call here provokes has to stand in `ELSEWHERE`, with the reason
or the tests that hold it.
"""

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

import vimzoo
from vimzoo import data, explain, exporting, layers, metrics, models, ops, restoration, segmentation
from vimzoo.ops import ScanPath
from vimzoo.ops.scan.call import ScanCall

MODULES = (
    "vimzoo",
    "vimzoo.ops",
    "vimzoo.layers",
    "vimzoo.metrics",
    "vimzoo.exporting",
    "vimzoo.explain",
    "vimzoo.restoration",
    "vimzoo.segmentation",
    "vimzoo.data",
    "vimzoo.models",
)

x = torch.zeros(1, 4, 8)
image = torch.rand(3, 16, 16)
marks = torch.tensor([[0, 1]])


def scan(**changed: Any) -> Any:
    given: dict[str, Any] = dict(
        x=x, x_dbl=torch.zeros(1, 4, 2, 2 + 2 * 3), A=-torch.ones(2, 8, 3), dt_weight=torch.zeros(2, 8, 2),
        dt_bias=torch.zeros(2, 8), paths=ops.BIDIRECTIONAL, grid=(2, 2),
    ) | changed  # fmt: skip
    tensors = [given.pop(name) for name in ("x", "x_dbl", "A", "dt_weight", "dt_bias")]
    return ops.scan_paths(*tensors, **given)


def selective(u: Any) -> Any:
    delta, B = torch.zeros(1, 8, 4), torch.zeros(1, 3, 4)
    return ops.selective_scan(u, delta, -torch.ones(8, 3), B, B)


def forced(call: Callable[[], Any]) -> Any:
    """A backend that is not there runs the call."""
    with ops.use_backend("mamba_ssm"):
        return call()


def in_parts(size: int) -> nn.Module:
    return timm.create_model("test_vim", img_size=size)


def joins() -> nn.Module:
    return timm.create_model("test_multimodal_fusion_mamba")


def sharpens() -> nn.Module:
    return timm.create_model("test_spectral_fusion_mamba")


def scan_call() -> ScanCall:
    """A scan of eight channels, forward."""
    parameters = -torch.ones(1, 8, 3), torch.zeros(1, 8, 2), torch.zeros(1, 8), None
    return ScanCall(x, torch.zeros(1, 4, 1, 8), *parameters, None, [0], None, 1, 4, True)


CASES: dict[str, Callable[[Path], Any]] = {
    "vimzoo.explain.cam_arguments UsageError": lambda tmp: explain.cam_arguments(nn.Linear(1, 1)),
    "vimzoo.explain.receptive_field UsageError": lambda tmp: explain.receptive_field(
        nn.Identity(), image[None]
    ),
    "vimzoo.explain.scan_matrices UsageError": lambda tmp: explain.scan_matrices(scan_call(), [8]),
    "vimzoo.explain.token_mixing UsageError": lambda tmp: explain.token_mixing(nn.Identity(), image[None]),
    "vimzoo.load_checkpoint CheckpointError": lambda tmp: vimzoo.load_checkpoint(in_parts(64), tmp / "none"),
    "vimzoo.load_checkpoint TypeError": lambda tmp: vimzoo.load_checkpoint(nn.Linear(1, 1), tmp / "none"),
    "vimzoo.load_restoration CheckpointError": lambda tmp: vimzoo.load_restoration(tmp / "none"),
    "vimzoo.load_restoration ValueError": lambda tmp: vimzoo.load_restoration(tmp / "none", routing="top"),
    "vimzoo.quantize TypeError": lambda tmp: vimzoo.quantize("vim", "int8"),  # type: ignore[arg-type]
    "vimzoo.quantize ValueError": lambda tmp: vimzoo.quantize(nn.Linear(1, 1), "int3"),
    "vimzoo.restoration_from_tensors CheckpointError": lambda tmp: vimzoo.restoration_from_tensors({}),
    "vimzoo.restoration_from_tensors ValueError": lambda tmp: vimzoo.restoration_from_tensors(
        {}, routing="top"
    ),
    "vimzoo.models.SegmentationModel.load_encoder CheckpointError": lambda tmp: (
        models.SegmentationModel().load_encoder()
    ),
    "vimzoo.models.SegmentationModel.set_window ValueError": lambda tmp: (
        models.SegmentationModel().set_window((8,))
    ),
    "vimzoo.models.SegmentationModel.start_from CheckpointError": lambda tmp: (
        models.SegmentationModel().start_from(tmp / "none")
    ),
    "vimzoo.layers.MapExpand ValueError": lambda tmp: layers.MapExpand(8, 0),
    "vimzoo.models.SegmentationModel.set_deep_supervision ValueError": lambda tmp: (
        models.SegmentationModel().set_deep_supervision()
    ),
    "vimzoo.models.SwinUMamba ValueError": lambda tmp: models.SwinUMamba(norm="layer"),
    "vimzoo.models.SwinUMambaD ValueError": lambda tmp: models.SwinUMambaD(dims=(8, 8, 8, 8)),
    "vimzoo.models.VMUNet ValueError": lambda tmp: models.VMUNet(num_classes=0),
    "vimzoo.models.UMamba ValueError": lambda tmp: models.UMamba(dims=(8,)),
    "vimzoo.models.UMamba.set_deep_supervision ValueError": lambda tmp: models.UMamba(
        dims=(8, 8)
    ).set_deep_supervision(),
    "vimzoo.models.UNet ValueError": lambda tmp: models.UNet("no_backbone"),
    "vimzoo.segmentation.SegmentationLoss.forward ValueError": lambda tmp: segmentation.SegmentationLoss(
        levels=[1]
    )([], marks),
    "vimzoo.segmentation.SegmentationLoss ValueError": lambda tmp: segmentation.SegmentationLoss(dice=-1),
    "vimzoo.segmentation.counts ValueError": lambda tmp: segmentation.counts(marks, marks, 1),
    "vimzoo.segmentation.dice_loss ValueError": lambda tmp: segmentation.dice_loss(
        torch.zeros(1, 1, 2), marks
    ),
    "vimzoo.segmentation.image_scores ValueError": lambda tmp: segmentation.image_scores(
        torch.zeros(1, 2, 3), empty="two"
    ),
    "vimzoo.segmentation.overlap ValueError": lambda tmp: segmentation.overlap(torch.zeros(3), "area"),
    "vimzoo.segmentation.sliding_windows ValueError": lambda tmp: segmentation.sliding_windows(
        nn.Identity(), image[None], (8,)
    ),
    "vimzoo.segmentation.surface_scores ValueError": lambda tmp: segmentation.surface_scores(
        marks.numpy(), marks.numpy(), (0, 1)
    ),
    "vimzoo.ops.ScanPath ValueError": lambda tmp: ScanPath("sideways"),  # type: ignore[arg-type]
    "vimzoo.ops.ScanPath.from_table ValueError": lambda tmp: ScanPath.from_table([0.5]),  # type: ignore[list-item]
    "vimzoo.ops.ScanPath.snake ValueError": lambda tmp: ScanPath.snake("sideways"),  # type: ignore[arg-type]
    "vimzoo.ops.ScanPath.window ValueError": lambda tmp: ScanPath.window(0),
    "vimzoo.ops.ScanPath.stride ValueError": lambda tmp: ScanPath.stride(2, 2, 0),
    "vimzoo.ops.ScanPath.tokens ValueError": lambda tmp: ScanPath.from_table([9]).tokens(2, 2),
    "vimzoo.ops.ScanPath.inverse ValueError": lambda tmp: ScanPath.from_table([0, 0]).inverse(1, 2),
    "vimzoo.ops.add_norm TypeError": lambda tmp: ops.add_norm(None, torch.ones(8)),  # type: ignore[arg-type]
    "vimzoo.ops.add_norm ValueError": lambda tmp: ops.add_norm(x, None, torch.ones(7)),
    "vimzoo.ops.causal_conv1d TypeError": lambda tmp: ops.causal_conv1d(None, torch.ones(8, 4)),  # type: ignore[arg-type]
    "vimzoo.ops.causal_conv1d ValueError": lambda tmp: ops.causal_conv1d(x, torch.ones(1, 7, 4)),
    "vimzoo.ops.linear TypeError": lambda tmp: ops.linear(None, torch.ones(8, 8)),  # type: ignore[arg-type]
    "vimzoo.ops.linear ValueError": lambda tmp: ops.linear(x, torch.ones(8, 7)),
    "vimzoo.ops.feed_forward TypeError": lambda tmp: ops.feed_forward(None, x, x),  # type: ignore[arg-type]
    "vimzoo.ops.feed_forward ValueError": lambda tmp: ops.feed_forward(x, torch.ones(8, 7), torch.ones(8, 8)),
    "vimzoo.ops.quantize_weight TypeError": lambda tmp: ops.quantize_weight(None),  # type: ignore[arg-type]
    "vimzoo.ops.quantize_weight ValueError": lambda tmp: ops.quantize_weight(x, 5),
    "vimzoo.ops.quantized_linear TypeError": lambda tmp: ops.quantized_linear(
        None,  # type: ignore[arg-type]
        ops.quantize_weight(torch.ones(8, 8)),
    ),
    "vimzoo.ops.quantized_linear ValueError": lambda tmp: ops.quantized_linear(
        x, ops.quantize_weight(torch.ones(8, 7))
    ),
    "vimzoo.ops.path_arguments ValueError": lambda tmp: ops.path_arguments(
        [ScanPath("row"), ScanPath.from_table([0])], 2, 2
    ),
    "vimzoo.ops.grid_arguments ValueError": lambda tmp: ops.grid_arguments([ScanPath("column")], (2, 2, 2)),
    "vimzoo.ops.scan_codes ValueError": lambda tmp: ops.scan_codes(
        x,
        torch.zeros(1, 4, 1, 8),
        -torch.ones(1, 7, 3),
        torch.zeros(1, 8, 2),
        torch.zeros(1, 8),
        None,
        None,
        [0],
        None,
        2,
        2,
    ),
    "vimzoo.ops.scan_paths TypeError": lambda tmp: scan(x=None),
    "vimzoo.ops.scan_paths ValueError": lambda tmp: scan(A=-torch.ones(2, 7, 3)),
    "vimzoo.ops.scan_paths BackendError": lambda tmp: forced(scan),
    "vimzoo.ops.selective_scan TypeError": lambda tmp: selective(None),
    "vimzoo.ops.selective_scan ValueError": lambda tmp: selective(torch.zeros(1, 7, 4)),
    "vimzoo.ops.selective_scan BackendError": lambda tmp: forced(lambda: selective(x.mT)),
    "vimzoo.ops.use_backend BackendError": lambda tmp: ops.use_backend("abacus").__enter__(),
    "vimzoo.layers.S4D ValueError": lambda tmp: layers.S4D(8, 7),
    "vimzoo.layers.S4D.forward ValueError": lambda tmp: layers.S4D(8)(torch.zeros(1, 4, 7)),
    "vimzoo.layers.SS2D ValueError": lambda tmp: layers.SS2D(8, act="abacus"),
    "vimzoo.layers.SS2D.forward ValueError": lambda tmp: layers.SS2D(8)(torch.zeros(1, 4, 4, 7)),
    "vimzoo.layers.SS3D ValueError": lambda tmp: layers.SS3D(8, paths=ops.CROSS),
    "vimzoo.layers.VSSBlock3d ValueError": lambda tmp: layers.VSSBlock3d(8, paths="cascade"),
    "vimzoo.layers.GridMamba ValueError": lambda tmp: layers.GridMamba(8, slices=2),
    "vimzoo.layers.GridMamba.forward TypeError": lambda tmp: layers.GridMamba(8)(None),  # type: ignore[arg-type]
    "vimzoo.layers.GridMamba.forward ValueError": lambda tmp: layers.GridMamba(8)(torch.zeros(1, 7, 4, 4)),
    "vimzoo.layers.ResidualConvs ValueError": lambda tmp: layers.ResidualConvs(8, 8, axes=4),
    "vimzoo.layers.VSSBlock.forward ValueError": lambda tmp: layers.VSSBlock(8)(torch.zeros(1, 4, 4, 7)),
    "vimzoo.layers.AddNorm ValueError": lambda tmp: layers.AddNorm(8, norm="abacus"),  # type: ignore[arg-type]
    "vimzoo.layers.BiMamba ValueError": lambda tmp: layers.BiMamba(8, bimamba="v9"),  # type: ignore[arg-type]
    "vimzoo.layers.AtrousSS2D ValueError": lambda tmp: layers.AtrousSS2D(4),
    "vimzoo.layers.AtrousSS2D.forward ValueError": lambda tmp: layers.AtrousSS2D(8)(x),
    "vimzoo.layers.ChannelGate ValueError": lambda tmp: layers.ChannelGate(4),
    "vimzoo.layers.GroupSS2D ValueError": lambda tmp: layers.GroupSS2D(30),
    "vimzoo.layers.GroupSS2D.forward ValueError": lambda tmp: layers.GroupSS2D(16)(torch.ones(1, 2, 2, 8)),
    "vimzoo.layers.GroupBlock ValueError": lambda tmp: layers.GroupBlock(16, drop_path=2),
    "vimzoo.layers.ConvMlp ValueError": lambda tmp: layers.ConvMlp(8, 0),
    "vimzoo.layers.ConvMlp.forward ValueError": lambda tmp: layers.ConvMlp(8, 8)(torch.ones(1, 8)),
    "vimzoo.layers.MobileBlock ValueError": lambda tmp: layers.MobileBlock(16, kernel_size=4),
    "vimzoo.layers.MobileDownsample ValueError": lambda tmp: layers.MobileDownsample(8, 0),
    "vimzoo.layers.MobileDownsample.forward ValueError": lambda tmp: layers.MobileDownsample(8, 8)(x),
    "vimzoo.layers.WaveletMixer ValueError": lambda tmp: layers.WaveletMixer(40, global_ratio=1.0),
    "vimzoo.layers.WaveletMixer.forward ValueError": lambda tmp: layers.WaveletMixer(16)(x),
    "vimzoo.layers.PlainMambaBlock ValueError": lambda tmp: layers.PlainMambaBlock(8, norm="abacus"),
    "vimzoo.layers.SnakeSS2D ValueError": lambda tmp: layers.SnakeSS2D(8, d_conv=4),
    "vimzoo.layers.SnakeSS2D.forward ValueError": lambda tmp: layers.SnakeSS2D(8)(x),
    "vimzoo.layers.LocalMamba ValueError": lambda tmp: layers.LocalMamba(8, ["x"]),
    "vimzoo.layers.LocalMamba.forward ValueError": lambda tmp: layers.LocalMamba(8, ["h"])(x, (2, 3)),
    "vimzoo.layers.LocalSS2D ValueError": lambda tmp: layers.LocalSS2D(8, paths=["x"]),
    "vimzoo.layers.searched_directions ValueError": lambda tmp: layers.searched_directions(nn.Linear(1, 1)),
    "vimzoo.layers.GridRope ValueError": lambda tmp: layers.GridRope(6),
    "vimzoo.layers.MapDownsample ValueError": lambda tmp: layers.MapDownsample(8, 8, kind="abacus"),
    "vimzoo.layers.MapStem ValueError": lambda tmp: layers.MapStem(3, 8, kind="abacus"),
    "vimzoo.layers.MapStem.forward ValueError": lambda tmp: layers.MapStem(3, 8)(torch.zeros(1, 4, 8, 8)),
    "vimzoo.layers.MoE ValueError": lambda tmp: layers.MoE(8, 8, experts=2, top_k=3),
    "vimzoo.layers.MoE.forward ValueError": lambda tmp: layers.MoE(7, 8)(x),
    "vimzoo.layers.QuantizedLinear ValueError": lambda tmp: layers.QuantizedLinear(nn.Linear(8, 8), 5),
    "vimzoo.layers.QuantizedLinear.forward ValueError": lambda tmp: layers.QuantizedLinear(nn.Linear(7, 8))(
        x
    ),
    "vimzoo.layers.Mlp ValueError": lambda tmp: layers.Mlp(8, 8, act="abacus"),
    "vimzoo.layers.ExpandingDownsample ValueError": lambda tmp: layers.ExpandingDownsample(8, 0),
    "vimzoo.layers.ExpandingDownsample.forward ValueError": lambda tmp: layers.ExpandingDownsample(8, 8)(x),
    "vimzoo.layers.ResidualStem ValueError": lambda tmp: layers.ResidualStem(3, 1),
    "vimzoo.layers.ResidualStem.forward ValueError": lambda tmp: layers.ResidualStem(3, 8)(
        torch.zeros(1, 4, 8, 8)
    ),
    "vimzoo.layers.PositionBlock ValueError": lambda tmp: layers.PositionBlock(8, nn.Identity(), drop_path=2),
    "vimzoo.layers.PositionBlock.forward ValueError": lambda tmp: layers.PositionBlock(7, nn.Identity())(x),
    "vimzoo.layers.RotaryLinearAttention ValueError": lambda tmp: layers.RotaryLinearAttention(8, 3),
    "vimzoo.layers.RotaryLinearAttention.forward ValueError": lambda tmp: layers.RotaryLinearAttention(8, 2)(
        x
    ),
    "vimzoo.layers.GatedLinearAttention ValueError": lambda tmp: layers.GatedLinearAttention(6, 2),
    "vimzoo.layers.GatedLinearAttention.forward ValueError": lambda tmp: layers.GatedLinearAttention(8, 2)(x),
    "vimzoo.layers.MilaBlock ValueError": lambda tmp: layers.MilaBlock(8, 2, mlp_ratio=0),
    "vimzoo.layers.SpatialBlock ValueError": lambda tmp: layers.SpatialBlock(8, mlp_ratio=0),
    "vimzoo.layers.SpatialSS2D ValueError": lambda tmp: layers.SpatialSS2D(8, dt_init="abacus"),
    "vimzoo.layers.StateFusion ValueError": lambda tmp: layers.StateFusion(0),
    "vimzoo.layers.StateFusion.forward ValueError": lambda tmp: layers.StateFusion(7)(x),
    "vimzoo.layers.TubeletEmbed ValueError": lambda tmp: layers.TubeletEmbed(num_frames=0),
    "vimzoo.layers.TubeletEmbed.set_frames ValueError": lambda tmp: layers.TubeletEmbed(
        tubelet_size=2, embed_dim=8
    ).set_frames(1),
    "vimzoo.layers.TubeletEmbed.forward ValueError": lambda tmp: layers.TubeletEmbed(embed_dim=8)(image),
    "vimzoo.layers.PatchEmbed ValueError": lambda tmp: layers.PatchEmbed(img_size=8, patch_size=16),
    "vimzoo.layers.PatchEmbed.forward ValueError": lambda tmp: layers.PatchEmbed(img_size=32, patch_size=16)(
        torch.zeros(1, 3, 8)
    ),
    "vimzoo.layers.SelectiveSSM ValueError": lambda tmp: layers.SelectiveSSM(0, 4, 1, 1),
    "vimzoo.layers.VSSBlock ValueError": lambda tmp: layers.VSSBlock(8, norm="abacus"),
    "vimzoo.layers.AddNorm.forward ValueError": lambda tmp: layers.AddNorm(7)(x, None),
    "vimzoo.layers.BiMamba.forward ValueError": lambda tmp: layers.BiMamba(7)(x),
    "vimzoo.layers.BiMambaBlock ValueError": lambda tmp: layers.BiMambaBlock(8, drop_path=2),
    "vimzoo.layers.CausalConv ValueError": lambda tmp: layers.CausalConv(8, directions=3),
    "vimzoo.layers.CausalConv.forward ValueError": lambda tmp: layers.CausalConv(7)(x),
    "vimzoo.layers.GridRope.forward ValueError": lambda tmp: layers.GridRope(4)(x, x[0], x[0], 0),
    "vimzoo.layers.Linear.forward ValueError": lambda tmp: layers.Linear(7, 8)(x),
    "vimzoo.layers.MapBatchNorm ValueError": lambda tmp: layers.MapBatchNorm(0),
    "vimzoo.layers.MapBatchNorm.forward ValueError": lambda tmp: layers.MapBatchNorm(8)(x),
    "vimzoo.layers.MapDownsample.forward ValueError": lambda tmp: layers.MapDownsample(8, 8)(x),
    "vimzoo.layers.Mlp.forward ValueError": lambda tmp: layers.Mlp(7, 8)(x),
    "vimzoo.ops.ScanPath.axes ValueError": lambda tmp: ScanPath.axes(0, 2),
    "vimzoo.ops.pad_paths ValueError": lambda tmp: ops.pad_paths([]),
    "vimzoo.metrics.broken ValueError": lambda tmp: metrics.broken(image.sum()),
    "vimzoo.metrics.luma ValueError": lambda tmp: metrics.luma(np.zeros((4, 4))),
    "vimzoo.metrics.psnr TypeError": lambda tmp: metrics.psnr(image.numpy(), image),  # type: ignore[arg-type]
    "vimzoo.metrics.ssim TypeError": lambda tmp: metrics.ssim(image.numpy(), image),  # type: ignore[arg-type]
    "vimzoo.metrics.to_8bit TypeError": lambda tmp: metrics.to_8bit(image.numpy()),  # type: ignore[arg-type]
    "vimzoo.metrics.to_8bit ValueError": lambda tmp: metrics.to_8bit(image.int()),
    "vimzoo.metrics.psnr ValueError": lambda tmp: metrics.psnr(image, image[:, :8]),
    "vimzoo.metrics.ssim ValueError": lambda tmp: metrics.ssim(image[:, :4, :4], image[:, :4, :4]),
    "vimzoo.exporting.export UsageError": lambda tmp: exporting.export("no_such_model", "onnx", random=True),
    "vimzoo.exporting.in_bfloat16 TypeError": lambda tmp: exporting.in_bfloat16(tmp / "model.xml"),
    "vimzoo.exporting.load UsageError": lambda tmp: exporting.load(tmp / "none", "abacus"),
    "vimzoo.exporting.parse_size UsageError": lambda tmp: exporting.parse_size("large"),
    "vimzoo.restoration.Restorer ValueError": lambda tmp: restoration.Restorer(
        timm.create_model("test_mambair"), tile=-1
    ),
    "vimzoo.restoration.Restorer.__call__ ValueError": lambda tmp: restoration.Restorer(
        timm.create_model("test_mambair")
    )(np.zeros((4, 4), np.int64)),
    "vimzoo.restoration.Restorer.__call__ FloatingPointError": lambda tmp: restoration.Restorer(
        overflowing()
    )(np.ones((16, 16, 3), np.float32)),
    "vimzoo.restoration.find_jobs ValueError": lambda tmp: restoration.find_jobs(tmp, tmp / "out"),
    "vimzoo.restoration.read_picture OSError": lambda tmp: restoration.read_picture(tmp / "none.png"),
    "vimzoo.restoration.read_picture PictureError": lambda tmp: restoration.read_picture(damaged(tmp)),
    "vimzoo.restoration.read_picture ValueError": lambda tmp: restoration.read_picture(
        damaged(tmp), pages="some"
    ),
    "vimzoo.restoration.restoration_model UsageError": lambda tmp: restoration.restoration_model(
        "no_such_model"
    ),
    "vimzoo.restoration.restore_files ValueError": lambda tmp: restoration.restore_files(
        None, [], existing="abacus"
    ),  # type: ignore[arg-type]
    "vimzoo.data.Shapes UsageError": lambda tmp: data.Shapes([], 16),
    "vimzoo.data.film_folder UsageError": lambda tmp: data.film_folder(),
    "vimzoo.data.bundled_moving_digits UsageError": lambda tmp: data.bundled_moving_digits(frames=1),
    "vimzoo.data.bundled_digits UsageError": lambda tmp: data.bundled_digits(img_size=0),
    "vimzoo.data.degraded_folder UsageError": lambda tmp: data.degraded_folder(tmp, scale=1, sigma=0.0),
    "vimzoo.data.hub_dataset UsageError": lambda tmp: data.hub_dataset(None),
    "vimzoo.data.stratified_split UsageError": lambda tmp: data.stratified_split(np.array([0, 1]), 0.9, 0.9),
    "vimzoo.data.train_loader UsageError": lambda tmp: data.train_loader(
        data.bundled_digits(img_size=16), 0, 0
    ),
    "vimzoo.data.EpochBatches UsageError": lambda tmp: data.EpochBatches(8, 2, 0, repeats=0),
    "vimzoo.data.image_folder UsageError": lambda tmp: data.image_folder(str(tmp / "none"), img_size=8),
    "vimzoo.data.paired_folder UsageError": lambda tmp: data.paired_folder(tmp / "none"),
    "vimzoo.data.fusion_folder UsageError": lambda tmp: data.fusion_folder(tmp / "none"),
    "vimzoo.data.sharpening_folder UsageError": lambda tmp: data.sharpening_folder(tmp / "none"),
    "vimzoo.data.bundled_fusion_photos UsageError": lambda tmp: data.bundled_fusion_photos(crops=0),
    "vimzoo.data.bundled_sharpening_photos UsageError": lambda tmp: data.bundled_sharpening_photos(crops=0),
    "vimzoo.data.shards UsageError": lambda tmp: data.shards(str(tmp / "none"), img_size=8),
    "vimzoo.models.EfficientVMamba ValueError": lambda tmp: models.EfficientVMamba(depths=(0, 0)),
    "vimzoo.models.GroupMamba ValueError": lambda tmp: models.GroupMamba(mlp_ratios=(4,)),
    "vimzoo.models.MobileMamba ValueError": lambda tmp: models.MobileMamba(kernels=(3,)),
    "vimzoo.models.PlainMamba ValueError": lambda tmp: models.PlainMamba(embed_dim=0),
    "vimzoo.models.PlainMamba.set_input_size ValueError": lambda tmp: timm.create_model(
        "test_plain_mamba"
    ).set_input_size(patch_size=7),
    "vimzoo.models.LocalVMamba TypeError": lambda tmp: models.LocalVMamba(paths="cross"),
    "vimzoo.models.LocalVMamba ValueError": lambda tmp: models.LocalVMamba("x"),
    "vimzoo.models.LocalVim TypeError": lambda tmp: models.LocalVim(bimamba="v1"),
    "vimzoo.models.LocalVim ValueError": lambda tmp: models.LocalVim("x"),
    "vimzoo.models.MambaIR ValueError": lambda tmp: models.MambaIR(embed_dim=0),
    "vimzoo.models.MambaIR.forward ValueError": lambda tmp: timm.create_model("test_mambair")(image),
    "vimzoo.models.MambaIRUNet ValueError": lambda tmp: models.MambaIRUNet(embed_dim=0),
    "vimzoo.models.MambaIRv2 ValueError": lambda tmp: models.MambaIRv2(embed_dim=0),
    "vimzoo.models.MultimodalFusionMamba ValueError": lambda tmp: models.MultimodalFusionMamba(dims=(8,)),
    "vimzoo.models.MultimodalFusionMamba.forward TypeError": lambda tmp: joins()(image[:1, None], None),
    "vimzoo.models.MultimodalFusionMamba.forward ValueError": lambda tmp: joins()(image[None], image[None]),
    "vimzoo.models.SpectralFusionMamba ValueError": lambda tmp: models.SpectralFusionMamba(0),
    "vimzoo.models.SpectralFusionMamba.forward TypeError": lambda tmp: sharpens()(image[None], None),
    "vimzoo.models.SpectralFusionMamba.forward ValueError": lambda tmp: sharpens()(image[None], image[None]),
    "vimzoo.models.TimeMachine ValueError": lambda tmp: models.TimeMachine(0),
    "vimzoo.models.TimeMachine.forward ValueError": lambda tmp: timm.create_model("test_time_machine")(x),
    "vimzoo.models.MILA ValueError": lambda tmp: models.MILA(num_heads=(2,)),
    "vimzoo.models.SpatialMamba ValueError": lambda tmp: models.SpatialMamba(depths=(0, 0)),
    "vimzoo.models.VMamba ValueError": lambda tmp: models.VMamba(depths=(0, 0, 0, 0)),
    "vimzoo.models.VideoMamba ValueError": lambda tmp: models.VideoMamba(1, 2),
    "vimzoo.models.VideoMamba.set_input_size ValueError": lambda tmp: models.VideoMamba(
        2, 2, embed_dim=8, depth=1
    ).set_input_size(num_frames=1),
    "vimzoo.models.Vim ValueError": lambda tmp: models.Vim(embed_dim=0),
    "vimzoo.models.read_checkpoint CheckpointError": lambda tmp: models.read_checkpoint(tmp / "none"),
}


def overflowing() -> nn.Module:
    """A restoration model whose answers are infinite although its weights are finite."""
    model: Any = timm.create_model("test_mambair")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1e30)
    return model


def damaged(folder: Path) -> Path:
    (folder / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder / "damaged.png"


ELSEWHERE = {
    "vimzoo.ops.add_norm BackendError": "tests/ops/test_backends.py",
    "vimzoo.ops.causal_conv1d BackendError": "tests/ops/test_backends.py",
    "vimzoo.ops.linear BackendError": "tests/ops/test_backends.py",
    "vimzoo.ops.scan_codes BackendError": "tests/ops/test_backends.py",
    "vimzoo.layers.SelectiveSSM.apply UsageError": "tests/explain",
    "vimzoo.metrics.ssim ImportError": "needs a missing package",
    "vimzoo.segmentation.surface_scores ImportError": "needs a missing package",
    "vimzoo.exporting.export ExportError": "tests/cli/test_export_checks.py",
    "vimzoo.exporting.in_bfloat16 ImportError": "needs a missing package",
    "vimzoo.exporting.quantise ImportError": "needs a missing package",
    "vimzoo.exporting.save_onnx ImportError": "needs a missing package",
    "vimzoo.exporting.save_aoti RuntimeError": "needs a missing compiler",
    "vimzoo.restoration.Restorer.__call__ RuntimeError": "tests/restoration/test_memory.py",
    "vimzoo.restoration.Restorer.__call__ MemoryError": "tests/restoration/test_memory.py",
    "vimzoo.restoration.claim_results ValueError": "tests/cli/test_restore_command.py",
    "vimzoo.restoration.Restorer.run FloatingPointError": "tests/restoration/test_restorer.py",
    "vimzoo.restoration.Restorer.run RuntimeError": "tests/restoration/test_memory.py",
    "vimzoo.restoration.Restorer.run MemoryError": "tests/restoration/test_memory.py",
    "vimzoo.restoration.restore_file OSError": "tests/restoration/test_pictures.py",
    "vimzoo.restoration.restore_file ValueError": "tests/restoration/test_pictures.py",
    "vimzoo.restoration.restore_file FloatingPointError": "tests/restoration/test_restorer.py",
    "vimzoo.restoration.restore_file RuntimeError": "tests/restoration/test_memory.py",
    "vimzoo.restoration.restore_file MemoryError": "tests/restoration/test_memory.py",
    "vimzoo.restoration.restore_files Interrupted": "tests/cli/test_endings.py",
    "vimzoo.restoration.write_picture OSError": "tests/restoration/test_pictures.py",
    "vimzoo.restoration.write_picture PictureError": "tests/restoration/test_pictures.py",
    "vimzoo.data.BucketBatches UsageError": "tests/engine",
    "vimzoo.data.StageBatches UsageError": "tests/engine",
    "vimzoo.data.bundled_photos UsageError": "tests/engine",
    "vimzoo.data.drawn_shapes UsageError": "tests/segmentation/test_task.py",
    "vimzoo.data.mask_folder UsageError": "tests/segmentation/test_masks.py",
    "vimzoo.models.MambaIRUNet.forward ValueError": "tests/models/test_mambair.py",
    "vimzoo.models.MambaIRv2.forward ValueError": "tests/models/test_mambair.py",
    "vimzoo.models.MambaIRv2.forward_features ValueError": "tests/models/test_mambair.py",
    "vimzoo.models.save_for_hf AttributeError": "tests/models/test_hub.py",
    "vimzoo.models.save_for_hf ValueError": "tests/models/test_hub.py",
}
"""Documented errors that no call above provokes -> the tests that do, or why none can here."""


def documented() -> Iterator[str]:
    """``NAME TYPE`` of every error that a docstring of a public name lists, under the first of its names."""
    seen: set[Any] = set()
    for module in MODULES:
        room = importlib.import_module(module)
        for name in room.__all__:
            found = getattr(room, name)
            if not (inspect.isclass(found) or inspect.isfunction(found)) or found in seen:
                continue
            seen.add(found)
            members = {f"{module}.{name}": found}
            if inspect.isclass(found):
                own = {key: getattr(found, key) for key in vars(found) if key == "__call__" or key[0] != "_"}
                members |= {
                    f"{module}.{name}.{key}": value
                    for key, value in own.items()
                    if not inspect.isclass(value)
                }
            for full, member in members.items():
                if callable(member) and (raises := (inspect.getdoc(member) or "").partition("Raises:\n")[2]):
                    section = re.split(r"\n(?=\S)", raises)[0]
                    for types in re.findall(r"^ {4}([\w., ]+):", section, re.M):
                        yield from (f"{full} {kind.strip().rpartition('.')[2]}" for kind in types.split(","))


@pytest.mark.parametrize("what", CASES)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_raised(what: str, tmp_path: Path) -> None:
    with pytest.raises(Exception) as caught:
        CASES[what](tmp_path)
    assert what.split()[1] in [kind.__name__ for kind in type(caught.value).__mro__], repr(caught.value)


def test_every_documented_error_is_provoked() -> None:
    said, known = set(documented()), {*CASES, *ELSEWHERE}
    assert said - known == set(), "add a case"
    assert known - said == set(), "no longer documented"
    assert len(known) == len(CASES) + len(ELSEWHERE)
    for tests in ELSEWHERE.values():
        assert not tests.startswith("tests/") or (Path(__file__).parents[2] / tests).exists(), tests
