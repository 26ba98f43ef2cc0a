"""How the benchmarks' results are kept, and what they say of the machine."""

from tfhedge.files import write_json
from tfhedge.workflow.machine import load, machine

__all__ = ["load", "machine", "write"]


def write(path, result):
    """Writes a JSON file, if need be in a new folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, result)
