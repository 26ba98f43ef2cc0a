"""The benchmarks that check what they measure."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import robustness_paper

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
def test_the_demo_hedges_with_every_seed():
    subprocess.run([sys.executable, BENCHMARKS / "demo_seeds.py"], check=True)


@pytest.mark.slow
def test_the_training_step_is_the_same_in_all_rows(tmp_path):
    command = [sys.executable, BENCHMARKS / "training_step.py", "--batch", "32", "--steps", "6"]
    command += ["--rounds", "1", "--repeats", "2", "--json", tmp_path / "step.json", "--rows"]
    names = ["keras", "keras-xla", "ours", "ours-adam", "ours-dhkfac", "floor", "floor-sgemm"]
    subprocess.run([*command, *names], check=True)
    rows = {row["row"]: row for row in json.loads((tmp_path / "step.json").read_text())["rows"]}
    assert list(rows) == names
    for row in rows.values():
        assert len(row["seconds"]) == 2
        assert 0.0 < row["seconds_min"] <= row["seconds_median"] <= row["seconds_max"]
        assert 0.0 < row["memory_before_gb"] <= row["peak_memory_gb"]
        assert row["ratio_to_floor"] == row["seconds_median"] / rows["floor"]["seconds_median"]
    for name in names[:5]:
        assert rows[name]["loss"] == pytest.approx(rows["keras"]["loss"], rel=1e-5)
    for name in names[:3]:
        assert rows[name]["gradient_norm"] == pytest.approx(
            rows["keras"]["gradient_norm"], rel=1e-4
        )
    # The gradient is that of a policy that trades.
    assert rows["keras"]["gradient_norm"] > 0.1 * rows["keras"]["loss"]


@pytest.mark.slow
def test_every_variant_of_the_ablation_takes_a_step_of_its_own(tmp_path):
    command = [sys.executable, BENCHMARKS / "ablation.py", "--steps", "6"]
    command += ["--out", tmp_path / "out", "--json", tmp_path / "ablation.json"]
    subprocess.run(command, check=True)
    rows = json.loads((tmp_path / "ablation.json").read_text())["variants"]
    losses = {row["variant"]: row["last_val_loss"] for row in rows}
    assert len(losses) == 34
    del losses["no restart"]  # which so few steps do not need
    losses = sorted(losses.values())
    assert all(after > (1.0 + 1e-5) * before for before, after in itertools.pairwise(losses))


def test_faults_of_a_run_are_found():
    def faults(case, ours, adams=(), end="steps"):
        return list(
            robustness_paper.faults(case, {"dh-kfac": ours, "adam": adams}, {"dh-kfac": end})
        )

    paper, other = robustness_paper.PAPER, "T = 60"
    assert faults(paper, [0.2, 0.08]) == faults(other, [0.4, 0.2, 0.21], [0.5, 0.3, 0.3]) == []
    assert faults(paper, [0.2, 0.09]) == ["a loss of 0.0900 at the end is not below 0.085"]
    assert faults(other, [0.4, 0.2, 0.3, 0.2]) == ["a loss 50% above the lowest before"]
    assert faults(other, [0.4, 0.2], [0.5, 0.2]) == ["not below Adam at validation 2"]
    assert faults(other, [0.4], [0.5, 0.3], end="diverged") == ["ended by diverged"]
    assert faults(other, [0.4, None], [0.5, 0.3]) == [
        "ended by steps",
        "a loss inf% above the lowest before",
        "not below Adam at validation 2",
    ]


@pytest.mark.slow
def test_robustness_judges_the_losses(tmp_path):
    command = [sys.executable, BENCHMARKS / "robustness_paper.py", "--steps", "10", "--seeds", "1"]
    command += ["--paper-seeds", "1", "--out", tmp_path / "out", "--json", tmp_path / "runs.json"]
    done = subprocess.run(
        [*command, "--cases", "paper", "T = 60"], stderr=subprocess.PIPE, text=True
    )
    paper, short = json.loads((tmp_path / "runs.json").read_text())["runs"]
    assert paper["val_loss"]["dh-kfac"][-1] > 0.085  # after so few steps
    assert done.returncode == 1
    assert "paper, seed 1: a loss of" in done.stderr
    above = np.array(short["val_loss"]["dh-kfac"]) >= short["val_loss"]["adam"]
    assert ("T = 60, seed 1: not below Adam" in done.stderr) == above.any()
    assert set(short["stopped_by"].values()) == {"steps"}
