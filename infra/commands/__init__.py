"""One file for each command. `COMMANDS` in `infra/cli.py` lists them."""
