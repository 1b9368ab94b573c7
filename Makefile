PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: setup test check format generate tiny-model demo bench docs

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

setup: $(READY)

test: setup
	$(BIN)/pytest

check: setup
	$(BIN)/ruff check tinkex scripts tests
	$(BIN)/ruff format --check tinkex scripts tests
	$(BIN)/pyright tinkex
	$(BIN)/python -m openapi_spec_validator openapi/tinker.yaml
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python scripts/generate.py --check

format: setup
	$(BIN)/ruff check --fix tinkex scripts tests
	$(BIN)/ruff format tinkex scripts tests

generate: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python scripts/generate.py

tiny-model: setup
	$(BIN)/python scripts/make_tiny_model.py

demo bench docs:
	@echo "make $@ is not there yet; README.md says what is"; exit 1
