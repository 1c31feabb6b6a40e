"""Who may import whom: the rooms, and the few modules that know a heavy or foreign library."""

from __future__ import annotations

import ast
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("registration", "atlas", "calcium", "pipelines")
MODULES = sorted(
    path.relative_to(ROOT).as_posix() for room in ROOMS for path in (ROOT / room).rglob("*.py")
)
SCRIPTS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "benchmarks").rglob("*.py"))

NEVER = {
    "registration/*": ("atlas", "calcium", "pipelines", "click", "pydicom", "highdicom"),
    "registration/geometry.py": ("keras", "tensorflow"),
    "registration/metrics*": ("keras", "tensorflow"),
    "registration/transforms*": ("keras", "tensorflow"),
    "atlas/*": ("calcium", "pipelines", "click", "pydicom", "highdicom"),
    "calcium/*": ("atlas", "pipelines", "click", "pydicom", "highdicom"),
}
"""What no module of this name may import, however lazily."""

ONLY = {
    "click": ("pipelines/cli*.py",),
    "pydicom": ("pipelines/dicom*.py", "pipelines/phantoms/writing.py"),
    "highdicom": ("pipelines/dicom*.py",),
}
"""The only modules that may import these libraries."""

CALCIUM_KERAS = ("calcium/networks/*", "calcium/training*.py")


def imported_by(module: str) -> set[str]:
    """Dotted names a file imports anywhere, relative ones resolved."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(Path(module).parts[: -node.level]) if node.level else ""
            name = ".".join(part for part in (base, node.module) if part)
            names |= {name} | {f"{name}.{alias.name}" for alias in node.names}
    return names


def is_under(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def test_there_are_modules_to_look_at() -> None:
    assert {Path(module).parts[0] for module in MODULES} == set(ROOMS)
    assert "numpy" in imported_by("registration/geometry.py")


@pytest.mark.parametrize("module", MODULES)
def test_imports_stay_within_the_rooms(module: str) -> None:
    imports = imported_by(module)
    for pattern, forbidden in NEVER.items():
        if fnmatch(module, pattern):
            assert not {n for n in imports for package in forbidden if is_under(n, package)}
    for package, homes in ONLY.items():
        if any(is_under(name, package) for name in imports):
            assert any(fnmatch(module, home) for home in homes), f"{module} imports {package}"


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("calcium/")])
def test_calcium_knows_only_geometry_and_keeps_keras_in_its_networks(module: str) -> None:
    imports = imported_by(module)
    registration = {name for name in imports if is_under(name, "registration")}
    assert {n for n in registration if not is_under(n, "registration.geometry")} == set()
    if any(is_under(name, heavy) for name in imports for heavy in ("keras", "tensorflow")):
        assert any(fnmatch(module, home) for home in CALCIUM_KERAS)


@pytest.mark.parametrize("room", ROOMS)
def test_importing_a_room_imports_nothing_else(room: str) -> None:
    body = ast.parse((ROOT / room / "__init__.py").read_text(encoding="utf-8")).body
    assert len(body) == 1
    assert isinstance(body[0], ast.Expr)
    assert isinstance(body[0].value, ast.Constant)


def test_there_is_no_fifth_package_and_no_utils() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages - {"tests"} == set(ROOMS)
    assert not [m for m in MODULES if Path(m).stem in ("utils", "util", "helpers", "misc")]


def test_benchmarks_are_scripts_and_not_a_package() -> None:
    assert not list((ROOT / "benchmarks").rglob("__init__.py"))
    for script in SCRIPTS:
        assert not {name for name in imported_by(script) if is_under(name, "tests")}, script
