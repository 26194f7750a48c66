"""The VMamba authors' arguments -> ours."""

from collections.abc import Mapping
from typing import Any

from torch import nn

NORMS = {"ln": "layer", "ln2d": "layer", "bn": "batch"}
STEMS = {"v1": "patch", "v2": "conv"}
DOWNSAMPLES = {"v1": "merge", "v2": "conv2", "v3": "conv3"}
INITS = {"v0": "mamba", "v1": "random", "v2": "zero"}
PATHS = {"v051d": "unidirectional", "v052d": "bidirectional", "v052dc": "cascade"}
CROSS_SCANS = ("v01", "v02", "v03", "v04", "v05", "v2", "v3", "m0")  # one function, by different kernels
OUT_NORMS = {
    "_onnone": "none",
    "_ondwconv3": "conv",
    "_oncnorm": "layer conv",
    "_onsoftmax": "softmax",
    "_onsigmoid": "sigmoid",
}
NOT_OFFERED: dict[str, dict[str, str]] = {
    "forward_type": {
        "v052d3": "it is marked as a debugging type in theirs",
        **dict.fromkeys(("xv1a", "xv2a", "xv3a"), "it no longer runs in theirs"),
        **dict.fromkeys(("v31d", "v32d", "v32dc"), "it is no longer in theirs"),
    },
    "downsample_version": {"none": "it fails in theirs"},
}
"""What their code names and ours refuses, and why."""
ACTIVATIONS = {nn.SiLU: "silu", nn.GELU: "gelu", nn.ReLU: "relu", nn.Sigmoid: "sigmoid"}


def one_of(name: str, value: str, table: dict[str, str]) -> str:
    """Our name for ``value``.

    Raises:
        ValueError: the table does not have it.
    """
    if value in NOT_OFFERED.get(name, ()):
        raise ValueError(
            f"{name}: {value!r} is not offered, {NOT_OFFERED[name][value]}; expected one of {tuple(table)}"
        )
    if value not in table:
        raise ValueError(f"{name}: expected one of {tuple(table)}, got {value!r}")
    return table[value]


def activation(name: str, act: Any) -> str:
    """The activation's name, from a class, as their layers take, or from a name, as their models do."""
    found = ACTIVATIONS.get(act, act)
    if found not in ACTIVATIONS.values():
        raise ValueError(f"{name}: expected SiLU, GELU, ReLU or Sigmoid, got {act!r}")
    return found


def _strip(forward_type: str, postfix: str) -> tuple[bool, str]:
    return forward_type.endswith(postfix), forward_type.removesuffix(postfix)


def _scan_options(forward_type: str) -> dict[str, Any]:
    """A ``forward_type``: a core, then ``_on...``, ``_nozact``, ``_noz``, ``_oact``, ``_no32``, in this order."""
    if forward_type in ("v0", "v0seq"):
        return dict(gate="act", paths="cross")
    _, core = _strip(forward_type, "_no32")
    out_act, core = _strip(core, "_oact")
    no_gate, core = _strip(core, "_noz")
    linear_gate, core = _strip(core, "_nozact")
    out_norm = "layer"
    for postfix, kind in OUT_NORMS.items():
        found, core = _strip(core, postfix)
        out_norm = kind if found else out_norm
    for name, reason in NOT_OFFERED["forward_type"].items():
        if core == name or (name.startswith("xv") and core.startswith(name)):
            raise ValueError(f"forward_type: {name} is not offered, {reason}; got {forward_type!r}")
    if core not in PATHS and core not in CROSS_SCANS:
        known = (*CROSS_SCANS, *PATHS)
        raise ValueError(
            f"forward_type: expected one of v0, v0seq, {known} and postfixes, got {forward_type!r}"
        )
    gate = "none" if no_gate else "linear" if linear_gate else "act"
    paths = PATHS.get(core, "cross")
    return dict(gate=gate, paths=paths, out_norm=out_norm, out_act=out_act, ssd=core == "m0")


def ssm_options(
    d_state: int,
    ratio: float,
    dt_rank: int | str,
    act: Any,
    conv: int,
    conv_bias: bool,
    init: str,
    forward_type: str,
) -> dict[str, Any]:
    """Their options of SS2D -> ours, without dropout and step sizes. v0 knows only the first three."""
    given: dict[str, Any] = dict(
        d_state=d_state,
        ratio=ratio,
        dt_rank=None if dt_rank == "auto" else dt_rank,
        **_scan_options(forward_type),
    )
    if forward_type in ("v0", "v0seq"):
        return dict(given, act="silu", d_conv=3, conv_bias=True, init="mamba")
    act, init = activation("act_layer", act), one_of("ssm_init", init, INITS)
    return dict(given, act=act, d_conv=conv, conv_bias=conv_bias, init=init)


def model_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """`VSSM`'s arguments -> `VMamba`'s, without that of the classifier."""
    ssm = ssm_options(
        given["ssm_d_state"], given["ssm_ratio"], given["ssm_dt_rank"], given["ssm_act_layer"].lower(),
        given["ssm_conv"], given["ssm_conv_bias"], given["ssm_init"], given["forward_type"],
    )  # fmt: skip
    return dict(
        img_size=given["imgsize"], patch_size=given["patch_size"], in_chans=given["in_chans"],
        depths=given["depths"], dims=given["dims"], **ssm, ssm_drop_rate=given["ssm_drop_rate"],
        mlp_ratio=given["mlp_ratio"], mlp_act=activation("mlp_act_layer", given["mlp_act_layer"].lower()),
        mlp_gated=given["gmlp"], mlp_drop_rate=given["mlp_drop_rate"], drop_path_rate=given["drop_path_rate"],
        norm=one_of("norm_layer", given["norm_layer"].lower(), NORMS), stem_norm=given["patch_norm"],
        stem=one_of("patchembed_version", given["patchembed_version"], STEMS), pos_embed=given["posembed"],
        downsample=one_of("downsample_version", given["downsample_version"], DOWNSAMPLES),
        device=given.get("device"), dtype=given.get("dtype"),
    )  # fmt: skip
