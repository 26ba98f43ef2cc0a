"""The README's code runs, prints what the README says it prints, and its links lead somewhere.

Blocks marked `python` run in order, in one namespace. A `text` block right after one shows what
it prints; a number may differ by one unit of its last decimal, so print as many as hold on every
machine. A block too long for a test is made small by a comment above it, unseen by the reader,

    <!-- in the tests: num_paths=700_000 -> num_paths=256; epochs=4 -> epochs=1 -->

and then its output is compared without the numbers.
"""

import contextlib
import io
import itertools
import json
import re
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import ablation
import pytest
import robustness_paper

from tfhedge.workflow.tables import comparison_table, hedges_table

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
CARD = ROOT / "saved_models/cliquet/README.md"

BLOCK = re.compile(
    r"(?:^<!-- in the tests: (?P<changes>.*?) -->\n+)?"
    r"^```python\n(?P<code>.*?)^```$"
    r"(?:\n+```text\n(?P<output>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?!\w)")
LINK = re.compile(r"\]\(<?([^)\s>]+)|(?:src|href)=\"([^\"]+)\"")


class Example(NamedTuple):
    line: int
    code: str
    output: str | None
    is_small: bool


def examples(markdown):
    for block in BLOCK.finditer(markdown):
        code = block["code"]
        for change in filter(None, (block["changes"] or "").split("; ")):
            old, new = change.split(" -> ")
            assert old in code, f"{old!r} is to be replaced, and is not in the block\n{code}"
            code = code.replace(old, new)
        line = markdown.count("\n", 0, block.start("code"))
        yield Example(line, code, block["output"], is_small=bool(block["changes"]))


def run(example, namespace, filename):
    """Executes the code and returns what it prints; tracebacks name the line in the file."""
    printed = io.StringIO()
    code = compile("\n" * example.line + example.code, filename, "exec")
    with contextlib.redirect_stdout(printed):
        exec(code, namespace)
    return printed.getvalue()


def same_text(printed, shown, with_numbers=True):
    """Whether two texts have equal words, however spaced, and numbers equal in every digit shown.

    The last decimal shown may be off by one; a number without decimals may not.
    """
    if NUMBER.sub("0", printed).split() != NUMBER.sub("0", shown).split():
        return False
    return not with_numbers or all(
        abs(Decimal(a) - Decimal(b)) <= unit_of_last_decimal(b)
        for a, b in zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=True)
    )


def unit_of_last_decimal(number):
    exponent = Decimal(number).as_tuple().exponent
    return Decimal(1).scaleb(exponent) if exponent else Decimal(0)


def relative_links(markdown):
    prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", markdown, flags=re.MULTILINE | re.DOTALL)
    for match in LINK.finditer(prose):
        target = (match[1] or match[2]).partition("#")[0]
        if target and not re.match(r"[a-z]+:", target):
            yield unquote(target)


def test_readme_runs_and_prints_what_it_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # examples may write files, and read those of the benchmarks
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    found = list(examples(README.read_text()))
    assert found, "the README has no python block"
    namespace = {"__name__": "__main__"}
    for example in found:
        printed = run(example, namespace, str(README))
        if example.output is not None:
            message = f"README.md, line {example.line}, shows\n{example.output}\nbut prints\n"
            same = same_text(printed, example.output, with_numbers=not example.is_small)
            assert same, message + printed


def test_readme_shows_the_kept_runs_of_the_demo():
    runs = json.loads((ROOT / "benchmarks/results/demo_seeds.json").read_text())["runs"]
    readme = README.read_text()
    for name, row in runs[0]["statistics"].items():
        decimals = {"mean": 5, "std": 5, "expected_shortfall": 5, "cost": 5, "loss": 4}
        numbers = [f"{row[key]:>10.{count}f}" for key, count in decimals.items()]
        assert f"{name:<30}{''.join(numbers)}\n" in readme
    deviations = [run["pnl_std"] for run in runs]
    assert f"between {min(deviations):.4f} and {max(deviations):.4f}" in " ".join(readme.split())


def kept(path):
    return json.loads((ROOT / "benchmarks/results" / path).read_text())


def test_readme_and_card_show_the_kept_comparison_and_findings():
    readme = README.read_text()
    assert hedges_table(kept("comparison.json")) in CARD.read_text()
    assert hedges_table(kept("comparison.json")) in readme
    trades, positions = (
        {row["statement"]: row for row in kept(f"{folder}/findings.json")["findings"]}
        for folder in ("figures_trades", "figures")
    )
    assert positions.keys() < trades.keys()
    for statement, row in trades.items():
        other = f"{positions[statement]['ours']:.3f}" if statement in positions else ""
        line = f"| {statement} | {row['paper']} | {row['ours']:.3f} | {other} |"
        assert line.replace("|  |", "| |") in readme


def test_the_first_screen_and_the_shipped_model_are_of_what_is_kept():
    readme = README.read_text()
    losses = {name: row["loss"]["value"] for name, row in kept("comparison.json")["hedges"].items()}
    none, alone = losses["no hedge"], losses["Heston, minimum variance"]
    options = min(loss for name, loss in losses.items() if name.startswith("delta and vega"))
    numbers = f"{none:.3f}, {alone:.4f}, {options:.4f}, **{losses['floating']:.4f}**"
    assert f"| {numbers} |" in readme
    seconds = {x["row"]: x["seconds_median"] for x in kept("training_step.json")["rows"]}
    ratios = (seconds[name] / seconds["ours"] for name in ("keras", "torch-compile"))
    assert "| **{:.1f}** and **{:.1f}** times as fast |".format(*ratios) in readme
    shipped = json.loads((CARD.parent / "1/hedge.json").read_text())["training"]
    assert shipped == kept("policies/floating/summary.json")


def test_readme_shows_the_kept_experiment():
    outcome = kept("optimizers/optimizers.json")
    readme = README.read_text()
    assert comparison_table(outcome) in readme
    row = outcome["comparison"]["dh-kfac"]
    for name in ("steps", "seconds"):
        assert f"**{row[f'{name}_ratio']:.1%}**".replace("%", " %") in readme


def test_readme_shows_the_kept_robustness_and_no_run_of_it_is_at_fault():
    runs = kept("robustness_paper.json")["runs"]
    assert robustness_paper.table(runs) in README.read_text()
    seeds = Counter(run["case"] for run in runs)
    assert seeds == {
        case: 20 if case == robustness_paper.PAPER else 3 for case in robustness_paper.CASES
    }
    for run in runs:
        assert not list(robustness_paper.faults(run["case"], run["val_loss"], run["stopped_by"]))


def test_readme_shows_the_kept_ablation_in_which_each_variant_is_another():
    variants = kept("ablation.json")["variants"]
    assert ablation.table(variants) in README.read_text()
    superseded = {"steps without decay", "trust region with the paper's decay"}
    assert {row["variant"] for row in variants} - superseded <= set(ablation.VARIANTS)
    # But for one that at first differs by rounding alone.
    early = sorted(x["history"]["val_loss"][1] for x in variants if x["variant"] != "no restart")
    assert all(after > (1.0 + 1e-5) * before for before, after in itertools.pairwise(early))


@pytest.mark.parametrize("path", [*sorted(ROOT.glob("*.md")), CARD], ids=str)
def test_relative_links_lead_somewhere(path):
    links = relative_links(path.read_text())
    missing = [link for link in links if not (path.parent / link).exists()]
    assert not missing


SMALL_README = """
```python
x = 1 / 3
print(f"x is {x:.4f}")
```

```text
x is 0.3334
```

<!-- in the tests: 1_000_000 -> 2; y = -> z = -->
```python
y = range(1_000_000)
print(len(z), "numbers")
```

```text
1000000 numbers
```

```python
raise ValueError
```
See [a](tests/no%20file.md#part), <img src="no.png">, [b](https://c.d), `[e](f)`, [g](#h).
"""


def test_examples_are_found_changed_and_run():
    first, second, third = examples(SMALL_README)
    namespace = {}
    assert run(first, namespace, "README.md") == "x is 0.3333\n"
    assert (first.output, first.is_small) == ("x is 0.3334\n", False)
    assert run(second, namespace, "README.md") == "2 numbers\n"
    assert (second.output, second.is_small) == ("1000000 numbers\n", True)
    assert namespace["z"] == range(2)
    assert third.output is None
    with pytest.raises(ValueError) as error:  # noqa: PT011
        run(third, namespace, "README.md")
    assert SMALL_README.splitlines()[error.traceback[-1].lineno] == "raise ValueError"


def test_a_change_that_changes_nothing_is_seen():
    with pytest.raises(AssertionError, match="'epochs=4' is to be replaced"):
        list(examples("<!-- in the tests: epochs=4 -> epochs=1 -->\n```python\nfit()\n```\n"))


@pytest.mark.parametrize(
    ("printed", "shown", "same"),
    [
        ("loss  0.0680\n", "loss 0.0681", True),
        ("loss 0.0680", "loss 0.0682", False),
        ("loss 0.0680", "gain 0.0680", False),
        ("-1.5e-05", "-1.6e-05", True),
        ("-1.5e-05", "-1.5e-04", False),
        ("12 paths", "13 paths", False),
        ("[0.1 0.2]", "[0.1 0.3]", True),
        ("[0.1 0.2]", "[0.1]", False),
        ("LSTM32", "LSTM33", False),
        ("nan", "0.5", False),
    ],
)
def test_texts_are_compared_digit_by_digit(printed, shown, same):
    assert same_text(printed, shown) is same


def test_relative_links_are_found():
    assert list(relative_links(SMALL_README)) == ["tests/no file.md", "no.png"]
