"""Arrows point one way: command line → plan → measure → store → charts → page, and everything → optimizers."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

# From top to bottom: a module imports from its own layer and the layers below, never from above.
LAYERS = [
    {"__main__"},
    {"cli"},
    {"compare", "run", "hyper_map"},
    {"progress", "report"},
    {"page", "plan"},
    {"verdict", "page_scores"},
    {"charts"},
    {"loss_time", "network_plane", "sweep_time"},
    {
        "verify",
        "loss_parity",
        "step_time",
        "functions_race",
        "nulls",
        "sweep_contenders",
        "networks_race",
        "network_nulls",
        "own_target",
        "test_step_benchmarks",
        "tables",
    },
    {"judge"},
    {"descents", "parity", "parity_lbfgs", "subjects", "timed"},
    {"orthogonal", "runner"},
    {"reference"},
    {"workload", "in_training", "stream", "sweep", "stack_speed", "timing", "loss_memory", "score", "starts"},
    {"sweeps"},
    {"oracle_lbfgs", "oracle_matrices"},
    {"own"},
    {"contenders", "deviation", "environment", "noise", "options", "oracle", "pinning", "statistics"},
    {"losses"},
    {"ulp"},
    {"journal", "folder"},
    {"problems"},
    {"budgets", "cell", "errors"},
]


def imported(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file, relative imports spelled out."""
    package = [*path.relative_to(ROOT).parent.parts]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def room(path: Path) -> str:
    """The module or sub-package of bench that a file belongs to."""
    return path.relative_to(ROOT / "bench").with_suffix("").parts[0]


BENCH = [path for path in sorted((ROOT / "bench").rglob("*.py")) if path != ROOT / "bench" / "__init__.py"]
OPTIMIZERS = sorted((ROOT / "optimizers").rglob("*.py"))


@pytest.mark.parametrize("path", OPTIMIZERS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_library_knows_nothing_of_the_bench(path):
    assert not {name for name in imported(path) if name.split(".")[0] in ("bench", "tests")}


@pytest.mark.parametrize("path", BENCH, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_bench_imports_downwards(path):
    layer_of = {name: number for number, names in enumerate(LAYERS) for name in names}
    mine = room(path)
    assert mine in layer_of, f"say in LAYERS where {mine} belongs"
    rooms = {name.split(".")[1] for name in imported(path) if name.startswith("bench.")} & layer_of.keys()
    assert not {other for other in rooms if layer_of[other] < layer_of[mine]}


@pytest.mark.parametrize("path", BENCH + OPTIMIZERS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_imports_the_tests(path):
    assert not {name for name in imported(path) if name.split(".")[0] == "tests"}


def test_the_parser_sees_every_form_of_import():
    source = ROOT / "bench" / "charts" / "probe.py"
    forms = {
        "import bench.plan": "bench.plan",
        "from bench import plan": "bench.plan",
        "from .. import plan": "bench.plan",
        "from ..plan import make": "bench.plan",
        "def f():\n    from bench.plan import make": "bench.plan",
    }

    class Probe(type(source)):
        def read_text(self, encoding=None):
            return self.text

    for text, module in forms.items():
        probe = Probe(source)
        probe.text = text
        assert module in imported(probe)
