# make serve   a server with a real model on http://127.0.0.1:8000
# make test    every test, in its own environment
# make check   formatting, lint, types
# make bench   the figures that the README quotes
PYTHON ?= python3
PORT ?= 8000
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin

.PHONY: serve test check bench clean
.DELETE_ON_ERROR:

# One stamp per extra: pip runs again only when pyproject.toml changes.
$(VENV)/.%: pyproject.toml
	@PYTHON=$(PYTHON) VENV=$(VENV) EXTRA=$* sh .ci/venv

serve: $(VENV)/.demo
	@$(BIN)/ds4trio serve --port $(PORT) $(ARGS)

test: $(VENV)/.test
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.test
	$(BIN)/python -m benchmarks.lifeline $(ARGS)
	$(BIN)/python -m benchmarks.fairness
	$(BIN)/python -m benchmarks.restart
	$(BIN)/python -m benchmarks.replay
	$(BIN)/python -m benchmarks.cost

clean:
	rm -rf $(VENV)
