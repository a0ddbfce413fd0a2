# Every target does its own set-up: `make demo` in a fresh clone is one command.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/.installed
CHROMIUM := chromium chromium-browser google-chrome
LINKED := __init__.py __main__.py py.typed pretrain downstream serving infra $(filter-out %/__pycache__,$(wildcard platform/*))
ARGS ?=
# uv leaves the libraries uncompiled: where this is set, as in some containers, every process would compile what it imports.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup demo test tutorials quick check links types docs browser

setup: $(INSTALLED)

# uv installs the exact, hashed versions of requirements.lock several times faster than pip, then vetdino itself.
$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "vetdino needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet uv==0.13.8
	VIRTUAL_ENV=.venv $(BIN)/uv pip sync --quiet requirements.lock
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

demo: setup
	$(BIN)/vetdino demo $(ARGS)

# Every test but those of the tutorials, on two processes; a file stays in one of them, so that its fixtures are made once.
test: setup browser
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not tutorial" $(ARGS)

# The pages of docs/tutorials, each from its first command to its last.
tutorials: setup
	$(BIN)/python -m pytest -n 2 tests/test_tutorials.py -m tutorial $(ARGS)

# What is fast: no training, no Ray, no browser.
quick: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not gpu" $(ARGS)

check: setup types docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The repository root is the package and platform/ has no __init__.py (it would shadow Python's own `platform`), which
# neither mypy nor mkdocstrings follows: both read the package through a folder of links that has one.
links:
	@rm -rf build/package && mkdir -p build/package/vetdino/platform && touch build/package/vetdino/platform/__init__.py
	@for name in $(LINKED); do ln -s "$(CURDIR)/$$name" build/package/vetdino/$$name; done

types: setup links
	cd build/package && MYPYPATH=. "$(CURDIR)/$(BIN)/mypy" --config-file "$(CURDIR)/pyproject.toml"

# The documentation as a site in site/; strict: a broken link is an error. Nothing is fetched.
docs: setup links
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# The page's test opens the system's Chromium: as root on Debian it is installed, elsewhere we say what is missing.
browser:
	@for name in $(CHROMIUM); do command -v $$name >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium >/dev/null && exit 0; \
	fi; \
	echo "No Chromium here, so the page's test is left out; Debian's package is called chromium."
