"""The scan as an ONNX function of standard operators, one for each kind of call."""

from .definition import DOMAIN, NAME, OPSET, Kind, function

__all__ = ["DOMAIN", "NAME", "OPSET", "Kind", "function"]
