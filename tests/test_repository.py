"""Rules of the house that a program can check."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = ("adaptive", "transformer_xl", "data_utils")
SOURCES = sorted(
    path
    for folder in (*PACKAGES, "modes", "flag_groups", "tests", "benchmarks", "examples")
    for path in (ROOT / folder).rglob("*.py")
) + sorted(ROOT.glob("*.py"))
# What each part of the project may import of the others.
MAY_IMPORT = {"adaptive": set(), "transformer_xl": {"adaptive"}, "data_utils": set()}


def imported(path):
    """The first parts of the names of all absolute imports, also those inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_dependencies_point_one_way(package):
    refused = (
        {*PACKAGES, "train", "flags", "flag_groups", "modes", "absl", "tests"}
        - MAY_IMPORT[package]
        - {package}
    )
    for path in (ROOT / package).rglob("*.py"):
        assert not imported(path) & refused, path


def test_adaptive_stands_alone():
    known = {"keras", "tensorflow", "numpy"}
    for path in (ROOT / "adaptive").rglob("*.py"):
        assert imported(path) <= known | sys.stdlib_module_names, path


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short_and_named_for_what_they_hold(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350
    assert path.stem not in {"utils", "misc", "helpers", "common"}


def test_every_package_is_in_the_wheel():
    text = (ROOT / "pyproject.toml").read_text()
    listed = set(
        re.search(r"packages = \[(.*?)\]", text, re.DOTALL)[1].replace('"', "").split(", ")
    )
    found = {
        str(path.parent.relative_to(ROOT)).replace("/", ".")
        for package in ("adaptive", "transformer_xl")
        for path in (ROOT / package).rglob("__init__.py")
    }
    assert listed == found


def test_public_names_are_exported_once():
    import adaptive
    import data_utils
    import transformer_xl

    for package in (adaptive, transformer_xl, data_utils):
        assert sorted(package.__all__) == package.__all__ or set(package.__all__)
        for name in package.__all__:
            assert getattr(package, name).__doc__ or name.isupper(), name


def test_nothing_large_or_foreign_is_tracked():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.fail("These tests run in a checkout, and git does not answer.")
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.exists():
            assert path.stat().st_size < 1_000_000, name
            assert path.suffix not in {".zip", ".keras", ".h5", ".pt", ".pkl"}, name
