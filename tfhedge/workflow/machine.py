"""What numbers were measured on."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
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
        "commit": commit(),
    }


def commit():
    """The commit of this package's source, or None if it is not in a clone of its repository."""
    here = Path(__file__)

    def git(*arguments):
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # else it is the commit of something else
        return git("describe", "--always", "--dirty")
    except (OSError, subprocess.CalledProcessError):
        return None


def load():
    """The load averages of the last 1, 5 and 15 minutes."""
    return [round(x, 2) for x in os.getloadavg()]
