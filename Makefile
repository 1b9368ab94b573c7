PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: setup demo demo-vllm demo-ray bench gpu-check docs pictures notebooks
.PHONY: test test-lowest test-models test-browser test-vllm test-ray test-vllm-on-ray
.PHONY: test-clients test-dropin test-bridge test-servers
.PHONY: check format generate contract-diff tiny-model models-doc

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

setup: $(READY)

test: setup
	$(BIN)/pytest -n auto --dist worksteal

# The lowest release of transformers that pyproject.toml allows, with the libraries that it pins, before those of .venv.
LOWEST := .cache/lowest
LOWEST_READY := $(LOWEST)/.ready
LOWEST_TESTS := $(addprefix tests/server/engine/test_,architectures.py batcher.py engine.py gradients.py lora.py models.py prefill.py sampling.py)

$(LOWEST_READY): pyproject.toml $(READY)
	rm -rf $(LOWEST)
	$(BIN)/pip install --quiet --no-deps --target $(LOWEST) huggingface-hub==1.5.0 tokenizers==0.22.0 \
		transformers==$$(sed -n 's/.*"transformers>=\([0-9.]*\)".*/\1/p' pyproject.toml)
	touch $@

test-lowest: $(LOWEST_READY)
	PYTHONPATH=$(CURDIR)/$(LOWEST) $(BIN)/pytest $(LOWEST_TESTS) -m "models or not models" -k "not nemotron_h and not falcon_h1 and not bamba" # refused, and slow
	PYTHONPATH=$(CURDIR)/$(LOWEST) $(BIN)/tinkex demo

# Serves one tiny model of every kind that transformers has, and compares it with docs/models.md: it takes minutes.
test-models: setup
	$(BIN)/pytest -n auto --dist worksteal -m models tests/server/engine/test_models.py

check: setup
	$(BIN)/ruff check tinkex tinkex_server scripts tests examples benchmarks
	$(BIN)/ruff format --check tinkex tinkex_server scripts tests examples benchmarks
	$(BIN)/pyright tinkex tinkex_server benchmarks tests/typing
	MYPYPATH=generated $(BIN)/mypy tests/typing/user_script.py
	$(BIN)/lint-imports
	$(BIN)/python scripts/lint_prose.py
	$(BIN)/python scripts/lint_contract.py
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python scripts/generate.py --check
	$(BIN)/python scripts/servers_doc.py --check
	$(BIN)/python scripts/settings_doc.py --check
	$(BIN)/python scripts/cli_doc.py --check
	$(BIN)/python scripts/site.py

format: setup
	$(BIN)/ruff check --fix tinkex tinkex_server scripts tests examples benchmarks
	$(BIN)/ruff format tinkex tinkex_server scripts tests examples benchmarks

generate: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python scripts/generate.py

tiny-model: setup
	$(BIN)/python scripts/make_tiny_model.py

demo: setup
	$(BIN)/tinkex demo

test-clients: setup
	$(BIN)/python scripts/test_clients.py

notebooks: setup
	$(BIN)/python scripts/run_notebooks.py

test-dropin: setup
	$(BIN)/python scripts/test_dropin.py

test-bridge: setup
	$(BIN)/python scripts/test_bridge.py

# The pages of the embedded server in Chromium (on Debian: apt-get install chromium).
BROWSER := .cache/browser
BROWSER_READY := $(BROWSER)/.ready

$(BROWSER_READY): $(READY)
	rm -rf $(BROWSER)
	$(BIN)/pip install --quiet --target $(BROWSER) playwright==1.65.2 axe-core-python==0.1.0
	touch $@

test-browser: $(BROWSER_READY)
	PYTHONPATH=$(CURDIR)/$(BROWSER) $(BIN)/pytest tests/browser

pictures: $(BROWSER_READY)
	PYTHONPATH=$(CURDIR)/$(BROWSER) $(BIN)/python scripts/screenshots.py docs/images

test-servers: setup
	$(BIN)/python scripts/test_servers.py

# The first run installs vLLM for the CPU into .cache/vllm; VLLM_PYTHON=… takes another environment.
test-vllm: setup
	$(BIN)/python scripts/test_vllm.py

test-vllm-on-ray: setup
	$(BIN)/python scripts/test_vllm_on_ray.py

demo-vllm: setup
	$(BIN)/python scripts/demo_vllm.py

test-ray: setup
	$(BIN)/python scripts/test_ray.py

demo-ray: setup
	$(BIN)/python scripts/demo_ray.py

contract-diff: setup
	$(BIN)/python scripts/contract_diff.py $(BASE)

# On a machine without a CUDA device, says so and succeeds.
gpu-check: setup
	$(BIN)/python -m benchmarks.gpu_check

bench: setup
	$(BIN)/python -m benchmarks

docs: setup
	$(BIN)/python scripts/servers_doc.py
	$(BIN)/python scripts/settings_doc.py
	$(BIN)/python scripts/cli_doc.py
	$(BIN)/python scripts/site.py

# Loads one model of every kind that transformers has: it takes minutes.
models-doc: setup
	$(BIN)/python scripts/models_doc.py
