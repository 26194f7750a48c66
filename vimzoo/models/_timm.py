"""The two functions that timm's contract needs and timm does not export."""

from timm.models._features import feature_take_indices
from timm.models._input import update_model_input_size

__all__ = ["feature_take_indices", "update_model_input_size"]
