# `make demo` and `make test` need Python >= 3.10 with venv and pip, a C++ compiler and make; all else they set up.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint docs wheel install clean

demo: install
	$(BIN)/python tools/demo.py --interval 5 --num_ex 10 --compare

# Up to four tests at a time, each on one thread: more threads would wait for each other. Neighbours, which share what
# they need, stay together; a process that has done its share takes from another's.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal

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
install: $(STAMP)
	@$(BIN)/python -m accel_ops.build || echo "going on without the native operators: slower, same results"

$(STAMP): setup.cfg setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info ops/lib .pytest_cache .ruff_cache
