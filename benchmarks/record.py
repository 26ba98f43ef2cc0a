"""How the benchmarks' results are kept, and what they say of the machine."""

import json

from tfhedge.workflow.machine import load, machine

__all__ = ["load", "machine", "write"]


def write(path, result):
    """Writes a JSON file in one piece, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".draft")
    draft.write_text(json.dumps(result, indent=2) + "\n")
    draft.replace(path)
