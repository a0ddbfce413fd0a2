"""`python -m vetdino VERB …`: the command line of an installed vetdino."""

from .infra.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
