"""Facts about MambaIR's published models: sizes, scores, recipes and addresses of weights."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..facts import SHIPPED_TAG, RestorationFacts, Scores

HUB = "cguoh/MambaIR"
_SOURCE: dict[str, Any] = dict(origin="https://github.com/csguoh/MambaIR", hub_id=HUB, uniform=True)
_V1_PAPER: dict[str, Any] = dict(paper="2402.15648", **_SOURCE)  # MambaIR, ECCV 2024
_V2_PAPER: dict[str, Any] = dict(paper="2411.15269", **_SOURCE)  # MambaIRv2, CVPR 2025

_SHIPPED: dict[str, Any] = dict(shipped=Path(__file__).parent, **_V1_PAPER)
_OURS = (
    "they ship with this package, learnt from ten photographs of scikit-image and scikit-learn, of which flower by "
    "vultilion and china by danielbuechele are CC BY 2.0 and the others free of restrictions"
)

_SETS = ("Set5", "Set14", "B100", "Urban100", "Manga109")
_NOISY = ("CBSD68", "Kodak24", "McMaster", "Urban100")
_CLASSIC: dict[str, Any] = dict(embed_dim=180, depths=(6,) * 6, d_state=16)
_LIGHT: dict[str, Any] = dict(
    embed_dim=60, depths=(6,) * 4, d_state=10, ratio=1.2, upsampler="pixelshuffledirect"
)
_MINI: dict[str, Any] = dict(embed_dim=32, depths=(2, 2), d_state=1, ratio=1.0, cab="conv")
_V2: dict[str, Any] = dict(d_state=16, rank=64, num_tokens=128)
_V2_BASE: dict[str, Any] = dict(embed_dim=174, depths=(6,) * 6, num_heads=6, **_V2)
_V2_SIZES: dict[str, dict[str, Any]] = {
    "small": dict(embed_dim=132, depths=(4,) * 6, num_heads=4, **_V2),
    "base": _V2_BASE,
    "large": dict(embed_dim=174, depths=(6,) * 9, num_heads=6, **_V2),
}
_V2_LIGHT: dict[str, Any] = dict(
    embed_dim=48, depths=(5,) * 4, num_heads=4, d_state=8, ratio=1.0, rank=32, num_tokens=64, gated=True,
    upsampler="pixelshuffledirect",
)  # fmt: skip


def _sr(text: str) -> Scores:
    """``38.57/.9627 ...`` on the five benchmark sets."""
    pairs = (pair.split("/") for pair in text.split())
    return {name: (float(psnr), float(ssim)) for name, (psnr, ssim) in zip(_SETS, pairs, strict=True)}


def _dn(*values: float) -> Scores:
    return {name: (value, None) for name, value in zip(_NOISY, values, strict=True)}


def _car(classic5: tuple[float, float], live1: tuple[float, float]) -> Scores:
    return {"Classic5": classic5, "LIVE1": live1}


_V1_SR = {
    2: (20_421_863, "38.57/.9627 34.67/.9261 32.58/.9048 34.15/.9446 40.28/.9806"),
    3: (20_606_503, "35.08/.9323 30.99/.8536 29.51/.8157 29.93/.8841 35.43/.9546"),
    4: (20_569_575, "33.03/.9046 29.20/.7961 27.98/.7503 27.68/.8287 32.32/.9272"),
}
_V1_SR_ENSEMBLE = {
    2: "38.60/.9628 34.69/.9260 32.60/.9048 34.17/.9443 40.33/.9806",
    3: "35.13/.9326 31.06/.8541 29.53/.8162 29.98/.8838 35.55/.9549",
    4: "31.13/.9054 29.25/.7971 28.01/.7510 27.80/.8303 32.48/.9281",
}
_GMACS = {(1, 2): 334.2, (1, 3): 148.5, (1, 4): 84.6, (2, 2): 286.3, (2, 3): 126.7, (2, 4): 75.6}
"""Of the light models, by version and scale; earlier figures of the authors left out the scan, by their own account."""
_V1_LIGHT = {
    2: (905_016, "38.13/.9610 33.95/.9208 32.31/.9013 32.85/.9349 39.20/.9782"),
    3: (913_131, "34.63/.9288 30.54/.8459 29.23/.8084 28.70/.8631 34.12/.9479"),
    4: (924_492, "32.42/.8977 28.74/.7847 27.68/.7400 26.52/.7983 30.94/.9135"),
}
_V2_LIGHT_SR = {
    2: (774_092, "38.26/.9615 34.09/.9221 32.36/.9019 33.26/.9378 39.35/.9785"),
    3: (780_587, "34.71/.9298 30.68/.8483 29.26/.8098 29.01/.8689 34.41/.9497"),
    4: (789_680, "32.51/.8992 28.84/.7878 27.75/.7426 26.82/.8079 31.24/.9182"),
}
_V2_SR = {
    ("small", 2): (9_621_935, "38.53/.9627 34.62/.9256 32.59/.9048 34.24/.9454 40.27/.9808"),
    ("small", 3): (9_806_575, "35.09/.9326 31.07/.8547 29.51/.8157 30.08/.8871 35.44/.9549"),
    ("small", 4): (9_769_647, "32.99/.9037 29.23/.7965 27.97/.7502 27.73/.8307 32.33/.9276"),
    ("base", 2): (22_903_001, "38.65/.9631 34.89/.9275 32.62/.9053 34.49/.9468 40.42/.9810"),
    ("base", 3): (23_087_641, "35.18/.9334 31.12/.8557 29.55/.8169 30.28/.8905 35.61/.9556"),
    ("base", 4): (23_050_713, "33.14/.9057 29.23/.7975 28.00/.7511 27.89/.8344 32.57/.9295"),
    ("large", 2): (34_090_523, "38.65/.9632 34.93/.9276 32.62/.9053 34.60/.9475 40.55/.9807"),
    ("large", 3): (34_275_163, "35.16/.9334 31.18/.8564 29.57/.8175 30.34/.8912 35.72/.9561"),
    ("large", 4): (34_238_235, "33.19/.9062 29.29/.7982 28.01/.7521 28.07/.8383 32.66/.9304"),
}


def _upscaler(name: str, version: int, args: dict[str, Any], counted: tuple[int, str], file: str = "", recipe: str = "",
              **more: Any) -> RestorationFacts:  # fmt: skip
    params, scores = counted
    return RestorationFacts(
        name, f"super-resolution x{args['scale']}", args=args, params=params, scores={"df2k": _sr(scores)},
        files={"df2k": file} if file else {}, recipes={"df2k": f"experiment={recipe or name}"},
        **(_V1_PAPER if version == 1 else _V2_PAPER), **more,
    )  # fmt: skip


def _gathered() -> Iterator[RestorationFacts]:
    for scale, counted in _V1_SR.items():
        args = dict(_CLASSIC, scale=scale, upsampler="pixelshuffle")
        file, ensemble = "SR_MambaIR_x2.pth" if scale == 2 else "", {"df2k": _sr(_V1_SR_ENSEMBLE[scale])}
        note = (
            "31.13 dB in eight positions on Set5 is as printed, below the plain 33.03" if scale == 4 else ""
        )
        yield _upscaler(f"mambair_sr_x{scale}", 1, args, counted, file, ensemble=ensemble, note=note)
    note = "the authors' table lists the scores of the larger network of March 2024 beside these weights"
    for scale, counted in _V1_LIGHT.items():
        args, gmacs = dict(_LIGHT, scale=scale), _GMACS[1, scale]
        yield _upscaler(f"mambair_light_x{scale}", 1, args, counted, note=note, gmacs=gmacs)
    for (size, scale), counted in _V2_SR.items():
        args, name = (
            dict(_V2_SIZES[size], scale=scale, upsampler="pixelshuffle"),
            f"mambairv2_sr_{size}_x{scale}",
        )
        file = f"mambairv2_classicSR_{size.capitalize()}_x{scale}.pth"
        recipe = f"mambairv2_sr_x{scale} model.model_name={name}"
        yield _upscaler(name, 2, args, counted, file, recipe)
    for scale, counted in _V2_LIGHT_SR.items():
        args, file = dict(_V2_LIGHT, scale=scale), f"mambairv2_lightSR_x{scale}.pth"
        yield _upscaler(f"mambairv2_light_x{scale}", 2, args, counted, file, gmacs=_GMACS[2, scale])
    yield from _SAME_SIZE


def _same_size_recipes(version: str, kind: str, first: int, *others: int) -> dict[str, str]:
    """The first level is learnt from scratch, the others from it by the recipe of the first of them."""
    tag, key = ("sigma", "sigma") if kind == "dn" else ("q", "quality")
    later = f"experiment={version}_{kind}_{others[0]}"
    found = {f"{tag}{first}": f"experiment={version}_{kind}_{first}", f"{tag}{others[0]}": later}
    return found | {f"{tag}{level}": f"{later} data.{key}={level}" for level in others[1:]}


_SAME_SIZE = (
    RestorationFacts(
        "mambair_realsr_x4", "super-resolution x4 of real photographs",
        args=dict(_CLASSIC, scale=4, upsampler="pixelshuffle"), params=20_569_575, files={"real": "MambaIR-real.pth"},
        note="the classic x4 network; no scores are published", **_V1_PAPER,
    ),
    RestorationFacts(
        "mambair_dn", "colour denoising", args=dict(_CLASSIC, ratio=1.2, scale=1), params=15_777_507, **_V1_PAPER,
        scores={
            "sigma15": _dn(34.43, 35.34, 35.62, 35.17), "sigma25": _dn(31.80, 32.91, 33.35, 32.99),
            "sigma50": _dn(28.61, 29.85, 30.31, 30.07),
        },
        ensemble={
            "sigma15": _dn(34.44, 35.35, 35.63, 35.17), "sigma25": _dn(31.82, 32.92, 33.36, 32.99),
            "sigma50": _dn(28.64, 29.87, 30.32, 30.06),
        },
        files={f"sigma{level}": f"ColorDN_MambaIR_level{level}.pth" for level in (15, 25, 50)},
        recipes=_same_size_recipes("mambair", "dn", 15, 25, 50),
        input_size=(3, 128, 128),
    ),
    RestorationFacts(
        "mambair_car", "JPEG artefact removal, grey", **_V1_PAPER,
        args=dict(_CLASSIC, in_chans=1, ratio=1.2, scale=1), params=15_771_025,
        scores={
            "q10": _car((30.27, 0.8256), (29.88, 0.8301)), "q30": _car((33.74, 0.8965), (33.72, 0.9179)),
            "q40": _car((34.53, 0.9084), (34.70, 0.9320)),
        },
        recipes=_same_size_recipes("mambair", "car", 40, 10, 30),
        input_size=(1, 126, 126),
    ),
    RestorationFacts(
        "mambair_realdn_unet", "denoising of real photographs", **{**_V1_PAPER, "uniform": False},
        args=dict(embed_dim=48, ratio=1.5), params=26_779_480,
        scores={"sidd": {"SIDD": (39.89, 0.960), "DND": (40.04, 0.956)}}, files={"sidd": "RealDN_MambaIR.pth"},
        recipes={"sidd": "experiment=mambair_realdn"},
        input_size=(3, 128, 128), note="heights and widths are multiples of 8",
    ),
    RestorationFacts(
        "mambairv2_dn", "colour denoising", args=dict(_V2_BASE, scale=1), params=22_657_971, **_V2_PAPER,
        scores={"sigma15": _dn(34.48, 35.43, 35.73, 35.42)}, files={"sigma15": "mambairv2_ColorDN_15.pth"},
        recipes=_same_size_recipes("mambairv2", "dn", 15, 25, 50),
        input_size=(3, 128, 128), note="no weights are published for sigma 25 and 50",
    ),
    RestorationFacts(
        "mambairv2_car", "JPEG artefact removal, grey", **_V2_PAPER,
        args=dict(_V2_BASE, in_chans=1, scale=1), params=22_651_705,
        scores={
            "q10": _car((30.37, 0.8269), (29.91, 0.8301)), "q30": _car((33.81, 0.8970), (33.73, 0.9179)),
            "q40": _car((34.64, 0.9093), (34.73, 0.9323)),
        },
        files={f"q{quality}": f"mambairv2_jpeg_q{quality}.pth" for quality in (10, 30, 40)},
        recipes=_same_size_recipes("mambairv2", "car", 40, 10, 30), input_size=(1, 126, 126),
    ),
    RestorationFacts(
        "mambair_mini_dn", "colour denoising", args=dict(_MINI, scale=1), params=72_431,
        recipes={SHIPPED_TAG: "experiment=photos_denoise"}, larger="mambair_dn.sigma25",
        note="our weights, for white noise of any deviation up to 50; " + _OURS, **_SHIPPED,
    ),
    RestorationFacts(
        "mambair_mini_x2", "super-resolution x2", params=75_032,
        args=dict(_MINI, scale=2, upsampler="pixelshuffledirect"),
        recipes={SHIPPED_TAG: "experiment=photos_sr_x2"}, larger="mambairv2_light_x2",
        note="our weights; " + _OURS, **_SHIPPED,
    ),
    RestorationFacts(
        "test_mambair", "super-resolution x2",
        args=dict(_LIGHT, embed_dim=32, depths=(1, 1), d_state=4, scale=2), params=49_598, input_size=(3, 32, 32),
        recipes={SHIPPED_TAG: "experiment=photos_sr_x2 model=restoration model.model_name=test_mambair run.epochs=2"},
        larger="mambair_mini_x2", note="for tests; our weights; " + _OURS, **_SHIPPED,
    ),
)  # fmt: skip

MAMBAIR_FACTS: dict[str, RestorationFacts] = {facts.name: facts for facts in _gathered()}
"""By registered name. Scores are the authors' own: super-resolution and JPEG on luma, denoising on RGB."""
