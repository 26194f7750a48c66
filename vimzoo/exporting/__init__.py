"""Models as files for ONNX's runtimes, OpenVINO, torch.export, AOTInductor and TorchScript.

ONNX files hold standard operators only, with the scan as a function of them. Those for onnxruntime and for OpenVINO
with our libraries hold the scan, convolutions and norms as operators of ours. The other formats keep the operators of
`vimzoo.ops` as nodes, so that ``import vimzoo.ops`` is all that a process needs to run them at full speed. To add a
format, add a module to `vimzoo.exporting.formats`.
"""

from .check import BOUND, Check
from .eight_bits import quantise
from .formats import FORMATS
from .formats.aoti import save_aoti
from .formats.onnx import save_onnx
from .formats.pt2 import save_pt2
from .formats.torchscript import save_torchscript
from .openvino import in_bfloat16
from .program import to_program
from .record import METADATA, Format, Source, Variant
from .writing import ExportError, Written, export, load, parse_size

__all__ = [
    "BOUND",
    "FORMATS",
    "METADATA",
    "Check",
    "ExportError",
    "Format",
    "Source",
    "Variant",
    "Written",
    "export",
    "in_bfloat16",
    "load",
    "parse_size",
    "quantise",
    "save_aoti",
    "save_onnx",
    "save_pt2",
    "save_torchscript",
    "to_program",
]
