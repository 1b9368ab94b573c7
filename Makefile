PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help setup demo demo-vllm demo-ray bench gpu-check docs pictures notebooks
.PHONY: test test-lowest test-models test-browser test-vllm test-ray test-vllm-on-ray
.PHONY: test-clients test-dropin test-bridge test-servers
.PHONY: check format generate contract-diff tiny-model models-doc

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

help: ## lists these targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "  %-16s%s\n", $$1, $$2}'

setup: $(READY) ## sets up .venv with torch and everything for development

test: setup ## runs the tests
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

test-lowest: $(LOWEST_READY) ## runs the engine's tests and the demo on the lowest release of transformers
	PYTHONPATH=$(CURDIR)/$(LOWEST) $(BIN)/pytest $(LOWEST_TESTS) -m "models or not models" -k "not nemotron_h and not falcon_h1 and not bamba" # refused, and slow
	PYTHONPATH=$(CURDIR)/$(LOWEST) $(BIN)/tinkex demo

test-models: setup ## compares a tiny model of every kind of transformers with docs/models.md: minutes
	$(BIN)/pytest -n auto --dist worksteal -m models tests/server/engine/test_models.py

check: setup ## runs the linters, the type checkers, and checks that generated files are up to date
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

format: setup ## formats the code
	$(BIN)/ruff check --fix tinkex tinkex_server scripts tests examples benchmarks
	$(BIN)/ruff format tinkex tinkex_server scripts tests examples benchmarks

generate: setup ## makes generated/ and tinkex/sync from the contract and the asyncio clients
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python scripts/generate.py

tiny-model: setup ## makes tinkex/tiny
	$(BIN)/python scripts/make_tiny_model.py

demo: setup ## trains a small model in about a minute, and draws its loss
	$(BIN)/tinkex demo

test-clients: setup ## runs six releases of the official SDK on the embedded server
	$(BIN)/python scripts/test_clients.py

notebooks: setup ## executes the notebooks of examples/
	$(BIN)/pytest tests/both/test_notebooks.py

test-dropin: setup ## runs the tests and recipes of the cookbook on the official SDK and on tinkex: 7 minutes
	$(BIN)/python scripts/test_dropin.py

test-bridge: setup ## runs six releases of the official SDK through the bridge on every profile
	$(BIN)/python scripts/test_bridge.py

# The pages of the embedded server in Chromium (on Debian: apt-get install chromium).
BROWSER := .cache/browser
BROWSER_READY := $(BROWSER)/.ready

$(BROWSER_READY): $(READY)
	rm -rf $(BROWSER)
	$(BIN)/pip install --quiet --target $(BROWSER) playwright==1.65.2 axe-core-python==0.1.0
	touch $@

test-browser: $(BROWSER_READY) ## tests the status page in Chromium
	PYTHONPATH=$(CURDIR)/$(BROWSER) $(BIN)/pytest tests/browser

pictures: $(BROWSER_READY) ## takes the pictures of the docs
	PYTHONPATH=$(CURDIR)/$(BROWSER) $(BIN)/python scripts/screenshots.py docs/images

test-servers: setup ## runs one job on other open servers, where they can be installed
	$(BIN)/python scripts/test_servers.py

# The first run installs vLLM for the CPU into .cache/vllm; VLLM_PYTHON=… takes another environment.
test-vllm: setup ## tests sampling by a real vLLM on the CPU
	$(BIN)/python scripts/test_vllm.py

test-vllm-on-ray: setup ## tests two real vLLMs that Ray places
	$(BIN)/python scripts/test_vllm_on_ray.py

demo-vllm: setup ## trains with samples by vLLM
	$(BIN)/python scripts/demo_vllm.py

test-ray: setup ## tests training and sampling on local Ray clusters
	$(BIN)/python scripts/test_ray.py

demo-ray: setup ## trains on a cluster of three nodes, of which one is killed
	$(BIN)/python scripts/demo_ray.py

contract-diff: setup ## shows what changed in the contract since BASE
	$(BIN)/python scripts/contract_diff.py $(BASE)

# On a machine without a CUDA device, says so and succeeds.
gpu-check: setup ## tests and measures the engine on a CUDA device
	$(BIN)/python -m benchmarks.gpu_check

bench: setup ## measures everything, and writes docs/performance.md: a quarter of an hour
	$(BIN)/python -m benchmarks

docs: setup ## builds the documentation site
	$(BIN)/python scripts/servers_doc.py
	$(BIN)/python scripts/settings_doc.py
	$(BIN)/python scripts/cli_doc.py
	$(BIN)/python scripts/site.py

models-doc: setup ## writes docs/models.md: minutes
	$(BIN)/python scripts/models_doc.py
