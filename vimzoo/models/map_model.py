"""timm's contract for classifiers whose features are maps, as VMamba's and PlainMamba's are."""

from typing import Any

import torch
from timm.layers import ClassifierHead, get_device_dtype
from torch import Tensor, nn

from vimzoo.layers.checks import check_choice

from ._timm import feature_take_indices
from .threads import SmallOnOneThread

__all__ = ["MapModel"]

POOLS = ("", "avg", "max", "avgmax", "catavgmax")


class MapModel(SmallOnOneThread):
    """A classifier of images whose parts pass on maps ``(B, H, W, C)``: one embedding, parts, a norm and a head.

    A family sets ``in_chans``, ``embed_dim``, ``feature_info`` (an entry for each part), the module list named by
    ``parts``, ``norm`` and, by `add_head`, ``head``. It defines ``init_weights``, ``_init_head``, ``_embed``, where
    needed ``_run``, and ``forward_features``, in a form that TorchScript compiles. Parts may be stages of several
    resolutions or blocks of one.
    """

    parts = "stages"
    """Name of the `torch.nn.Sequential` whose members' maps are the features."""

    def add_head(
        self, num_classes: int, global_pool: str | None, drop_rate: float, dd: dict[str, Any]
    ) -> None:
        """Add the classifier of the last part's maps.

        Args:
            num_classes: Classes; 0 for no classifier.
            global_pool: A pooling of timm's; empty for none.
            drop_rate: Dropout before the classifier.
            dd: Device and dtype.

        Raises:
            ValueError: there is no such pooling, or a negative number of classes.
        """
        _check_classes(num_classes)
        check_choice(POOLS, global_pool=global_pool or "")
        self.num_classes = num_classes
        self.num_features: int = self._infos()[-1]["num_chs"]
        self.output_fmt = "NHWC"
        self.head = self.new_head(
            self.num_features, num_classes, pool_type=global_pool or "", drop_rate=drop_rate, **dd
        )
        self.head_hidden_size = self.head.num_features

    def new_head(self, in_features: int, num_classes: int, **options: Any) -> ClassifierHead:
        """A classifier of maps ``(B, H, W, C)``, with options as timm's takes them."""
        return ClassifierHead(in_features, num_classes, input_fmt="NHWC", **options)

    def _infos(self) -> Any:
        return self.feature_info  # not annotated on the class, where TorchScript would try to read it

    def _init_head(self) -> None:
        """Initialise the classifier, if there is one."""
        raise NotImplementedError

    def _embed(self, x: Tensor) -> Tensor:
        """Images -> the map that the first part reads."""
        raise NotImplementedError

    def _run(self, part: nn.Module, x: Tensor) -> Tensor:
        return part(x)

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The classifier."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier of ``num_classes`` (0 for none); ``global_pool=None`` keeps the pooling."""
        _check_classes(num_classes)
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool, **get_device_dtype(self))
        self.head_hidden_size = self.head.num_features
        self._init_head()

    def forward_features(self, x: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` -> the last map after its norm, ``(B, h, w, D)``."""
        raise NotImplementedError

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map ``(B, h, w, D)`` -> logits ``(B, classes)``, or with ``pre_logits`` the pooled features."""
        return self.head(x, pre_logits=pre_logits) if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` -> logits ``(B, classes)``."""
        return self.forward_head(self.forward_features(x))

    def _norm_fits(self, index: int) -> bool:
        """Whether the final norm is of this part's maps: those of the last one's width and resolution."""
        infos = self._infos()
        last = infos[len(getattr(self, self.parts)) - 1]
        return all(infos[index][key] == last[key] for key in ("num_chs", "reduction"))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Maps after chosen parts; those of a stage are taken before they are downsampled.

        Args:
            x: Images ``(B, C, H, W)``.
            indices: Parts, negative from the end; a number for the last so many; ``None`` for all.
            norm: Apply the final norm to each map of the last one's width and resolution: all maps of PlainMamba, the
                last of VMamba. The others have no norm.
            stop_early: Run no part after the last chosen one.
            output_fmt: ``"NCHW"`` or ``"NHWC"`` maps.
            intermediates_only: Return only the list.

        Returns:
            ``(forward_features(x), list)``, or the list. With ``stop_early`` the first is the last chosen map, with
            the final norm if that fits.
        """
        check_choice(("NCHW", "NHWC"), output_fmt=output_fmt)
        parts = getattr(self, self.parts)
        take, last = feature_take_indices(len(parts), indices)
        end = last if stop_early else len(parts) - 1
        intermediates: list[Tensor] = []
        x = self._embed(x)
        for i, part in enumerate(parts[: end + 1]):
            x = self._run(part, x)
            if i in take:
                y = self.norm(x) if norm and self._norm_fits(i) else x
                intermediates.append(y.permute(0, 3, 1, 2).contiguous() if output_fmt == "NCHW" else y)
        if intermediates_only:
            return intermediates
        return self.norm(x) if self._norm_fits(end) else x, intermediates

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove layers that the chosen features do not need; returns the features' indices from the first part."""
        parts = getattr(self, self.parts)
        take, last = feature_take_indices(len(parts), indices)
        fits = self._norm_fits(last)
        setattr(self, self.parts, parts[: last + 1])
        if not fits:
            self.num_features = self.head.in_features = self._infos()[last]["num_chs"]
        if prune_norm or not fits:
            self.norm: nn.Module = nn.Identity()
        if prune_head or not fits:
            self.reset_classifier(0, "")
        return take


def _check_classes(num_classes: int) -> None:
    if num_classes < 0:
        raise ValueError(f"num_classes: expected 0 (no classifier) or more, got {num_classes}")
