# make serve   a server with a real model on http://127.0.0.1:8000
# make test    every test, in its own environment
# make check   formatting, lint, types, the Dockerfile
# make docs    the documentation, in build/docs
# make bench   the figures that the README quotes, and docs/benchmarks.md (ARGS="throughput" for some of them)
PYTHON ?= python3
PORT ?= 8000
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin

.PHONY: serve test check docs bench clean
.DELETE_ON_ERROR:

# One stamp per extra: pip runs again only when pyproject.toml changes.
$(VENV)/.%: pyproject.toml
	@PYTHON=$(PYTHON) VENV=$(VENV) EXTRA=$* sh .ci/venv

serve: $(VENV)/.demo
	@$(BIN)/ds4trio serve --port $(PORT) $(ARGS)

# What needs one core each, and waits for nothing, runs side by side; the rest wants the machine to itself.
SIDE_BY_SIDE := tests/api tests/cache tests/chat tests/engine tests/grammars
test: $(VENV)/.test
ifeq ($(ARGS),)
	$(BIN)/python -m pytest -n 2 --dist worksteal $(SIDE_BY_SIDE)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE:%=--ignore=%)
else
	$(BIN)/python -m pytest $(ARGS)
endif

check: $(VENV)/.check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/hadolint examples/docker/Dockerfile

# Not --quiet: what it hides, --strict does not count.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV)
