"""Functions of timm that this package needs and timm does not export."""

from timm.models._efficientnet_blocks import InvertedResidual, SqueezeExcite
from timm.models._features import feature_take_indices
from timm.models._hub import check_cached_file, generate_readme
from timm.models._input import update_model_input_size

__all__ = [
    "InvertedResidual",
    "SqueezeExcite",
    "check_cached_file",
    "feature_take_indices",
    "generate_readme",
    "update_model_input_size",
]
