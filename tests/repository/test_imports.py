"""Ray stays at the edge, and imports run one way."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "raylens"
VERBS = {
    "train",
    "pretrain",
    "finetune",
    "tune",
    "benchmark",
    "evaluate",
    "predict",
    "report",
    "pages",
    "explain",
    "export",
    "cli",
}
LAYERS = [
    {"errors", "storage", "records", "space", "find", "config", "grid", "seeds"},
    {
        "augment",
        "pipelines",
        "losses",
        "priors",
        "ensemble",
        "ema",
        "optim",
        "loop",
        "metrics",
        "tables",
        "health",
        "progress",
        "representation",
        "reconstruction",
        "saliency",
        "pictures",
        "checkpoint",
    }
    | {"models", "tasks", "methods", "validators"},
    {"data", "cluster", "predictor", "standalone", "card", "measure"},
    VERBS,
]
ALLOWED = {
    "raylens/find.py": {
        "methods",
        "tasks",
    },  # names are looked up when they are asked for, types only checked
    "raylens/data/describe.py": {"cli"},
}


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def noun(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "raylens" and len(parts) > 1 else None


def layer(name: str) -> int:
    return next(index for index, names in enumerate(LAYERS) if name in names)


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE.parent))
)
def test_a_module_imports_only_its_layer_and_those_below(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":
        return  # see below
    here = layer("cli" if path.name == "__main__.py" else own)  # a verb, wherever it lies
    allowed = ALLOWED.get(str(path.relative_to(PACKAGE.parent)), set())
    for module in imported(path):
        if module.split(".")[0] == "ray":
            assert here >= 2, f"{path.name} imports ray"
        name = noun(module)
        if name and name not in allowed and any(name in names for names in LAYERS):
            assert layer(name) <= here, f"{path.name} imports {module}"


def test_the_package_imports_nothing_until_it_is_asked():
    code = "import sys, raylens\nassert not {'numpy', 'torch', 'ray'} & sys.modules.keys()"
    code += "\nassert [name for name in sys.modules if name.startswith('raylens')] == ['raylens']"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_asks_for_help_or_is_refused_waits_for_no_package_that_only_training_needs():
    code = """
import sys
from raylens.errors import ConfigError
from raylens.tune import tune
try:
    tune(["adda", "--fit.stpes", "3"])
    raise AssertionError
except ConfigError as error:
    assert "fit.steps" in str(error)
assert tune(["--help"]) is None
rare = {"ray", "timm", "torchvision", "torch._dynamo", "sklearn", "scipy.stats", "albumentations", "matplotlib"}
loaded = rare & sys.modules.keys()
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_loop_methods_models_and_validators_run_where_ray_is_not_installed():
    names = (
        "loop",
        "checkpoint",
        "methods.adda",
        "models.small",
        "validators.snd",
        "data.stream",
        "predictor",
        "cluster.worker",
    )
    code = "import sys; sys.modules['ray'] = None\n" + "\n".join(f"import raylens.{name}" for name in names)
    subprocess.run([sys.executable, "-c", code], check=True)


def test_rays_hook_for_uv_run_is_off_before_ray_is_imported():
    code = "import raylens.cluster.search, ray._private.ray_constants as known\n"
    code += "assert not known.RAY_ENABLE_UV_RUN_RUNTIME_ENV"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
