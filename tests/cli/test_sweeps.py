"""Several runs from one command: a grid, a search that goes on, a cluster's launcher."""

import json
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

TRAIN = Path(__file__).resolve().parents[2] / "train.py"
QUICK = [
    "model=timm", "model.model_name=test_vit", "run.epochs=1", "run.limit_batches=2", "data.batch_size=16",
    "run.device=cpu",
]  # fmt: skip
pytestmark = pytest.mark.slow


def run(folder: Path, *words: str) -> str:
    """The command's output; it must succeed."""
    call = [sys.executable, str(TRAIN), "-m", *QUICK, *words]
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return done.stdout


def results(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("multirun/*/*/*/metrics.json"))]


def test_a_grid_makes_one_run_per_value(tmp_path):
    run(tmp_path, "run.seed=3,4")
    assert [result["config"]["run"]["seed"] for result in results(tmp_path)] == [3, 4]


def test_a_grid_goes_on_after_a_run_that_cannot_be(tmp_path):
    """It is listed with the reason, and the exit status says so."""
    words = ["model.model_name=test_vit,no_such_model,test_resnet", "optim.lr=1e-3"]
    call = [sys.executable, str(TRAIN), "-m", *QUICK, *words]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert [result["config"]["model"]["model_name"] for result in results(tmp_path)] == [
        "test_vit",
        "test_resnet",
    ]
    assert done.returncode == 1 and "Traceback" not in done.stderr
    summary = done.stderr[done.stderr.index("runs that failed: 1") :].splitlines()
    assert summary[1].startswith("  1  ") and "model.model_name=no_such_model" in summary[1]
    assert "model.model_name=no_such_model: no such model" in summary[2]


def test_a_search_goes_on_where_it_stopped(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    words = ["sweep=optuna", "hydra.sweeper.n_trials=2"]
    run(tmp_path, *words)
    run(tmp_path, *words)
    rates = [result["config"]["optim"]["lr"] for result in results(tmp_path)]
    assert len(set(rates)) == 4 and all(3e-4 <= rate <= 3e-2 for rate in rates)
    scores = [result["best_val_top1"] for result in results(tmp_path)]
    with sqlite3.connect(tmp_path / "study.db") as study:
        kept = [value for (value,) in study.execute("select value from trial_values")]
    assert sorted(kept) == pytest.approx(sorted(scores))
    best = max((tmp_path / "multirun").glob("*/*/optimization_results.yaml"))
    assert yaml.safe_load(best.read_text())["best_value"] == pytest.approx(max(scores))


def test_a_search_goes_on_after_a_loss_that_is_not_finite(tmp_path):
    """Such a trial is the worst of all."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    trials = ["sweep=optuna", "hydra.sweeper.n_trials=5", "hydra.sweeper.sampler.seed=0"]
    run(tmp_path, *trials, "optim.lr=choice(1e-3,1e30)", "sched.warmup_epochs=0")
    finished = [result["config"]["optim"]["lr"] for result in results(tmp_path)]
    assert set(finished) == {1e-3} and len(finished) < 5
    best = max((tmp_path / "multirun").glob("*/*/optimization_results.yaml"))
    assert yaml.safe_load(best.read_text())["best_params"]["optim.lr"] == 1e-3
    with sqlite3.connect(tmp_path / "study.db") as study:
        assert study.execute("select count(*) from trials where state = 'COMPLETE'").fetchone() == (5,)


@pytest.mark.parametrize(
    ("schema", "advice"),
    [("v1.3.0.a", "optuna storage upgrade --storage sqlite:///study.db"), ("v9.9.9", "")],
)
def test_a_study_of_another_optuna(tmp_path, schema, advice):
    optuna = pytest.importorskip("optuna")
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    optuna.create_study(storage=f"sqlite:///{tmp_path / 'study.db'}", study_name="vimzoo")
    with sqlite3.connect(tmp_path / "study.db") as study:
        study.execute("update alembic_version set version_num = ?", (schema,))
        study.execute("update version_info set schema_version = 9")
    call = [sys.executable, str(TRAIN), "-m", "sweep=optuna"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert done.returncode == 2 and re.fullmatch(r"error: hydra\.sweeper\.storage=.*\n", done.stderr)
    assert advice in done.stderr and done.stderr.endswith(
        "new study: hydra.sweeper.storage=sqlite:///new.db\n"
    )


def test_the_clusters_launcher_runs_the_jobs(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    run(tmp_path, "hydra/launcher=submitit_local", "run.seed=3,4", "hydra.launcher.timeout_min=5")
    assert sorted(result["config"]["run"]["seed"] for result in results(tmp_path)) == [3, 4]


def test_the_clusters_tasks_train_one_model(tmp_path):
    """Two tasks of one job find each other and share the batches."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    run(
        tmp_path,
        "hydra/launcher=submitit_local",
        "hydra.launcher.tasks_per_node=2",
        "hydra.launcher.timeout_min=5",
    )
    (folder,) = [path.parent for path in tmp_path.glob("multirun/*/*/*/metrics.json")]
    assert json.loads((folder / "about.json").read_text())["machine"]["processes"] == 2
