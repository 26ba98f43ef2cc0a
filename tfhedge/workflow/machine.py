"""What numbers were measured on."""

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path


def machine():
    """The machine and the versions, a JSON-ready dictionary."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(": ")[1] for line in lines if line.startswith("model name")), "")
    return {
        "date": datetime.date.today().isoformat(),
        "processor": model or platform.processor(),
        "cores": os.cpu_count(),
        "load": load(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "tfhedge")},
    }


def load():
    """The load averages of the last 1, 5 and 15 minutes."""
    return [round(x, 2) for x in os.getloadavg()]
