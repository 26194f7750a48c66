"""ONNX files with our operators, for onnxruntime with our library."""

from __future__ import annotations

import json
from pathlib import Path

from vimzoo.ops.runtime.onnxruntime import onnxruntime_extension, plan

from ..openvino import WITH_OUR_SCAN
from ..record import Format, Run, Source
from .onnx import open_onnx, translate_for_own_operators


def _save(source: Source, path: Path) -> None:
    written = translate_for_own_operators(source)
    written.model.metadata_props.update({key: json.dumps(value) for key, value in source.metadata.items()})
    written.save(path)


def _load(path: Path) -> Run:
    return open_onnx(path, onnxruntime_extension()).run


FORMAT = Format(
    name="onnxruntime",
    suffix=".own.onnx",
    save=_save,
    load=_load,
    runs_with="onnxruntime, after `options.register_custom_ops_library(str(vimzoo.onnxruntime_extension()))`",
    operators="ONNX's; scans, causal and depthwise convolutions and norms are ours",
    requires=("onnx", "onnxscript", "onnxruntime"),
    others=(WITH_OUR_SCAN,),
    prepare=plan,
)
