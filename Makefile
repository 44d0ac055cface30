# `make demo` and `make test` need Python >= 3.10 with venv and pip, a C++ compiler and make; all else they set up.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# What `make demo` needs alone, without the tools for tests, types and pages.
RUNS := $(VENV)/.runs

.PHONY: demo test lint docs wheel install operators clean

# The demo on generated scenes; or `make demo VIDEO=drive.mp4`, on a video of yours.
demo: $(RUNS) operators
ifdef VIDEO
	$(BIN)/accel label "$(VIDEO)"
else
	$(BIN)/python tools/demo.py --interval 5 --num_ex 10 --compare
endif

# Up to four tests at a time, each on one thread: more threads would wait for each other. One more than there are cores,
# because some tests wait for a clock. Neighbours, which share what they need, stay together; a process that has done its
# share takes from another's.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --dist=worksteal \
		--numprocesses=$$($(BIN)/python -c "import os; print(min(4, os.cpu_count() + 1))")

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p build/types && ln -sfn ../../ops build/types/accel_ops
	$(BIN)/mypy

# The site of these pages, with the API reference: build/docs/index.html.
docs: install
	$(BIN)/python -m sphinx -c docs/site -b html -j auto -W --keep-going --quiet . build/docs
	@echo "written: build/docs/index.html"

# dist/accel_vss-*.whl, which needs no compiler where it is installed: its CPU operators are compiled here, for every
# x86-64 processor and for PyTorch 2.11 and later.
wheel: install
	$(BIN)/python tools/build_wheel.py

# The environment is made once; the native operators are compiled once for this machine, and reused.
install: $(STAMP) operators

operators: | $(RUNS)
	@$(BIN)/python -m accel_ops.build || echo "going on without the native operators: slower, same results"

$(RUNS): setup.cfg setup.py
	@echo "setting up $(VENV): pip fetches what is missing, PyTorch among it. Its build for GPUs, which pip takes on Linux"
	@echo "unless a build for CPUs is installed, is 3 GB to download and takes some minutes; the others are 0.3 GB."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(STAMP): setup.cfg setup.py | $(RUNS)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info ops/lib .pytest_cache .ruff_cache
