"""Each notebook runs from its first cell to its last, in a small setting, and shows what it draws.

The setting is the cell with the tag `parameters`, as of papermill: assignments of numbers. The
Greeks of the cliquet are read from coarser tables, too. What a notebook shows in its full setting
is kept in it, by `make notebooks`.
"""

import ast
import datetime
import io
import json
import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from tfhedge.hedging import cliquet_greeks

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"

each_notebook = pytest.mark.parametrize(
    "path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem
)

# In place of the parameters of each notebook.
SMALL = {
    "01_market_and_pricing": {"num_paths": 20_000},
    "02_hedging_problem_and_policy": {
        "num_blocks": 1,
        "batch_size": 32,
        "num_batches": 10,
        "num_test_paths": 100,
    },
    "03_dhkfac_and_adam": {
        "num_blocks": 1,
        "batch_size": 32,
        "adam_rates": (1e-3,),
        "algorithm1_rates": (1e-3,),
        "adam_steps": 20,
        "second_order_steps": 20,
        "num_validation_paths": 100,
    },
    "04_learned_hedge_and_baselines": {"num_paths": 200},
    "05_your_own_claim": {"batch_size": 64, "num_batches": 2, "num_test_paths": 100},
    "06_serving": {"num_paths": 20, "num_calls": 5},
}


def code_cells(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def run(code, namespace, filename):
    """Executes a cell, and draws the figure that it ends with, as Jupyter does."""
    *body, last = ast.parse(re.sub(r"^%.*$", "", code, flags=re.MULTILINE)).body
    if not isinstance(last, ast.Expr):
        body, last = [*body, last], None
    exec(compile(ast.Module(body, []), filename, "exec"), namespace)
    if last:
        shown = eval(compile(ast.Expression(last.value), filename, "eval"), namespace)
        if isinstance(shown, Figure):
            shown.savefig(io.BytesIO())


@each_notebook
def test_notebook_runs(path, monkeypatch):
    monkeypatch.chdir(NOTEBOOKS)
    monkeypatch.setattr(cliquet_greeks, "_NUM_CELLS", (8, 6, 8))
    small, namespace = SMALL[path.stem], {"__name__": "__main__"}
    for cell in code_cells(path):
        run("".join(cell["source"]), namespace, str(path))
        if "parameters" in cell["metadata"].get("tags", ()):
            assert small.keys() == namespace.keys() - {"__name__", "__builtins__"}
            namespace |= small


@each_notebook
def test_notebook_keeps_what_a_run_from_top_to_bottom_showed(path):
    """Each of its figures, within ten minutes, and no warning."""
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, 1 + len(cells)))
    figures = 0
    for cell in cells:
        last = "".join(cell["source"]).splitlines()[-1]
        is_figure = last == "figure" or last.endswith(".figure")
        images = ["image/png" in output.get("data", ()) for output in cell["outputs"]]
        assert sum(images) == is_figure
        assert not any(output.get("name") == "stderr" for output in cell["outputs"])
        figures += is_figure
    assert figures
    first, last = (cells[i]["metadata"]["execution"] for i in (0, -1))
    stamps = first["iopub.status.busy"], last["iopub.status.idle"]
    began, ended = map(datetime.datetime.fromisoformat, stamps)
    assert ended - began < datetime.timedelta(minutes=10)


def test_every_small_setting_is_that_of_a_notebook():
    assert SMALL.keys() == {path.stem for path in NOTEBOOKS.glob("*.ipynb")}
