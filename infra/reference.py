"""docs/reference.md, written from the source: every verb's settings, every public name with its first line.

`python -m vetdino.infra.reference` writes it anew. It reads the syntax only and imports no room, so it is
quick and needs no library of theirs.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from .cli import VERBS, overview

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("platform", "pretrain", "downstream", "serving", "infra")


def reference(root: Path = ROOT) -> str:
    """The whole page as Markdown."""
    trees = {
        path.relative_to(root).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for room in ROOMS
        for path in sorted((root / room).rglob("*.py"))
        if path.stem != "__init__"
    }
    classes = {node.name: node for tree in trees.values() for node in ast.walk(tree) if _is_class(node)}
    lines = [
        "# Reference",
        "",
        "Written by `python -m vetdino.infra.reference` from the source; do not edit by hand.",
        "",
        "## Command line",
        "",
        "```text",
        overview(),
        "```",
    ]
    for name, verb in VERBS.items():
        lines += ["", f"### vetdino {name} {verb.usage}".rstrip(), "", *_verb(verb.home, trees, classes)]
    lines += ["", "## Modules"]
    for path, tree in trees.items():
        lines += ["", f"### {path}", "", _first_line(tree), "", *_names(tree)]
    return "\n".join(lines).rstrip() + "\n"


def _verb(home: str, trees: dict[str, ast.Module], classes: dict[str, ast.ClassDef]) -> Iterator[str]:
    """The verb's purpose and a table of its settings: its own places first, then the room's."""
    module, _, function = home.partition(":")
    body = next(
        node
        for node in trees[f"infra/{module.replace('.', '/')}.py"].body
        if isinstance(node, ast.FunctionDef) and node.name == function
    )
    asked = [node for node in ast.walk(body) if _is_class(node)]
    yield _first_line((asked or [body])[0])
    for number, cls in enumerate(asked):  # a verb of several kinds has settings for each
        if number:
            yield from ("", _first_line(cls))
        yield from ("", "| setting | default | meaning |", "| --- | --- | --- |")
        for path, default, meaning in _settings(cls, classes):
            yield f"| `{path}` | {default} | {meaning} |".replace("|  |", "| |")


def _settings(
    cls: ast.ClassDef, classes: dict[str, ast.ClassDef], path: str = ""
) -> Iterator[tuple[str, ...]]:
    """(name as on the command line, default, meaning) of each field; nested configs are spelled out."""
    for node, after in zip(cls.body, [*cls.body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign):
            continue
        name, kind = f"{path}{node.target.id}", ast.unparse(node.annotation)
        inner = next((classes[word] for word in _words(node.annotation) if word in classes), None)
        if inner is not None and inner.name.endswith("Config"):
            yield from _settings(inner, classes, f"{name}.")
            continue
        shown = kind if kind.isupper() else "--" + name.replace("_", "-")
        yield shown, _default(node.value), _text(after).replace("|", "\\|")
    for base in cls.bases:
        if isinstance(base, ast.Name) and base.id in classes:
            yield from _settings(classes[base.id], classes, path)


def _default(value: ast.expr | None) -> str:
    """A default as one would type it: a text without its quotes, a path without its class."""
    if value is None:
        return ""
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "Path" and value.args:
        value = value.args[0]
    plain = value.value if isinstance(value, ast.Constant) and value.value != "" else ast.unparse(value)
    return f"`{plain}`".replace("|", "\\|")


def _names(tree: ast.Module) -> Iterator[str]:
    """One line for each public function, class and method."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield f"* `{_signature(node)}`: {_first_line(node)}".rstrip(": ")
        elif _is_class(node) and not node.name.startswith("_"):
            yield f"* class `{node.name}`: {_first_line(node)}"
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                    yield f"    * `{_signature(method)}`: {_first_line(method)}".rstrip(": ")


def _signature(node: ast.FunctionDef) -> str:
    gives = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{node.name}({ast.unparse(node.args)}){gives}"


def _first_line(node: ast.AST) -> str:
    """The docstring's first paragraph, as one line."""
    return " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())


def _text(node: ast.AST | None) -> str:
    """The docstring under a field, as one line; nothing where what follows the field is no string."""
    if (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ):
        return " ".join(node.value.value.split())
    return ""


def _words(node: ast.AST) -> Iterator[str]:
    return (part.id for part in ast.walk(node) if isinstance(part, ast.Name))


def _is_class(node: ast.AST) -> bool:
    return isinstance(node, ast.ClassDef)


if __name__ == "__main__":
    from ..platform.core.config import atomic_write

    atomic_write(ROOT / "docs" / "reference.md", reference())
    print(ROOT / "docs" / "reference.md")
