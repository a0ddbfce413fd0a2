"""Lets a checkout run without being installed: in its folder this file is the package. Elsewhere idle."""

from pathlib import Path

face = Path(__file__).resolve().with_name("__init__.py")
__path__ = [str(face.parent)]
exec(compile(face.read_text(encoding="utf-8"), face, "exec"))
if __name__ == "__main__":  # `python -m vetdino` runs a lone module as it is, not a package's __main__
    raise SystemExit(__import__("vetdino.infra.cli").infra.cli.main())
