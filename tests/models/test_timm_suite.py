"""timm's own model tests, aimed at our models.

They are in timm's source distribution but not in its wheel, so the one of the installed version is fetched from
the package index; where that cannot be reached, the test says so and is skipped. timm's test module chooses its models
when it is imported, by ``timm.list_models``: a plugin, loaded before it, answers with ours instead.
"""

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import timm

ROOT = Path(__file__).resolve().parents[2]
MODELS = (
    "test_vim", "vim_tiny_patch16_224", "test_vmamba", "vmamba_tiny_s1l8", "test_local_vim", "test_local_vmamba",
    "test_efficient_vmamba", "test_plain_mamba", "test_group_mamba", "test_mobile_mamba",
    "test_spatial_mamba", "test_mila",
)  # fmt: skip
AT_LEAST = 70

PLUGIN = """
import os

import timm
import vimzoo

everything = timm.list_models
ours = os.environ["AIMED_AT"].split(",")


def among_sequences(patterns):
    "timm tests its own sequence models apart, by lists of patterns that contain this one."
    sequences = [name for name in ours if name.endswith(("_vim", "_224"))]
    return [*patterns, *sequences] if "vit_*" in patterns else patterns


def aimed(filter="", module="", pretrained=False, exclude_filters="", **options):
    # whatever module timm tests, it is ours that are meant
    names = everything(among_sequences(filter), "", pretrained, among_sequences(exclude_filters), **options)
    return [name for name in names if name.partition(".")[0] in ours]


def pytest_collection_modifyitems(items):
    "timm tells maps with channels last by their shape, which no map of as many channels as rows and columns has."
    for module in {item.module for item in items}:
        module._get_input_size = larger_if_ambiguous(module._get_input_size)


def larger_if_ambiguous(sizes):
    def sized(model=None, **options):
        channels, height, width = sizes(model=model, **options)
        info = getattr(model, "feature_info", None)
        if info and height == width == info[0]["num_chs"] * info[0]["reduction"]:
            height = width = height + 32
        return channels, height, width

    return sized


timm.list_models = aimed
"""


def source_distribution(folder: Path) -> Path:
    """timm's source tree of the installed version, or a skip with the reason."""
    wanted = f"timm=={timm.__version__}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "timm", wanted]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    archives = list(folder.glob("timm-*.tar.gz"))
    if done.returncode or not archives:
        reason = (done.stderr.strip() or "nothing was downloaded").splitlines()[-1]
        pytest.skip(f"the source distribution of {wanted} cannot be fetched: {reason}")
    with tarfile.open(archives[0]) as archive:
        archive.extractall(folder, filter="data")
    return folder / archives[0].name.removesuffix(".tar.gz")


@pytest.mark.slow
def test_timms_own_model_tests_pass(tmp_path: Path) -> None:
    source = source_distribution(tmp_path)
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "aim_at_ours.py").write_text(PLUGIN)
    environment = {
        **os.environ,
        "AIMED_AT": ",".join(MODELS),
        "GITHUB_ACTIONS": "1",  # timm then leaves out the tests that download weights
        "PYTHONPATH": os.pathsep.join([str(plugins), str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    names = " or ".join(MODELS)
    # test_model_inference compares with recordings in timm's repositories on the hub, for names of test models
    chosen = f"({names}) and (test_model_ or contract) and not test_model_inference"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "aim_at_ours",
        "-p",
        "no:cacheprovider",
        "-v",
        "--tb=short",
    ]
    done = subprocess.run(
        [*command, "tests/test_models.py", "-k", chosen],
        cwd=source, env=environment, capture_output=True, text=True, check=False, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    passed = re.findall(r"::(\w+)\[.*?\] PASSED", done.stdout)
    assert len(passed) >= AT_LEAST, done.stdout[-4000:]
    skipped = re.findall(r"::(\w+\[.*?\]) (?:SKIPPED|XFAIL)", done.stdout)
    assert not skipped, skipped
    for model in MODELS:
        assert re.search(rf"test_model_forward\[.*{model}\] PASSED", done.stdout), model
