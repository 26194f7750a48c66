"""What several processes agree on before they work, and what they say when one does not come."""

import contextlib
import io
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import multiprocessing, nn
from torch.distributed import HashStore
from torch.utils.data import TensorDataset

from vimzoo.data import bundled_digits
from vimzoo.data.images.fingerprint import fingerprint
from vimzoo.engine.loop import evaluate
from vimzoo.engine.processes import watch
from vimzoo.engine.processes.agree import check_data, check_settings
from vimzoo.engine.processes.parallel import ProcessLost, World, joined, shard, together
from vimzoo.engine.processes.watch import roll_call
from vimzoo.errors import UsageError

SETTINGS = {"run": {"seed": 0, "amp": "none"}, "data": {"root": "a", "img_size": 16}}


class Counted:
    """Counts images; a task's scores in small."""

    def __init__(self) -> None:
        self.images, self.total = 0, 0.0

    def add(self, output, target) -> None:
        self.images, self.total = self.images + len(output), self.total + output.sum().item()

    def sums(self):
        return {"images": self.images, "total": self.total}

    def summary(self):
        return {"images": self.images, "total": self.total}


def refused(check, *arguments) -> str:
    """The error's text."""
    with pytest.raises(UsageError) as raised:
        check(*arguments)
    return str(raised.value)


def evaluated(world: World) -> dict[str, dict[str, float]]:
    """Scores of a sharded model whose images are spread unevenly, as process 0 has no batch, one or both of them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Linear(4, 2))
    images, found = torch.randn(5, 3, 2, 2), {}
    expected = Counted()
    expected.add(model(images), images)
    shard(model)
    for name, mine in (("none", images[:0]), ("fewer", images[:1]), ("more", images[:4])):
        part = mine if world.main else images[len(mine) :]
        scores = Counted()
        loader = [(batch, batch) for batch in part.split(2) if len(batch)]
        found[name] = evaluate(model, loader, scores, world=world)
    with torch.inference_mode(), together(model, world):
        if not world.main:
            model(images)
    return found | {"whole": expected.summary()}


def both(rank: int, folder: Path) -> None:
    """What each of two processes does."""
    watch.EVERY, watch.PATIENCE = 0.05, 0.2
    said = {}
    with joined(rank, 2, rank, f"file://{folder}/meet") as world:
        data = bundled_digits()
        check_settings(world, SETTINGS)
        check_settings(world, {**SETTINGS, "data": {"root": str(rank), "img_size": 16}})
        check_data(world, data)
        said["settings"] = refused(check_settings, world, {**SETTINGS, "run": {"seed": rank, "amp": "none"}})
        said["data"] = refused(check_data, world, data if world.main else retouched(data))
        said["classes"] = refused(check_data, world, data if world.main else replace(data, classes=("cat",)))
        said["decided"] = refused(world.first, lambda: fail("only the first process was asked"))
        said["sent"] = world.first(lambda: {"rank": rank})
        said["scores"] = evaluated(world)
        world.place.words = f"reading the batch of process {rank}"
        with contextlib.redirect_stderr(io.StringIO()) as told:
            if rank:
                time.sleep(1.5)
            world.wait()
        said["waited"] = told.getvalue()
    try:
        with joined(rank, 2, rank, f"file://{folder}/again", 0.02) as world:
            if rank:
                time.sleep(3)
            world.wait()
    except ProcessLost as error:
        said["lost"] = str(error)
    (folder / f"{rank}.json").write_text(json.dumps(said))


def retouched(data):
    """The same data, but for the last of the validation images."""
    images, labels = (tensor.clone() for tensor in data.val.tensors)
    images[-1] += 1
    return replace(data, val=TensorDataset(images, labels))


def fail(reason: str):
    raise UsageError(reason)


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What both processes found, by rank."""
    folder = tmp_path_factory.mktemp("both")
    multiprocessing.start_processes(both, (folder,), nprocs=2, start_method="spawn")
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_other_settings_are_refused(said: Any) -> None:
    assert {part["settings"] for part in said} == {
        "run.seed: process 0 has 0, process 1 has 1; give all processes the same command"
    }


def test_other_data_are_refused(said: Any) -> None:
    for part in said:
        assert part["data"].startswith("contents of validation images: process 0 has ")
        assert part["classes"].startswith(
            "classes: process 0 has 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, process 1 has cat;"
        )


def test_the_first_process_decides(said: Any) -> None:
    assert all(part["decided"] == "only the first process was asked" for part in said)
    assert all(part["sent"] == {"rank": 0} for part in said)


@pytest.mark.parametrize("kind", ["none", "fewer", "more"])
def test_sharded_models_are_evaluated_on_uneven_shares(kind: str, said: Any) -> None:
    for part in said:
        assert part["scores"][kind]["images"] == 5
        assert part["scores"][kind]["total"] == pytest.approx(part["scores"]["whole"]["total"], abs=1e-5)


def test_a_process_that_waits_says_for_whom(said: Any) -> None:
    assert "process 1 on " in said[0]["waited"] and "is reading the batch of process 1" in said[0]["waited"]
    assert not said[1]["waited"]


def test_a_process_that_does_not_come_in_time_is_named(said: Any) -> None:
    lost = said[0]["lost"]
    assert lost.startswith(
        "process 0, starting: the other processes did not come within run.timeout=0.02 minutes"
    )
    assert "process 1 on " in lost


def test_fingerprints_tell_copies_apart(tmp_path: Path) -> None:
    data = bundled_digits()
    assert fingerprint(data) == fingerprint(bundled_digits())
    assert fingerprint(data) != fingerprint(bundled_digits(test_fraction=0.1))


def test_a_process_that_has_not_begun_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watch, "SAY_SO", 0.1)
    store = HashStore()
    for rank in (1, 3):
        with pytest.raises(RuntimeError, match=r"processes 0, 2(, 3)? of 4"):
            roll_call(store, rank, 4, 0.02)
    assert not capsys.readouterr().err  # process 0 tells
    with pytest.raises(RuntimeError, match="process 2 of 4 did not begin within 0 s"):
        roll_call(store, 0, 4, 0.35)
    assert "waiting: process 2 of 4 did not begin within 0 s\n" in capsys.readouterr().err
    roll_call(store, 2, 4, 0.35)
