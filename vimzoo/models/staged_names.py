"""The authors' names of what MILA and Spatial-Mamba share: stem, downsampling, stages and head."""

import re

__all__ = ["official_name"]

_DOWNSAMPLE = {
    "expand": "conv.0.conv", "depthwise": "conv.1.conv", "reduce.conv": "conv.2.conv", "reduce.norm": "conv.2.norm",
}  # fmt: skip


def official_name(name: str, outnorm: str) -> str:
    """The authors' name of one of our tensors outside of the mixers.

    Downsampling ends a stage in theirs and starts one in ours.

    Args:
        name: Ours.
        outnorm: What comes before the number in their names of a backbone's norms.
    """
    if match := re.match(r"stages\.(\d+)\.downsample\.(.+)\.(\w+)$", name):
        return f"layers.{int(match[1]) - 1}.downsample.{_DOWNSAMPLE[match[2]]}.{match[3]}"
    name = re.sub(r"^stages\.", "layers.", name)
    name = re.sub(r"(^|\.)cpe(\d)\.conv\.", r"\1cpe\2.", name)
    name = re.sub(r"^head\.fc\.", "head.", name)
    return re.sub(r"^outnorms\.(\d+)\.", rf"{outnorm}\1.", name)
