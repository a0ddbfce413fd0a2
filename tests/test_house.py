"""The house's import rules, read from the source: no arrow up, none sideways, no circle.

The reader is tried on small made-up houses first, so that we know it can fail.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

MAY_SEE = {
    "platform": {"platform"},
    "pretrain": {"platform", "pretrain"},
    "downstream": {"platform", "downstream"},
    "serving": {"platform", "serving"},
    "infra": {"platform", "pretrain", "downstream", "serving", "infra", ""},
    "": {"platform", "pretrain", "downstream", "serving", "infra", ""},
}
"""Room -> rooms it may import; "" is the root: the package's face and its `__main__`."""


@dataclass(frozen=True, slots=True)
class Import:
    """One import: dotted names below the root (`platform.data.study`), the line, and whether it ever runs."""

    source: str
    target: str
    line: int
    runs: bool

    def __str__(self) -> str:
        return f"{self.source.replace('.', '/')}.py:{self.line} imports {self.target or 'the root'}"


def modules_of(root: Path) -> dict[str, Path]:
    """Dotted name below the root -> file, for the root's own files and every room's."""
    files = [path for room in MAY_SEE for path in (root / room).glob("**/*.py" if room else "*.py")]
    return {".".join(path.relative_to(root).with_suffix("").parts): path for path in files}


def imports_of(root: Path) -> list[Import]:
    """Every import of the house from the house, and absolute ones of `vetdino`."""
    modules = modules_of(root)
    found = []
    for name, path in modules.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node, runs in _import_nodes(tree, runs=True):
            found += [Import(name, target, node.lineno, runs) for target in _targets(node, name, modules)]
    return found


def faults_of(root: Path) -> list[str]:
    """What breaks the house's rules, one line each; nothing where all is well."""
    faults = []
    if (root / "platform" / "__init__.py").exists():
        faults.append("platform/__init__.py takes the name of Python's own platform module: remove it")
    links = imports_of(root)
    modules = modules_of(root)
    for link in links:
        room, seen = _room(link.source), _room(link.target)
        if link.target.split(".")[0] == "vetdino":
            faults.append(f"{link}: inside the house imports are relative")
        elif seen not in MAY_SEE[room]:
            faults.append(f"{link}: {room} must not see it")
        elif link.target not in modules and link.target not in MAY_SEE:
            faults.append(f"{link}: there is no such module")
    between = [replace(link, source=_folder(link.source), target=_folder(link.target)) for link in links]
    inside = [link for link in between if link.source != link.target and "" not in (link.source, link.target)]
    return faults + (_circle(links) or _circle(inside))


def _folder(name: str) -> str:
    return name.rpartition(".")[0]


def _room(name: str) -> str:
    first = name.split(".")[0]
    return first if first in MAY_SEE else ""


def _import_nodes(node: ast.AST, runs: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Import statements below a node, those inside functions too; under TYPE_CHECKING they never run."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, runs
        else:
            later = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            yield from _import_nodes(child, runs and not later)


def _targets(node: ast.Import | ast.ImportFrom, source: str, modules: dict[str, Path]) -> list[str]:
    """Modules an import statement names: dotted below the root, or `vetdino…` where it is absolute."""
    if isinstance(node, ast.Import) or node.level == 0:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
        return [name for name in names if name.split(".")[0] == "vetdino"]
    folder = source.split(".")[: -node.level]
    base = ".".join([*folder, *(node.module or "").split(".")]).strip(".")
    if base in modules:
        return [base]
    # `from . import study`: each name may be a module of its own.
    inside = [f"{base}.{alias.name}".strip(".") for alias in node.names]
    return [name if name in modules or name in MAY_SEE else base for name in inside]


def _circle(links: list[Import]) -> list[str]:
    graph: dict[str, set[str]] = {}
    for link in links:
        if link.runs:
            graph.setdefault(link.source, set()).add(link.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [f"circle: {' <- '.join(error.args[1])}"]
    return []


def build(root: Path, **files: str) -> Path:
    """A made-up house: platform__study="import x" becomes platform/study.py."""
    for name, text in files.items():
        path = root / (name.replace("__", "/", 1) + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_an_empty_house_has_no_faults(tmp_path):
    assert faults_of(tmp_path) == []


def test_arrows_that_run_down_are_welcome(tmp_path):
    build(
        tmp_path,
        platform__errors="import platform, os",
        platform__study="from .errors import A\nfrom . import errors",
        pretrain__crops="from ..platform.study import B\nfrom ..platform import study",
        infra__cli="from ..pretrain import crops\nfrom .verbs import a\nfrom .. import __version__",
        infra__verbs="def a():\n    from ..pretrain.crops import b",
    )
    assert faults_of(tmp_path) == []
    assert {(link.source, link.target) for link in imports_of(tmp_path)} >= {
        ("platform.study", "platform.errors"),
        ("pretrain.crops", "platform.study"),
        ("infra.cli", "pretrain.crops"),
    }


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"platform__a": "from ..infra import cli"}, "platform must not see"),
        ({"platform__a": "from .. import __version__"}, "platform must not see"),
        ({"platform__a": "def f():\n    from ..pretrain.b import c"}, "platform must not see"),
        ({"pretrain__a": "from ..infra.cli import main"}, "pretrain must not see"),
        ({"pretrain__a": "from ..serving.b import c"}, "pretrain must not see"),
        ({"serving__a": "class A:\n    from ..downstream import b"}, "serving must not see"),
        ({"infra__a": "from vetdino.platform.data.study import View"}, "relative"),
        ({"infra__a": "import vetdino"}, "relative"),
        ({"infra__a": "def f():\n    from ..platform.gone import b"}, "no such module"),
        ({"platform____init__": '"""."""'}, "Python's own platform"),
        ({"platform__a": "from .b import x", "platform__b": "from . import a"}, "circle: "),
        ({"platform__a": "from .b import x", "platform__b": "def f():\n    from . import a"}, "circle: "),
        ({"serving__a/b": "from ...downstream.c import d"}, "serving must not see"),
        (
            {
                "serving__a/b": "from ..c.d import x",
                "serving__c/d": "from ..a.e import y",
                "serving__a/e": "",
            },
            "circle: ",
        ),
    ],
)
def test_a_fault_is_found_and_named(tmp_path, files, said):
    [fault] = faults_of(build(tmp_path, **files))
    assert said in fault


def test_an_import_for_type_checkers_closes_no_circle(tmp_path):
    late = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import a"
    assert faults_of(build(tmp_path, platform__a="from .b import x", platform__b=late)) == []


def test_the_house_keeps_its_rules():
    assert len(imports_of(ROOT)) > 10
    assert faults_of(ROOT) == []


def test_a_room_opens_with_one_docstring():
    for room in (name for name in MAY_SEE if name):
        for path in (ROOT / room).rglob("__init__.py"):
            body = ast.parse(path.read_text(encoding="utf-8")).body
            assert ast.get_docstring(ast.Module(body, [])), path
            # `pretrain` alone holds more: the package can be called.
            assert len(body) == 1 or path == ROOT / "pretrain" / "__init__.py", path


# Names, lengths, tests ------------------------------------------------------------------------------------

LONGEST = 60
"""Lines of a function, docstring included."""


def house_trees() -> dict[Path, ast.Module]:
    """Every module of the rooms, relative to the root."""
    paths = [path for room in MAY_SEE if room for path in sorted((ROOT / room).rglob("*.py"))]
    return {path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def test_a_public_class_name_exists_once():
    homes: dict[str, list[str]] = {}
    for path, tree in house_trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(f"{path}:{node.lineno}")
    assert {name: places for name, places in homes.items() if len(places) > 1} == {}


def test_no_function_is_long():
    long = [
        f"{path}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for path, tree in house_trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > LONGEST
    ]
    assert long == []


def test_every_module_has_a_test_file():
    """`tests/` mirrors the house. The thin files of `infra/commands` are tested a folder at a time, and
    `tests/test_configs.py` tests every `config.py`."""
    missing = []
    for path in house_trees():
        mirrored = ROOT / "tests" / path.with_name(f"test_{path.name}")
        if path.parts[:2] == ("infra", "commands"):
            mirrored = ROOT / "tests" / path.parent.with_name(f"test_{path.parent.name}.py")
        if path.stem not in ("__init__", "config") and not mirrored.is_file():
            missing.append(str(path))
    assert missing == []


def test_every_test_file_has_its_module():
    """Or its folder, or its page (`serving/page.js` is tested in a browser)."""
    strays = []
    for path in sorted((ROOT / "tests").glob("*/**/test_*.py")):
        place = ROOT / path.relative_to(ROOT / "tests").with_name(path.stem.removeprefix("test_"))
        if path.relative_to(ROOT / "tests").parts[0] in MAY_SEE and not any(
            place.parent.glob(f"{place.name}*")
        ):
            strays.append(str(path.relative_to(ROOT)))
    assert strays == []
