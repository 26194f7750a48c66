"""OpenVINO's IR files, in which scans, causal and depthwise convolutions and norms are our operators."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from vimzoo.ops.runtime.openvino import openvino_extension

from ..openvino import EXACT, load_with_our_scan
from ..record import Format, Runtime, Source
from .onnx import translate_for_own_operators


def _save(source: Source, path: Path) -> None:
    import openvino

    core = openvino.Core()
    core.add_extension(str(openvino_extension()))
    with TemporaryDirectory() as folder:
        onnx_file = Path(folder) / "model.onnx"
        translate_for_own_operators(source).save(onnx_file)
        model = core.read_model(onnx_file)
        for key, value in source.metadata.items():
            model.set_rt_info(json.dumps(value), ["vimzoo", key])  # `open_with_our_scan` reads it
        for key, value in EXACT.items():
            model.set_rt_info(value, ["runtime_options", key])  # where OpenVINO looks for options of a file
        openvino.save_model(model, path, compress_to_fp16=False)


FORMAT = Format(
    name="openvino",
    suffix=".xml",
    save=_save,
    load=load_with_our_scan,
    runs_with="OpenVINO, after `core.add_extension(vimzoo.openvino_extension())`",
    operators="OpenVINO's; scans, causal and depthwise convolutions and norms are ours",
    requires=("onnx", "onnxscript", "onnxruntime", "openvino"),
    extra="openvino",
    companions=(".bin",),
    others=(Runtime("OpenVINO", (), load_with_our_scan),),
)
