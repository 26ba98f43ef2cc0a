"""Outcomes as text."""

# Of a comparison: title, name, format and width of what has a ratio beside it.
_COMPARED = (
    ("steps", "median_steps", "g", 8),
    ("seconds", "median_seconds", ".0f", 9),
    ("best loss", "best_val_loss", ".5f", 11),
    ("last loss", "last_val_loss", ".5f", 11),
)


def search_table(outcome):
    """The trials of a search, those that went farthest first.

    Args:
        outcome: What `sweep` returns.
    """
    settings = list(outcome["grid"])
    heading = "".join(f"{name.replace('_', ' '):>21}" for name in settings)
    lines = [f"{outcome['optimizer']:<14}{heading}{'steps':>7}{'best loss':>11}"]
    for trial in sorted(outcome["trials"], key=lambda x: (-x["steps"], x["best_val_loss"] or 0.0)):
        values = "".join(f"{trial['settings'][name]:>21g}" for name in settings)
        loss = number(trial["best_val_loss"], ".5f")
        lines.append(f"{trial['state']:<14}{values}{trial['steps']:>7}{loss:>11}")
    return "\n".join(lines)


def comparison_table(outcome):
    """Steps and seconds to the target, best loss and last: medians, and ratios to those of Adam.

    Args:
        outcome: What `compare_optimizers` returns.
    """
    if outcome["comparison"] is None:
        return "no run of adam is finished, with which to compare"
    heading = "".join(f"{title:>{width}}{'ratio':>8}" for title, _, _, width in _COMPARED)
    lines = [
        f"medians, and ratios to adam's; target {outcome['target']:.5f}",
        f"{'':<14}{heading}",
    ]
    for optimizer, row in outcome["comparison"].items():
        line = f"{optimizer:<14}"
        for _, name, form, width in _COMPARED:
            ratio = row[f"{name.removeprefix('median_')}_ratio"]
            line += f"{number(row[name], form):>{width}}{number(ratio, '.3f'):>8}"
        lines.append(line)
    multiples = outcome["comparison"]["adam"]["earlier_steps_ratio"]
    heading = "".join(f"{multiple:>8}" for multiple in multiples)
    lines += ["", f"{'steps, as a ratio, to':<24}{heading}  times adam's best loss"]
    for optimizer, row in outcome["comparison"].items():
        ratios = "".join(f"{number(x, '.3f'):>8}" for x in row["earlier_steps_ratio"].values())
        lines.append(f"{optimizer:<24}{ratios}")
    return "\n".join(lines)


def hedges_table(outcome):
    """Hedges on the same paths: statistics, and in brackets 95 % intervals.

    Args:
        outcome: What `compare_runs` returns.
    """
    width = max(map(len, outcome["hedges"])) + 2
    titles = f"{'std':<27}{'loss':<24}{'excess loss':<25}{'skewness':>8}{'cost':>9}"
    lines = [f"{'':<{width}}{titles}"]
    for name, row in outcome["hedges"].items():
        lines.append(
            f"{name:<{width}}{interval(row['std'], '.5f'):<27}{interval(row['loss'], '.4f'):<24}"
            f"{interval(row['excess_loss'], '.4f'):<25}{row['skewness']['value']:>8.2f}"
            f"{row['cost']['value']:>9.5f}"
        )
    return "\n".join(lines)


def interval(estimate, form):
    """An estimate and in brackets its interval."""
    value, low, high = (format(estimate[name], form) for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def findings_table(outcome):
    """The paper's findings beside ours.

    Args:
        outcome: What `make_figures` returns.
    """
    rows = outcome["findings"]
    width = max((len(row["statement"]) for row in rows), default=0) + 2
    lines = [f"{'':<{width}}{'paper':>11}{'ours':>9}   holds"]
    for row in rows:
        ours, holds = number(row["ours"], ".3f"), "yes" if row["holds"] else "no"
        lines.append(f"{row['statement']:<{width}}{row['paper']:>11}{ours:>9}   {holds}")
    return "\n".join(lines)


def number(value, form):
    """A number in a format, or a dash for None."""
    return "-" if value is None else format(value, form)
