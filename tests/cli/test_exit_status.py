"""The exit status has one meaning in every command, and docs/commands.md has the table."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vimzoo import commands
from vimzoo.commands import Exit
from vimzoo.errors import Failure, UsageError

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "commands.md").read_text()
COMMANDS = sorted(
    path.stem
    for path in (ROOT / "vimzoo").glob("*.py")
    if "__main__" in path.read_text().splitlines()[-2:][0]
)
REQUESTS = {
    "convert": ["nowhere.pth", "--model", "test_vim", "--output", "out"],
    "eval": ["nowhere"],
    "export": ["no_such_model"],
    "predict": ["nowhere.jpg"],
    "restore": ["nowhere.png", "out.png", "--model", "mambairv2_light_x2"],
}
"""For each command that takes a file or a model, one that does not exist."""


def run_main(name: str, words: list[str]) -> int:
    """The exit status of a command, from its ``main`` or from argparse."""
    try:
        return importlib.import_module(f"vimzoo.{name}").main(words)
    except SystemExit as stop:
        assert isinstance(stop.code, int)
        return stop.code


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(name, ["--no-such-option"]) == Exit.USAGE
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: .*; python -m vimzoo.\w+ --help lists the arguments\n", said), said
    assert run_main(name, ["--help"]) == Exit.OK


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_that_cannot_be_met(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_main(name, REQUESTS[name]) == Exit.USAGE
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: .*(nowhere|no_such_model).*\n", said), said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["model=no_such_model"], ["optim.lr=abc"]])
def test_training_that_cannot_begin(words: list[str], tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py"), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == Exit.USAGE and done.stderr and "Traceback" not in done.stderr, done.stderr


def test_errors_and_their_status(capsys: pytest.CaptureFixture[str]) -> None:
    def ends_with(error: BaseException) -> int:
        @commands.command
        def main(arguments: object) -> int:
            raise error

        return main([])

    assert ends_with(UsageError("no")) == ends_with(ImportError("no")) == Exit.USAGE
    assert ends_with(Failure("no")) == ends_with(OSError("disk full")) == Exit.FAILED
    assert capsys.readouterr().err == 3 * "error: no\n" + "error: disk full\n"
    with pytest.raises(ZeroDivisionError):
        ends_with(ZeroDivisionError())


def test_the_table_has_all_statuses_and_commands() -> None:
    statuses = {int(number) for number in re.findall(r"^\| (\d+) \|", DOCUMENT, re.MULTILINE)}
    assert statuses == {value for name, value in vars(Exit).items() if name.isupper()}
    assert set(COMMANDS) - {"cards"} <= set(re.findall(r"python -m vimzoo\.(\w+)", DOCUMENT))
