# The two main commands are `make book` and `make test`. Both set up .venv by themselves, with PYTHON. With VENV=none a
# target uses PYTHON as it is: nothing is set up or fetched.
PYTHON  ?= python3
VENV    ?= .venv
PROFILE ?= smoke
DEVICE  ?= auto
# Threads that wait by spinning slow a shared machine down many times.
export OMP_WAIT_POLICY ?= PASSIVE
ifneq ($(words $(VENV)),1)
$(error VENV='$(VENV)' must be one path without spaces: make cannot have a file with a space as a target)
endif
BIN     := $(VENV)/bin
READY   := $(VENV)/.ready-

# CHAPTER=name builds one chapter. RERUN=1 trains again, RERUN=0 reads records; without RERUN the profile decides.
BOOK := --profile $(PROFILE) --device $(DEVICE) $(addprefix --chapter ,$(CHAPTER)) $(addprefix --rerun ,$(RERUN))

.DEFAULT_GOAL := help
.PHONY: help env book pdf execute new-experiment results status test test-slow test-gpu gpu-sprint share bench lint doctor data clean

help:  ## show this list (1 s)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

ifeq ($(VENV),none)
RUN   := $(PYTHON)
FETCH := @:

$(READY)%: ;
else
RUN   := $(BIN)/python
FETCH := -$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# The interpreter is checked first: an old one fails much later, with a message about something else.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python >= 3.11 is needed, {sys.executable} is {sys.version.split()[0]}: pass PYTHON=python3.12, say")'
	$(PYTHON) -m venv $(VENV)

$(READY)%: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$*]"
	@touch $@
endif

env: $(READY)test  ## set up .venv with everything (2 min, once; VENV=none: use PYTHON as it is)

book: $(READY)book  ## train, execute and render: book/_build/html/index.html (smoke 8 min, again 20 s; PROFILE, CHAPTER, RERUN)
	$(RUN) -m book.tool.build $(BOOK)

pdf: $(READY)book  ## print the book that was built last as one PDF, linked on its first page: book/_build/nfnets-lite.pdf (1 min; needs Chromium)
	$(RUN) -m book.tool.pdf

execute: $(READY)book  ## execute chapters without rendering (smoke 7 min; PROFILE, CHAPTER, RERUN)
	$(RUN) -m book.tool.build $(BOOK) --execute-only

new-experiment: $(READY)book  ## write a config, a chapter and their test to start from (NAME=label_noise) (1 s)
	@$(RUN) -m book.scaffold "$(NAME)"

results: $(READY)book  ## train the missing runs of a profile, most informative first (small 27 h; PROFILE, MINUTES, DEVICE, RESULTS=DIR)
	$(RUN) -m experiments run all --profile $(PROFILE) --device $(DEVICE) $(addprefix --minutes ,$(MINUTES)) $(if $(RESULTS),--results "$(RESULTS)")

status: $(READY)book  ## show which runs are recorded, and which chapters are stale and why (5 s)
	$(RUN) -m experiments status
	$(RUN) -m book.tool.build $(BOOK) --status

# Tests run side by side, one process a core; a process that has no tests left takes some of another's.
PYTEST := $(RUN) -m pytest -n auto --maxprocesses 4 --dist worksteal

test: $(READY)test  ## run the default tests (8 min)
	$(PYTEST) -m "not slow"

test-slow: $(READY)test  ## run the tests left out of `test` (6 min)
	$(PYTEST) -m "slow and not alone"
	$(RUN) -m pytest -m alone tests/browser

# tests/gpu.args names files that need little beside torch, because a machine with a GPU may have nothing else.
test-gpu: $(READY)test  ## run the tests that need a CUDA device (5 min on one, by a rule of thumb)
	$(RUN) -m pytest @tests/gpu.args

gpu-sprint: $(READY)test  ## run checks, GPU tests, sweeps and timings into sprint/; the next call resumes (14 min; MINUTES, DEVICE, PROFILE=gpu)
	$(RUN) -m experiments sprint --device $(DEVICE) --minutes $(or $(MINUTES),14) --profile $(if $(filter smoke,$(PROFILE)),gpu,$(PROFILE))

share: $(READY)book  ## pack records for a pull request into records.zip, or check an archive (RESULTS=sprint/gpu) (5 s)
	$(RUN) -m experiments share "$(or $(RESULTS),sprint/gpu)"

# timm requires a torchvision that may have no build for this torch, and the timings need none. OMP_WAIT_POLICY is unset,
# as it is for users: a sleeping thread takes longer to wake than small tensors take to clip.
bench: $(READY)test  ## time our code beside ordinary training, timm and the machine's limits: ratios with spread (4 min; DEVICE)
	$(FETCH) huggingface_hub safetensors pyyaml
	$(FETCH) --no-deps timm
	env -u OMP_WAIT_POLICY $(RUN) -m experiments bench --device $(DEVICE)

lint: $(READY)test  ## run ruff and mypy (20 s)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

doctor: $(READY)book  ## show versions, device, dtypes and data found; run one forward and backward pass (5 s)
	$(RUN) -m experiments doctor --device $(DEVICE)

data: $(READY)book  ## fetch, verify and convert CIFAR-10 and Fashion-MNIST into data/ (2 min; FROM=DIR: take the published files from DIR)
	$(RUN) -m data_scripts cifar10 fashion_mnist $(if $(FROM),--from "$(FROM)")

clean:  ## remove the files of the book's build; records and data stay (1 s)
	rm -rf book/_build
