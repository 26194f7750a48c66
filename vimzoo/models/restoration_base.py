"""Base class of the restoration models: images in and out, timm's contract without a classifier."""

import os
from typing import Any, NamedTuple

import torch
from timm.layers import trunc_normal_
from timm.models import register_notrace_function
from torch import Tensor, nn

from vimzoo.layers.buffers import DerivedBuffers
from vimzoo.layers.images import warn_unless_finite

from .export_options import ExportOptions
from .initial import reset_layers
from .threads import SmallOnOneThread
from .weights.loading import CheckpointError, FilterFn, load_into, unwrapped
from .weights.reader import read_tensors

RGB_MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K, as all published models subtract it


class Fitting(NamedTuple):
    """Differences between a file and a model, by the model's names.

    Attributes:
        new: Tensors of the model that are not in the file and keep their values.
        unused: Tensors of the file that the model lacks, or has in another shape.
    """

    new: list[str]
    unused: list[str]


class RestorationModel(SmallOnOneThread, DerivedBuffers):
    """Base of networks from image to image; a subclass has ``forward``.

    Attributes:
        scale: Output pixels per input pixel and axis.
        in_chans: Channels of the images.
        out_chans: Channels of the result of a model of several pictures, which lie in the channels of one image; None:
            as many as the image has.
        multiple_of: Heights and widths of its images must be multiples of this.
        num_classes: 0; there is no classifier.
        usual_tile: Side of tiles in pixels where the user leaves it open; 0: as large as memory allows.
        export_options: What `vimzoo.exporting` must know about the class.
    """

    scale: int
    in_chans: int
    out_chans: int | None = None
    multiple_of: int = 1
    num_classes: int = 0
    usual_tile: int = 0
    export_options: ExportOptions = ExportOptions(size_step=1)

    def __init__(self) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.scale = 1

    def init_weights(self, needs_reset: bool = True) -> None:
        """Initial values: linear layers normal with deviation 0.02, the rest as its layer does.

        Args:
            needs_reset: Reset every layer first (after ``to_empty``); the constructor's have just done so.
        """
        if needs_reset:
            reset_layers(self)
            self.init_non_persistent_buffers()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @torch.jit.ignore
    def filter_fn(self) -> FilterFn:
        """The family's function from a checkpoint's names and shapes to the model's, see `load_into`."""
        raise NotImplementedError

    @torch.jit.ignore
    def load_pretrained(
        self, checkpoint_path: str | os.PathLike[str], prefix: str = "", *, use_ema: bool | None = None
    ) -> None:
        """Load a file of ours or the authors', as `vimzoo.models.weights.loading.load_into` does, with its errors."""
        load_into(self, checkpoint_path, self.filter_fn(), use_ema=use_ema, prefix=prefix)

    @torch.jit.ignore
    def load_fitting(self, checkpoint_path: str | os.PathLike[str]) -> "Fitting":
        """Load the tensors that fit from a similar model's file; the recipes start x3 from the x2 network's body.

        Returns:
            The tensors that were not loaded, of the model and of the file.

        Raises:
            CheckpointError: the file cannot be read, or less than half of the tensors fit; nothing was loaded.
        """
        source, own = os.fspath(checkpoint_path), self.state_dict()
        found = unwrapped(self, read_tensors(checkpoint_path), self.filter_fn(), source)
        fitting = {name: x for name, x in found.items() if name in own and own[name].shape == x.shape}
        if 2 * len(fitting) < len(own):
            raise CheckpointError(
                f"{source}: only {len(fitting)} of {len(own)} tensors fit; nothing was loaded"
            )
        self.load_state_dict(fitting, strict=False)
        new, unused = ([name for name in names if name not in fitting] for names in (own, found))
        return Fitting(new, unused)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Patterns of parameters without weight decay, beyond vectors; the published recipes decay nothing."""
        return {"*.ssm.D", "*.ssm.A_log"}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """An identity: images have no class."""
        return nn.Identity()

    def _keep_mean(self, channels: int, **dd: Any) -> None:
        """Register the mean to subtract from an image: the training images' for RGB, 0 for other channels."""
        values = len(RGB_MEAN) if channels == len(RGB_MEAN) else 1
        self.register_buffer("mean", torch.empty(1, values, 1, 1, **dd), persistent=False)
        self.init_non_persistent_buffers()

    @torch.jit.ignore
    def init_non_persistent_buffers(self) -> None:
        """Fill in the mean that is subtracted from images, if the model has one."""
        mean = getattr(self, "mean", None)
        if mean is not None:
            values = RGB_MEAN if mean.shape[1] == len(RGB_MEAN) else (0.0,)
            mean.copy_(torch.tensor(values, device=mean.device).view(mean.shape))


@register_notrace_function  # FX cannot trace control flow that depends on sizes
def check_image(x: Tensor, channels: int, multiple_of: int = 1) -> Tensor:
    """Return ``x`` if it is images ``(B, channels, H, W)`` with sides in multiples of ``multiple_of``.

    Warns if pixels are not finite.

    Raises:
        ValueError: it is not.
    """
    x = _check_shape(x, channels, multiple_of)
    warn_unless_finite(x)
    return x


@torch.jit.script_if_tracing  # so that a traced model checks its images at run time
def _check_shape(x: Tensor, channels: int, multiple_of: int) -> Tensor:
    if x.dim() != 4 or x.shape[1] != channels:
        raise ValueError(f"x: expected images (B, {channels}, H, W), got {x.shape}")
    if x.shape[2] % multiple_of != 0 or x.shape[3] % multiple_of != 0:
        raise ValueError(f"x: expected height and width in multiples of {multiple_of}, got {x.shape}")
    return x
