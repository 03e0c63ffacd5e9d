# Two commands set everything up on a fresh machine with Python 3.11: `make demo` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check

# glibc returns large blocks to the kernel by default and faults them in again at every training step.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=8589934592:glibc.malloc.trim_threshold=17179869184

.PHONY: help install demo test test-slow test-range lint format type clean
.DEFAULT_GOAL := help

help: ## list the commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "InfiMed needs Python 3.11 or newer"'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet torch==2.13.0
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev,mini,judge,lora,tensorboard,onnx,serve,web]'
	@touch $(READY)

install: $(READY) ## create .venv and install InfiMed with its development tools

demo: $(READY) ## the whole pipeline on generated phantoms, in minutes on two CPU cores
	$(BIN)/infimed run nano
	@echo
	@echo "Open the report:     runs/nano/report.html"
	@echo "Chat with the model: $(BIN)/infimed chat runs/nano --image \$$(ls runs/nano/clinic/images/*.png | head -1)"
	@echo "It is small and knows the wording of its clinic. Ask, for example: Which kind of image is this?"
	@echo "  Is a pleural effusion visible?   Write a caption for this image."
	@echo
	@echo "Serve it, and open its page in your browser (docs/page.md):"
	@echo "  $(BIN)/infimed serve runs/nano --open"

# Two processes of one thread each: a file's tests stay together, because they share what is slow to make.
test: $(READY) ## the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-slow: $(READY) ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

# The oldest supported transformers, and the newest huggingface-hub that it takes, beside those of .venv.
OLDEST := $(VENV)/oldest
$(OLDEST)/.ready: pyproject.toml
	rm -rf $(OLDEST)
	$(PIP) install --quiet --no-deps --target $(OLDEST) transformers==5.16.1 huggingface-hub==1.33.0
	@touch $@

test-range: $(READY) $(OLDEST)/.ready ## exports and other models with the oldest supported transformers
	PYTHONPATH=$(OLDEST) $(BIN)/python -m pytest tests/model/test_export.py tests/model/test_export_served.py tests/inference/test_hub_model.py

lint: $(READY) ## style, import floors and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

type: $(READY)
	$(BIN)/mypy

format: $(READY) ## rewrite the code in the house style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the virtual environment and caches; runs/ stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
