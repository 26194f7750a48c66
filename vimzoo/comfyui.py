"""Nodes for ComfyUI; the folder ``integrations/comfyui`` hands them over."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .models.restoration_base import RestorationModel
from .models.routes import ROUTINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "Restore"]

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
AS_TRAINED = "as trained"


class Restore:
    """The node "Restore (MambaIR)": images through a model with the tiles of `vimzoo.restoration.Restorer`.

    Beyond ComfyUI's own "Upscale Image (using Model)" it blends tiles of any size, passes grey and alpha, averages
    over flips and rotations, and seeds MambaIRv2's routes.
    """

    CATEGORY = "image/upscaling"
    DESCRIPTION = (
        "Restores images with a MambaIR, MambaIRv2 or MambaIR U-Net that Load Upscale Model has read."
    )
    FUNCTION = "restore"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Any]]:
        """The node's inputs, as ComfyUI asks for them."""
        return {
            "required": {
                "upscale_model": ("UPSCALE_MODEL",),
                "image": ("IMAGE",),
                "tile": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 4096,
                        "step": 8,
                        "tooltip": "0: what fits into the memory",
                    },
                ),
                "overlap": ("INT", {"default": 32, "min": 0, "max": 512, "tooltip": "at most half a tile"}),
                "precision": (list(PRECISIONS), {"default": "fp32"}),
                "self_ensemble": ("BOOLEAN", {"default": False, "tooltip": "8 positions: 8 times the work"}),
                "routing": ([AS_TRAINED, *ROUTINGS], {"default": AS_TRAINED, "tooltip": "of MambaIRv2"}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**32 - 1, "tooltip": "of random routes"}),
            }
        }

    def restore(
        self,
        upscale_model: Any,
        image: Tensor,
        tile: int = 0,
        overlap: int = 32,
        precision: str = "fp32",
        self_ensemble: bool = False,
        routing: str = AS_TRAINED,
        seed: int = 0,
    ) -> tuple[Tensor]:
        """Restore every image of a batch.

        Args:
            upscale_model: spandrel's descriptor, from "Load Upscale Model".
            image: ``(B, H, W, C)`` float in 0..1; C is 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha).
            tile: Side of the largest tile in pixels of the image; 0 for what fits into the memory.
            overlap: Pixels that neighbouring tiles share; at most half a tile.
            precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
            self_ensemble, seed: As in `vimzoo.restoration.Restorer`.
            routing: ``"gumbel"`` or ``"argmax"`` for a MambaIRv2, or ``"as trained"``.

        Returns:
            One tensor ``(B, H scale, W scale, C)`` float32 in 0..1 on the CPU.

        Raises:
            ValueError: the model is not of this package, or an input has no such value.
        """
        from vimzoo.restoration import Restorer

        model = getattr(upscale_model, "model", upscale_model)
        if not isinstance(model, RestorationModel):
            raise ValueError(
                f"upscale_model: expected a MambaIR model, got {type(model).__name__}; "
                'use "Upscale Image (using Model)" for others'
            )
        home, choose = upscale_model.device, None if routing == AS_TRAINED else routing
        try:
            restorer = Restorer(
                model,
                tile=tile or "auto",
                overlap=overlap,
                self_ensemble=self_ensemble,
                dtype=PRECISIONS[precision],
                seed=seed,
                routing=choose,
                device=_device(home),
            )
            show = _progress(len(image))
            done = [
                restorer(pixels.float().cpu().numpy(), lambda share, i=i: show(i + share))  # type: ignore[misc]
                for i, pixels in enumerate(image)
            ]
        finally:
            model.to(home)  # the memory is for the next model
        return (torch.stack([torch.from_numpy(pixels) for pixels in done]).clamp_(0, 1),)


def _device(home: torch.device) -> torch.device:
    """Where ComfyUI computes; without ComfyUI where the model is."""
    management = sys.modules.get("comfy.model_management")
    return home if management is None else management.get_torch_device()


def _progress(count: int) -> Callable[[float], None]:
    """A function that moves ComfyUI's progress bar to so many finished images, and ends a run that was cancelled."""
    management, utils = (sys.modules.get(f"comfy.{name}") for name in ("model_management", "utils"))
    if management is None or utils is None:
        return lambda done: None
    steps = 1000
    bar = utils.ProgressBar(count * steps)

    def show(done: float) -> None:
        management.throw_exception_if_processing_interrupted()
        bar.update_absolute(int(done * steps), count * steps)

    return show


NODE_CLASS_MAPPINGS: dict[str, type] = {"VimzooRestore": Restore}
NODE_DISPLAY_NAME_MAPPINGS = {"VimzooRestore": "Restore (MambaIR)"}
