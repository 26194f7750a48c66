"""The MobileMamba authors' constructors (lewandofskee/MobileMamba: model/mobilemamba/mobilemamba.py), returning ours.

Code written for theirs works after changing its import line: arguments keep their names and meaning, and
``load_state_dict`` takes the authors' keys. `official_state_dict` and `official_gradients` write state and gradients
back under their names, and `replace_batchnorm` folds batch norms as theirs does. `vimzoo.models.MobileMamba` documents
each option.

As in theirs, a model with two classifiers returns both scores in training mode. Upstream bugs that are not imitated:
on the CPU theirs adds up the scans of all images of a batch; ``fuse=True`` folds after loading, not before; an unknown
argument is refused.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from timm.models import reparameterize_model
from torch import Tensor, nn

from vimzoo import models
from vimzoo.models.mobile_mamba import MOBILE_MAMBA_FACTS

from .attributes import OfficialModel, given_arguments, refuse_unknown
from .official import accept_official_names, official_gradients, official_state_dict

__all__ = [
    "MobileMamba", "MobileMambaBackbone", "MobileMamba_B1", "MobileMamba_B2", "MobileMamba_B4", "MobileMamba_S6",
    "MobileMamba_T2", "MobileMamba_T4", "official_gradients", "official_state_dict", "replace_batchnorm",
]  # fmt: skip

_DOWN = (("subsample", 2), ("subsample", 2), ("",))
_OURS = ("device", "dtype")


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """`MobileMamba`'s arguments -> those of `vimzoo.models.MobileMamba`, without the classifier's."""
    downs = tuple(tuple(down) for down in given["down_ops"])
    if set(given["stages"]) != {"s"} or downs != _DOWN or given["forward_type"] != "v052d":
        raise ValueError(
            "stages, down_ops, forward_type: expected 's', two of ['subsample', 2], and 'v052d', others are not "
            f"offered, got {list(given['stages'])}, {list(given['down_ops'])} and {given['forward_type']!r}"
        )
    return dict(
        in_chans=given["in_chans"], depths=given["depth"], dims=given["embed_dim"], kernels=given["kernels"],
        global_ratios=given["global_ratio"], local_ratios=given["local_ratio"], ratio=given["ssm_ratio"],
        drop_path_rate=given["drop_path"], device=given.get("device"), dtype=given.get("dtype"),
    )  # fmt: skip


class MobileMamba(OfficialModel, models.MobileMamba):
    """MobileMamba with the authors' arguments; ``img_size`` has no effect, ``device`` and ``dtype`` are ours.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument has no such value.
    """

    def __init__(
        self,
        img_size: int = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        stages: Sequence[str] = ("s", "s", "s"),
        embed_dim: Sequence[int] = (144, 272, 368),
        global_ratio: Sequence[float] = (0.8, 0.7, 0.6),
        local_ratio: Sequence[float] = (0.2, 0.2, 0.3),
        depth: Sequence[int] = (1, 2, 2),
        kernels: Sequence[int] = (7, 5, 3),
        down_ops: Sequence[Sequence[Any]] = _DOWN,
        distillation: bool = False,
        drop_path: float = 0.0,
        ssm_ratio: float = 2,
        forward_type: str = "v052d",
        **kwargs: Any,
    ) -> None:
        given = given_arguments(locals())
        refuse_unknown("MobileMamba", kwargs, _OURS)
        super().__init__(num_classes=num_classes, distilled=distillation, **_options(given))
        self.arguments = given
        self.set_distilled_training()
        accept_official_names(self)


class MobileMambaBackbone(MobileMamba):
    """The authors' backbone of detectors and segmenters, also called ``MobileMamba``: a tuple of maps ``(B, D, h, w)``.

    Args:
        *args, **kwargs: As `MobileMamba` takes them; ``num_classes`` and ``distillation`` have no effect.
        out_indices: Stages whose maps are returned, from 1.
        sync_bn, pretrained, frozen_stages, norm_eval: Theirs concern training; only the values that leave everything to
            the caller are offered: False, None and -1. ``norm_eval`` keeps batch norms in evaluation mode.

    Raises:
        TypeError: an argument is unknown.
        ValueError: an argument has no such value.
    """

    def __init__(
        self,
        *args: Any,
        sync_bn: bool = False,
        out_indices: Sequence[int] = (1, 2, 3),
        pretrained: str | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = True,
        **kwargs: Any,
    ) -> None:
        if sync_bn or pretrained is not None or frozen_stages != -1:
            raise ValueError(
                "sync_bn, pretrained, frozen_stages: expected False, None and -1, others are not offered, got "
                f"{sync_bn}, {pretrained!r} and {frozen_stages}"
            )
        super().__init__(*args, **kwargs)
        if not all(1 <= i <= len(self.stages) for i in out_indices):
            raise ValueError(f"out_indices: expected stages 1..{len(self.stages)}, got {tuple(out_indices)}")
        self.out_indices, self.norm_eval = tuple(out_indices), norm_eval
        self.reset_classifier(0, "")

    def train(self, mode: bool = True) -> Any:
        """As `torch.nn.Module`'s; with ``norm_eval`` batch norms stay in evaluation mode."""
        super().train(mode)
        for module in self.modules():
            if self.__dict__.get("norm_eval") and isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Images ``(B, C, H, W)`` -> maps."""
        maps: Any = self.forward_intermediates(x, [i - 1 for i in self.out_indices], intermediates_only=True)
        return tuple(maps)


def replace_batchnorm(net: nn.Module) -> None:
    """Fold all batch norms that follow, or come before, a layer into it, in place."""
    reparameterize_model(net, inplace=True)


def _registered(name: str, options: Mapping[str, Any]) -> MobileMamba:
    args = {"depths": (2, 3, 2), "dims": (200, 376, 448), **MOBILE_MAMBA_FACTS[name].args}
    options = {"drop_path": 0.03 if name.startswith("mobile_mamba_b") else 0.0, **options}
    return MobileMamba(embed_dim=args["dims"], depth=args["depths"], **options)


def _built(
    name: str, num_classes: int, pretrained: Any, distillation: bool, fuse: bool, options: Any
) -> MobileMamba:
    if pretrained or fuse:
        raise ValueError(
            "pretrained, fuse: expected False; load the file with load_state_dict, then call replace_batchnorm"
        )
    return _registered(name, {"num_classes": num_classes, "distillation": distillation, **options})


def MobileMamba_T2(
    num_classes: int = 1000,
    pretrained: Any = False,
    distillation: bool = False,
    fuse: bool = False,
    **kwargs: Any,
) -> MobileMamba:
    """MobileMamba-T2.

    Raises:
        ValueError: ``pretrained`` or ``fuse`` is set.
    """
    return _built("mobile_mamba_t2", num_classes, pretrained, distillation, fuse, kwargs)


def MobileMamba_T4(
    num_classes: int = 1000,
    pretrained: Any = False,
    distillation: bool = False,
    fuse: bool = False,
    **kwargs: Any,
) -> MobileMamba:
    """MobileMamba-T4.

    Raises:
        ValueError: ``pretrained`` or ``fuse`` is set.
    """
    return _built("mobile_mamba_t4", num_classes, pretrained, distillation, fuse, kwargs)


def MobileMamba_S6(
    num_classes: int = 1000,
    pretrained: Any = False,
    distillation: bool = False,
    fuse: bool = False,
    **kwargs: Any,
) -> MobileMamba:
    """MobileMamba-S6.

    Raises:
        ValueError: ``pretrained`` or ``fuse`` is set.
    """
    return _built("mobile_mamba_s6", num_classes, pretrained, distillation, fuse, kwargs)


def MobileMamba_B1(
    num_classes: int = 1000,
    pretrained: Any = False,
    distillation: bool = False,
    fuse: bool = False,
    **kwargs: Any,
) -> MobileMamba:
    """MobileMamba-B1.

    Raises:
        ValueError: ``pretrained`` or ``fuse`` is set.
    """
    return _built("mobile_mamba_b1", num_classes, pretrained, distillation, fuse, kwargs)


def MobileMamba_B2(
    num_classes: int = 1000,
    pretrained: Any = False,
    distillation: bool = False,
    fuse: bool = False,
    **kwargs: Any,
) -> MobileMamba:
    """MobileMamba-B2.

    Raises:
        ValueError: ``pretrained`` or ``fuse`` is set.
    """
    return _built("mobile_mamba_b2", num_classes, pretrained, distillation, fuse, kwargs)


def MobileMamba_B4(
    num_classes: int = 1000,
    pretrained: Any = False,
    distillation: bool = False,
    fuse: bool = False,
    **kwargs: Any,
) -> MobileMamba:
    """MobileMamba-B4.

    Raises:
        ValueError: ``pretrained`` or ``fuse`` is set.
    """
    return _built("mobile_mamba_b4", num_classes, pretrained, distillation, fuse, kwargs)
