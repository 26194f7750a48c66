"""VideoMamba for clips: facts about its models, and their registration with timm.

`VideoMamba: State Space Model for Efficient Video Understanding`, Li et al., ECCV 2024, arXiv:2403.06977; code and
weights by its authors at https://github.com/OpenGVLab/VideoMamba (Apache-2.0). The image models, from whose weights
these start, are `vimzoo.models.vim.videomamba`.
"""

from collections.abc import Callable
from typing import Any

from timm.models import generate_default_cfgs, register_model

from ..facts import ClipWeights, VideoFacts
from ..family import Family
from ..vim.videomamba import HUB, SIZES, SOURCE
from ..weights.loading import build_model
from .model import VIDEOMAMBA, VideoMamba, checkpoint_filter_fn
from .names import frames_of, holds_videomamba, inflated

__all__ = [
    "FAMILY", "VIDEOMAMBA_CLIP_FACTS", "VideoMamba", "checkpoint_filter_fn", "frames_of", "inflated",
]  # fmt: skip

_ZOO = "https://github.com/OpenGVLab/VideoMamba/blob/main/videomamba/video_sm/MODEL_ZOO.md"
_RECIPE = (
    "AdamW, bfloat16, repeated augmentation 2, Mixup 0.8, CutMix 1.0, label smoothing 0.1, random erasing 0.25, "
    "RandAugment, frames sampled sparsely"
)
_LARGER = "The model of 224 pixels, fine-tuned at a constant lr of 5e-6, weight decay 1e-8"
CLASSES = {"k400": 400, "ssv2": 174, "breakfast": 10, "coin": 180}
"""Data sets -> classes."""
VIEWS = {"k400": (4, 3), "ssv2": (4, 3), "breakfast": (4, 3), "coin": (10, 3)}
"""Data sets -> clips in time and crops of each that published accuracies are averaged over."""
_MASKED = "middle masked"
# (frames, pixels) -> by size and tag, top-1 in per cent
_TOP1: dict[tuple[int, int], dict[str, dict[str, float]]] = {
    (8, 224): {
        "tiny": {"k400": 76.9, "ssv2": 65.1},
        "small": {"k400": 79.3, "ssv2": 66.6},
        "middle": {"k400": 80.6, "ssv2": 67.3},
        _MASKED: {"k400": 82.0, "ssv2": 70.2},
    },
    (16, 224): {
        "tiny": {"k400": 78.1, "ssv2": 66.0},
        "small": {"k400": 80.8, "ssv2": 67.7},
        "middle": {"k400": 81.9, "ssv2": 68.3},
        _MASKED: {"k400": 83.4, "ssv2": 71.0},
    },
    (16, 288): {
        "tiny": {"ssv2": 66.2},
        "small": {"ssv2": 68.1},
        "middle": {"ssv2": 68.4},
        _MASKED: {"ssv2": 71.4},
    },
    (32, 224): {
        "tiny": {"k400": 78.8, "breakfast": 94.3, "coin": 86.2},
        "small": {"k400": 81.5, "breakfast": 95.3, "coin": 88.4},
        "middle": {"k400": 82.4, "breakfast": 94.8, "coin": 88.3},
        _MASKED: {"k400": 83.9, "breakfast": 97.9, "coin": 89.6},
    },
    (64, 224): {
        "tiny": {"k400": 79.6, "breakfast": 94.3, "coin": 87.0},
        "small": {"k400": 81.8, "breakfast": 97.4, "coin": 88.7},
        "middle": {"k400": 82.8, "breakfast": 95.8, "coin": 89.5},
        _MASKED: {"k400": 84.3, "breakfast": 96.9, "coin": 90.4},
    },
    (64, 384): {
        "tiny": {"k400": 80.3},
        "small": {"k400": 82.7},
        "middle": {"k400": 83.3},
        _MASKED: {"k400": 85.0},
    },
}  # fmt: skip
_PARAMS = {
    "tiny": (7_033_744, 7_035_280, 7_016_238, 7_038_352, 7_044_496, 7_117_456),
    "small": (25_568_656, 25_571_728, 25_533_870, 25_577_872, 25_590_160, 25_736_080),
    "middle": (73_875_856, 73_880_464, 73_823_790, 73_889_680, 73_908_112, 74_126_992),
}
"""Parameters in the order of `_TOP1`, with the classes of the first tag."""


def _weights(size: str, frames: int, pixels: int) -> dict[str, ClipWeights]:
    """The published weights of a model by tag."""
    found: dict[str, ClipWeights] = {}
    for kind in (size, f"{size} masked"):
        for data, top1 in _TOP1[frames, pixels].get(kind, {}).items():
            masked = kind.endswith("masked")
            resolution = "res224" if pixels == 224 else f"res224to{pixels}"
            file = f"videomamba_{size[0]}16_{data}_{'mask_ft_' if masked else ''}f{frames}_{resolution}.pth"
            clips, crops = VIEWS[data]
            found[f"{data}_mask_ft" if masked else data] = ClipWeights(
                file, CLASSES[data], top1, clips, crops, _RECIPE if pixels == 224 else _LARGER
            )
    return found


def _facts(size: str, frames: int, pixels: int) -> VideoFacts:
    name = f"videomamba_{size}_patch16_f{frames}_{pixels}"
    note = "64 rows of the temporal embedding are interpolated from the 32 that the file of Breakfast with masked "
    return VideoFacts(
        name,
        args={**SIZES[size], "num_frames": frames, **({} if pixels == 224 else {"img_size": pixels})},
        input_size=(3, pixels, pixels),
        params=_PARAMS[size][list(_TOP1).index((frames, pixels))],
        num_frames=frames,
        trained=_weights(size, frames, pixels),
        hub_id=HUB,
        score_source=_ZOO,
        note=note + "pretraining holds" if (size, frames, pixels) == ("middle", 64, 224) else "",
        **SOURCE,
    )


VIDEOMAMBA_CLIP_FACTS: dict[str, VideoFacts] = {
    facts.name: facts
    for facts in (
        *(_facts(size, *clip) for size in ("tiny", "small", "middle") for clip in _TOP1),
        VideoFacts(
            "videomamba_moving_digits",
            args=dict(
                num_frames=4, tubelet_size=2, img_size=24, patch_size=6, embed_dim=48, depth=3, d_state=8,
                cls_token="none", global_pool="avg",
            ),
            input_size=(3, 24, 24), num_frames=4, num_classes=8, params=74_648,
            note="not the authors'; `vimzoo-train experiment=moving_digits` trains it on scikit-learn's digits that "
            "move, with one channel",
            **SOURCE,
        ),
        VideoFacts(
            "test_videomamba",
            args=dict(num_frames=4, img_size=64, embed_dim=32, depth=3, d_state=8, dynamic_img_size=True),
            input_size=(3, 64, 64), num_frames=4, num_classes=1000, params=90_312, note="for tests", **SOURCE,
        ),
    )
}  # fmt: skip
"""By registered name. Depth is 24 and d_state 16 unless ``args`` says otherwise."""

FAMILY = Family(
    "VideoMamba",
    VIDEOMAMBA_CLIP_FACTS,
    VIDEOMAMBA,
    lambda state: VideoMamba if holds_videomamba(state) else None,
)

default_cfgs = generate_default_cfgs(
    {
        name: cfg
        for facts in VIDEOMAMBA_CLIP_FACTS.values()
        for name, cfg in facts.timm_cfgs(
            first_conv="patch_embed.proj", classifier="head", fixed_input_size=facts.name != "test_videomamba"
        ).items()
    }
)


def _entrypoint(name: str, facts: VideoFacts) -> Callable[..., VideoMamba]:
    def build(pretrained: bool = False, **kwargs: Any) -> VideoMamba:
        out_indices = kwargs.pop("out_indices", 3)
        return build_model(
            VideoMamba,
            name,
            pretrained,
            checkpoint_filter_fn,
            feature_cfg=dict(out_indices=out_indices, feature_cls="getter"),
            **{**facts.args, **kwargs},
        )

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"VideoMamba for clips of {facts.num_frames} frames of {facts.input_size[1]} pixels."
    return build


for _name, _found in VIDEOMAMBA_CLIP_FACTS.items():
    globals()[_name] = register_model(_entrypoint(_name, _found))
