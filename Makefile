# Everything runs from a fresh clone: each target makes the environment that it needs.
SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
# Tests run in so many processes side by side; a verl run takes up to 8 GB. 0: in make's own.
LANES ?= $(shell awk '/MemTotal/ { print ($$2 > 14e6) ? 2 : 1 }' /proc/meminfo 2>/dev/null || echo 1)
# Versions of vLLM that `make test` also runs with, in the short form of `make compat`; not with ARGS.
# Some 6 minutes on two cores, and an environment of 7 GB; COMPAT= for none.
COMPAT ?= 0.24.0
# `make gpu` runs where vLLM for a GPU is installed, which .venv does not have.
PYTHON ?= python3
# Engines start programs that the environment brings along (ninja).
export PATH := $(abspath $(BIN)):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help env compiler demo demo-full matrix test test-fast compat gpu lint format docs oracles lm-eval \
	dist clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

env: ## make the environment in .venv (Python 3.11, pinned CPU builds), or reuse it
	@bash scripts/env.sh $(VENV)

compiler:
	@command -v g++ >/dev/null || { \
	  echo "error: there is no g++ on this machine; vLLM's torch.compile and the CPU kernel" \
	       "need it: apt-get install g++" >&2; exit 1; }

demo: compiler env ## train, evaluate and report the miniature, short form
	$(BIN)/hetero-noise study run recipes/studies/demo.yaml

demo-full: compiler env ## the miniature, trained long enough to see an effect
	$(BIN)/hetero-noise study run recipes/studies/demo-full.yaml

matrix: compiler env ## error, AQN and neither, five training seeds each, reported; goes on where it was
	$(BIN)/hetero-noise study run recipes/studies/matrix.yaml

test: compiler env ## all tests, with real vLLM, FSDP, Ray and verl; then compat with 0.24.0, short
	$(BIN)/python -m pytest --timeout=900 --durations=15 \
	  -n $(LANES) --dist loadfile --no-loadscope-reorder $(ARGS)
	$(if $(strip $(ARGS)),,$(foreach version,$(COMPAT),\
	  $(MAKE) --no-print-directory compat VLLM=$(version) SHORT=1 &&) true)

test-fast: compiler env ## the tests that start no engine and are not slow, with a tenth of the examples
	FUZZ_SHARE=0.1 $(BIN)/python -m pytest --timeout=300 -m 'not engine and not slow' --ignore=tests/engines \
	  -n $(LANES) --dist loadfile --no-loadscope-reorder $(ARGS)

compat: compiler ## the marked tests with another vLLM: VLLM=0.24.0, 0.29.0, 0.32.0; SHORT=1
	@VENV=$(VENV) LANES=$(LANES) bash scripts/compat.sh '$(VLLM)' $(if $(SHORT),short)

gpu: ## the acceptance on this machine's GPU, in the environment of PYTHON; ARGS=--rehearse: on a CPU
	@$(if $(findstring --rehearse,$(ARGS)),$(MAKE) --no-print-directory compiler env,true)
	$(if $(findstring --rehearse,$(ARGS)),$(BIN)/python,$(PYTHON)) -m scripts.gpu $(ARGS)

lint: env ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: env ## format the sources
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: ## the pages as a site, strictly, in site/
	@bash scripts/docs_env.sh .venv-docs
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet
	@echo "site/index.html"

oracles: env ## number formats against torchao, ModelOpt, gfloat, ml_dtypes, compressed-tensors, vLLM
	@bash scripts/oracles_env.sh .venv-oracles
	$(BIN)/python -m scripts.oracles --other .venv-oracles/bin/python

lm-eval: compiler env ## lm-eval's own command under noise, in vLLM and Hugging Face
	@bash scripts/lm_eval.sh $(VENV)

dist: env ## wheel and sdist, in dist/
	rm -rf build dist
	$(BIN)/python -m scripts.dist dist

clean: ## remove caches and build outputs; keeps environments and runs
	rm -rf build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*/*' -prune -exec rm -rf {} +
