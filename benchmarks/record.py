"""What the benchmarks' results say of the machine, and how they are kept."""

import datetime
import json
import os
import platform
from pathlib import Path


def machine():
    """What the numbers are measured on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(": ")[1] for line in lines if line.startswith("model name")), "")
    return {
        "date": datetime.date.today().isoformat(),
        "processor": model or platform.processor(),
        "cores": os.cpu_count(),
        "load": load(),
        "python": platform.python_version(),
    }


def load():
    """The load averages of the last 1, 5 and 15 minutes."""
    return [round(x, 2) for x in os.getloadavg()]


def write(path, result):
    """Writes a JSON file in one piece, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".draft")
    draft.write_text(json.dumps(result, indent=2) + "\n")
    draft.replace(path)
