"""The imports of the package point one way; its files stay short, documented and public."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import tfhedge

SOURCES = Path(tfhedge.__file__).parent

# What each room may import, besides what those rooms may import themselves. A room is a module,
# or a package whose modules the table does not list.
TABLE = {
    "tfhedge.checks": [],
    "tfhedge.files": [],
    "tfhedge.serialization": [],
    "tfhedge.replicas": [],
    "tfhedge.numerics": [],
    "tfhedge.market": [],  # only its __init__: each module has a row
    "tfhedge.market.affine": ["tfhedge.numerics"],
    "tfhedge.market.fourier": ["tfhedge.checks", "tfhedge.market.affine"],
    "tfhedge.market.heston": ["tfhedge.market.fourier", "tfhedge.serialization"],
    "tfhedge.market.random_numbers": [],
    "tfhedge.market.spline": [],
    "tfhedge.market.integrated_variance": [],
    "tfhedge.market.exact": [
        "tfhedge.market.heston",
        "tfhedge.market.integrated_variance",
        "tfhedge.market.random_numbers",
        "tfhedge.market.spline",
    ],
    "tfhedge.market.quadratic_exponential": [
        "tfhedge.market.heston",
        "tfhedge.market.random_numbers",
    ],
    "tfhedge.market.simulation": [
        "tfhedge.market.exact",
        "tfhedge.market.quadratic_exponential",
    ],
    "tfhedge.market.premiums": ["tfhedge.market.fourier"],
    "tfhedge.market.implied": ["tfhedge.checks", "tfhedge.numerics"],
    "tfhedge.market.chain": ["tfhedge.checks", "tfhedge.market.implied"],
    "tfhedge.market.reading": ["tfhedge.market.chain"],
    "tfhedge.market.least_squares": [],
    "tfhedge.market.chain_prices": ["tfhedge.market.affine", "tfhedge.market.implied"],
    "tfhedge.market.coordinates": [],
    "tfhedge.market.calibration": [
        "tfhedge.market.chain",
        "tfhedge.market.coordinates",
        "tfhedge.market.chain_prices",
        "tfhedge.market.heston",
        "tfhedge.market.least_squares",
    ],
    "tfhedge.hedging": [],  # only its __init__
    "tfhedge.hedging.claims": ["tfhedge.checks", "tfhedge.serialization"],
    "tfhedge.hedging.instruments": [
        "tfhedge.market.premiums",
        "tfhedge.serialization",
        "tfhedge.checks",
    ],
    "tfhedge.hedging.controls": ["tfhedge.checks"],
    "tfhedge.hedging.streaming": ["tfhedge.checks"],
    "tfhedge.hedging.objectives": [
        "tfhedge.hedging.streaming",
        "tfhedge.checks",
        "tfhedge.serialization",
    ],
    "tfhedge.hedging.problem": [
        "tfhedge.hedging.claims",
        "tfhedge.hedging.instruments",
        "tfhedge.hedging.objectives",
        "tfhedge.market.simulation",
    ],
    "tfhedge.hedging.cliquet_price": ["tfhedge.hedging.claims", "tfhedge.market.fourier"],
    "tfhedge.hedging.cliquet_greeks": [
        "tfhedge.hedging.cliquet_price",
        "tfhedge.market.premiums",
        "tfhedge.market.spline",
    ],
    "tfhedge.hedging.strategies": ["tfhedge.hedging.instruments"],
    "tfhedge.policy": ["tfhedge.checks", "tfhedge.numerics"],
    "tfhedge.curvature": ["tfhedge.checks", "tfhedge.numerics"],
    "tfhedge.evaluation": ["tfhedge.hedging.problem", "tfhedge.policy"],
    "tfhedge.training": [
        "tfhedge.evaluation",
        "tfhedge.curvature",
        "tfhedge.files",
        "tfhedge.hedging.controls",
        "tfhedge.replicas",
    ],
    "tfhedge.serving": ["tfhedge.policy", "tfhedge.files"],
    "tfhedge": [  # its __init__, the public names
        "tfhedge.training",
        "tfhedge.serving",
        "tfhedge.hedging.cliquet_greeks",
        "tfhedge.hedging.strategies",
        "tfhedge.market.calibration",
        "tfhedge.market.reading",
    ],
    "tfhedge.workflow": ["tfhedge"],
    "tfhedge.arguments": ["tfhedge.workflow"],
    "tfhedge.cli": ["tfhedge.arguments"],
}


def module_name(path):
    parts = path.relative_to(SOURCES.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(SOURCES.rglob("*.py"))}


def longest_known(name, known):
    """`name`, or its nearest parent, among the `known` names; None for strangers."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or None


def below(room):
    """Every room that `room` may import: what its row says, and all under that."""
    return set(TABLE[room]).union(*(below(other) for other in TABLE[room]))


def imported_names(source, module, is_package=False):
    """The dotted names that a source imports anywhere in it, mapped from their local names.

    `import a.b` gives a.b, `from a import b` gives a.b, relative ones are made absolute.
    """
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.asname or alias.name, alias.name
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                ancestors = package.split(".")
                ancestors = ancestors[: len(ancestors) - node.level + 1]
                origin = ".".join([*ancestors, *filter(None, [origin])])
            for alias in node.names:
                yield alias.asname or alias.name, f"{origin}.{alias.name}"


def own_imports(source, module, is_package=False):
    """The modules of this package that a source imports."""
    known = MODULES.keys() | TABLE.keys()
    names = (name for _, name in imported_names(source, module, is_package))
    return {longest_known(name, known) for name in names} - {None, module}


def wrong_arrows(source, module, is_package=False):
    room = longest_known(module, TABLE)
    allowed = below(room) | {room}
    targets = own_imports(source, module, is_package)
    return sorted(name for name in targets if longest_known(name, TABLE) not in allowed)


def dotted(node):
    """`a.b.c` for the syntax of just that, an empty string for any other expression."""
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return before and f"{before}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def private_names(source, module):
    """The names that a source takes from where other packages keep what may change any day."""
    imports = list(imported_names(source, module))
    used = {name for _, name in imports}
    local = {first: first for first in (name.partition(".")[0] for name, _ in imports)}
    local.update(imports)
    for node in ast.walk(ast.parse(source)):
        first, _, rest = dotted(node).partition(".")
        if first in local:
            used.add(f"{local[first]}.{rest}")
    return sorted(name for name in used if not name.startswith("tfhedge") and is_private(name))


def is_private(name):
    internals = (
        "keras.src.",
        "tf_keras.src.",
        "tensorflow.python.",
        "tensorflow_probability.python.",
    )
    underscored = any(part.startswith("_") and part[-2:] != "__" for part in name.split("."))
    return underscored or f"{name}.".startswith(internals)


@pytest.fixture(params=MODULES)
def module(request):
    return request.param


def test_imports_point_one_way(module):
    path = MODULES[module]
    wrong = wrong_arrows(path.read_text(), module, is_package=path.name == "__init__.py")
    assert not wrong, f"{module} imports {wrong}, which its row in TABLE does not allow"


def test_imports_run_in_no_circle():
    graph = {
        module: own_imports(path.read_text(), module, path.name == "__init__.py")
        for module, path in MODULES.items()
    }
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError and names the circle


@pytest.mark.parametrize(
    ("module", "source", "target"),
    [
        ("tfhedge.numerics", "import tfhedge.checks", "tfhedge.checks"),
        ("tfhedge.market.heston", "import tfhedge as th", "tfhedge"),
        ("tfhedge.market.heston", "from . import simulation", "tfhedge.market.simulation"),
        ("tfhedge.market.fourier", "from .heston import Heston", "tfhedge.market.heston"),
        ("tfhedge.market.unlisted", "from tfhedge import checks", "tfhedge.checks"),
        ("tfhedge.hedging.claims", "from ..training.hedger import A", "tfhedge.training"),
        ("tfhedge.hedging.objectives", "from . import claims as c", "tfhedge.hedging.claims"),
        ("tfhedge.curvature.dhkfac", "def f():\n import tfhedge.market", "tfhedge.market"),
        ("tfhedge.policy.rollout", "if A:\n from tfhedge.training import B", "tfhedge.training"),
        ("tfhedge.serving.export", "from tfhedge.evaluation import A", "tfhedge.evaluation"),
        ("tfhedge.training.hedger", "from tfhedge.cli import main", "tfhedge.cli"),
    ],
)
def test_a_wrong_import_is_seen(module, source, target):
    assert [longest_known(name, TABLE) for name in wrong_arrows(source, module)] == [target]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("tfhedge.market.heston", "import numpy, os.path\nfrom tfhedge import checks"),
        ("tfhedge.hedging.problem", "from tfhedge.market.heston import Heston"),
        ("tfhedge.policy.rollout", "from .cell import Cell\nfrom .. import numerics"),
        ("tfhedge.cli", "from tfhedge import __version__\nfrom tfhedge.serving import export"),
    ],
)
def test_a_right_import_is_not(module, source):
    assert wrong_arrows(source, module) == []


def test_no_private_names_of_others(module):
    assert private_names(MODULES[module].read_text(), module) == []


@pytest.mark.parametrize(
    "source",
    [
        "from keras.src import backend",
        "import tensorflow.python.ops as ops",
        "from scipy._lib import ccallback",
        "def f():\n    from numpy import _core",
        "import keras\nkeras.src.backend.standardize_dtype(x)",
        "import keras.ops\nkeras.src.backend.standardize_dtype(x)",
        "import tensorflow as tf\ntf.nest._sorted(x)",
    ],
)
def test_a_private_name_is_seen(source):
    assert private_names(source, "tfhedge.numerics")


def test_a_public_or_own_name_is_not():
    source = "import keras\nself._src.x\nkeras.ops.exp(self._x)._y\nkeras.__version__"
    assert private_names(source, "tfhedge.numerics") == []


def test_files_are_short_and_documented(module):
    source = MODULES[module].read_text()
    assert len(source.splitlines()) < 400
    assert ast.get_docstring(ast.parse(source)), f"{module} has no docstring"


def test_public_names_are_those_that_type_checkers_see():
    source = MODULES["tfhedge"].read_text()
    seen = {
        local: name
        for local, name in imported_names(source, "tfhedge", is_package=True)
        if name.startswith("tfhedge.")
    }
    assert seen == {name: f"{home}.{name}" for name, home in tfhedge._HOMES.items()}


@pytest.mark.parametrize("name", tfhedge.__all__)
def test_public_names_are_there(name):
    assert getattr(tfhedge, name) is not None
    assert name in dir(tfhedge)


def test_unknown_names_raise():
    with pytest.raises(AttributeError, match="module 'tfhedge' has no attribute 'nonsense'"):
        tfhedge.nonsense  # noqa: B018


def test_the_command_line_starts_without_tensorflow():
    code = "import sys, tfhedge.cli; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
