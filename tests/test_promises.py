"""The benchmark of promises, and the page that discusses its results."""

import json
import sys
from pathlib import Path

import promises
import pytest

ROOT = Path(__file__).parents[1]


def test_each_step_is_measured(tmp_path, monkeypatch):
    path = tmp_path / "promises.json"
    command = ["promises.py", "short cliquet", "--blocks", "1", "--steps", "2", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", command)
    promises.main()
    (run,) = json.loads(path.read_text())["runs"].values()
    assert path.with_suffix(".png").exists()
    first, second = run["rows"]
    assert {*promises.COLUMNS, "step", "kind", "gate_norms", "gradients", "growth"} == set(first)
    assert set(first) - set(second) == {"gradients", "growth"}
    assert set(first["gradients"]) == {"inlet", "scale_0", "gates_0", "outlet"}
    assert first["damping"] == 100.0
    for row in run["rows"]:
        assert row["kind"] == "taken"
        assert 0.0 < row["length"] <= 1.0
        assert row["top_weight"] == pytest.approx(1 / 64, rel=1e-3)  # one path of 64
        assert row["ratio_same"] == pytest.approx(row["same"] / row["promised_same"], rel=2e-3)
        # All paths of so small a batch are paths of M.
        assert row["curved_same"] == pytest.approx(row["curved_batch"], rel=2e-3)
        assert row["promised_same"] == pytest.approx(row["promised"], rel=2e-3)
        # Its threshold stays, whereas the mean P&L moves.
        assert row["same"] >= row["batch"] - 1e-4
        # There are no costs.
        assert row["kink"] == 0.0
    assert second["loss"] == pytest.approx(first["loss"], rel=0.5)


def test_the_page_quotes_the_kept_rows():
    runs = json.loads((ROOT / "benchmarks/results/promises.json").read_text())["runs"]
    page = " ".join((ROOT / "docs/when_steps_fail.md").read_text().split())

    def row(run, step):
        (found,) = [row for row in runs[run]["rows"] if row["step"] == step]
        return found

    call = row("call, no cost, 2 blocks, unchecked, last_action", 0)
    assert f"promises a change of {call['promised']:.2f}, and the loss is then not" in page
    assert f"change by {call['trades_linear']:.4f}" in page
    assert f"makes {100 * call['layer_share']:.0f} % of δ'Bδ" in page
    assert f"{100 * (1 - call['finite_paths']):.0f} % of the paths end without" in page
    after = row("call, no cost, 2 blocks, unchecked, last_action", 1)
    assert (call["batch"], after["loss"]) == (None, None)
    assert f"from {max(call['gate_norms']):.2f} to {max(after['gate_norms']):.1f}" in page

    checked = runs["call, no cost, 2 blocks, checked, log_action"]["rows"]
    assert [x["length"] for x in checked] == [0.5] + [1.0] * 30
    assert f"the loss falls by {-checked[0]['batch']:.2f}" in page
    assert f"the gate norms reach {max(checked[-1]['gate_norms']):.1f}" in page

    cliquet = "frictionless cliquet, 4 blocks, unchecked, last_action, first paths"
    cliquet = row(cliquet, 0)
    assert f"promises {cliquet['promised']:.3f}" in page
    assert f"{100 * cliquet['finite_paths']:.1f} % of the paths is" in page

    entropic = row("entropic call, 2 blocks, unchecked, last_action, first paths", 1)
    assert f"promises {entropic['promised']:.2f}" in page
    curved = entropic["curved_same"], entropic["curved_batch"]
    assert "is {:.4f}, on the whole batch {:.0f}".format(*curved) in page

    fixed = runs["fixed contracts, 4 blocks, parabola, log_action, from step 80"]["rows"]
    assert sum(x["length"] < 1.0 for x in fixed) == 5
    assert len(fixed) == 6
    assert [x["damping"] for x in fixed][::4] == [100.0, 10_000.0]
    missed = fixed[0]["same"] - fixed[0]["promised_same"]
    assert f"its promise by {missed:.1e}".replace("e-0", "e-") in page
    assert f"their parabola by {fixed[0]['kink']:.1e}".replace("e-0", "e-") in page
    assert all(x["trades"] == pytest.approx(x["trades_linear"], rel=0.01) for x in fixed)
