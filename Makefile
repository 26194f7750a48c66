# The commands of README.md. Each builds .venv first if need be; nothing else has to be installed.
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
# One process per core, one thread per process: tests of threading ask for theirs.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto
# Modules of the API reference; the first brings vimzoo.models and vimzoo.ops along.
DOCUMENTED := vimzoo vimzoo.errors vimzoo.ops.reference vimzoo.layers vimzoo.compat.vim vimzoo.compat.vmamba \
	vimzoo.compat.local_vim vimzoo.compat.local_vmamba vimzoo.compat.efficient_vmamba vimzoo.compat.plain_mamba \
	vimzoo.compat.group_mamba vimzoo.compat.mobile_mamba vimzoo.compat.time_machine vimzoo.compat.fusion_mamba vimzoo.compat.videomamba vimzoo.compat.vm_unet vimzoo.compat.swin_umamba \
	vimzoo.compat.spatial_mamba vimzoo.compat.mila vimzoo.compat.u_mamba vimzoo.compat.segmamba \
	vimzoo.compat.vmamba_single_file vimzoo.compat.mambair vimzoo.compat.mambair_unet vimzoo.compat.mamba_ssm \
	vimzoo.restoration vimzoo.explain vimzoo.metrics vimzoo.segmentation vimzoo.convert vimzoo.export \
	vimzoo.exporting vimzoo.data vimzoo.engine vimzoo.spandrel vimzoo.comfyui vimzoo.restore vimzoo.eval vimzoo.predict vimzoo.demo vimzoo.plots vimzoo.doctor
SOURCES := $(wildcard kernels/*/*.c kernels/*/*.h)

.PHONY: help .venv train test test-all test-newest test-crossings test-arm bench cards docs wheels lint clean

help:
	@echo "make train [ARGS=...]   train a small Vim on the bundled digits, or what ARGS says (Hydra overrides)"
	@echo "make test [ARGS=...]    the test suite without slow and GPU tests; ARGS go to pytest"
	@echo "make test-all           every test; GPU tests skip themselves where there is no GPU"
	@echo "make test-newest        train and test in a fresh environment with the newest of everything (ARGS=--pre: pre-releases)"
	@echo "make test-crossings     what documents and tests do with other libraries, pinned, in environments of their own"
	@echo "make test-arm           operators and models on 64-bit ARM, emulated by qemu (Debian)"
	@echo "make bench              measure this machine: benchmarks/results/MACHINE/*.json and tables"
	@echo "make cards              write MODEL_CARDS.md anew"
	@echo "make docs               the API reference in build/docs, from the docstrings"
	@echo "make wheels             the wheels of Linux, x86-64 and ARM, in dist/"
	@echo "make lint               ruff, mypy, and the sources of figures and the terms in the documents"
	@echo "make .venv              only the environment that all of these use (PYTHON=python3.12 picks another Python)"
	@echo "make clean              remove build products; the environment stays (rm -r .venv removes it)"

train: .venv
	$(BIN)/python train.py $(ARGS)

test: .venv
	$(PYTEST) -m "not slow and not gpu" $(ARGS)

test-all: .venv
	$(PYTEST) $(ARGS)

test-newest:
	$(PYTHON) tests/packaging/any_versions.py --newest $(ARGS)

test-crossings: .venv
	$(BIN)/python tests/crossings/run.py $(ARGS)

test-arm: .venv
	$(BIN)/python tests/arm/run.py $(ARGS)

bench: .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[bench]"
	$(BIN)/python benchmarks/cpu_runtimes.py
	$(BIN)/python benchmarks/cpu.py
	$(BIN)/python benchmarks/cpu_models.py
	$(BIN)/python benchmarks/each_model.py
	$(BIN)/python benchmarks/families.py

cards: .venv
	$(BIN)/python -m tools.cards $(ARGS)

docs: .venv
	$(BIN)/python -m pdoc --docformat google --output-directory build/docs $(DOCUMENTED)

wheels: .venv
	$(BIN)/python -m tools.wheels $(ARGS)

lint: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tools.prose

.venv: .venv/installed .venv/native

# Stamps rather than the folder itself: a failed or interrupted install is tried again, a finished one is not redone.
.venv/installed: pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; v = "%d.%d" % sys.version_info[:2]; \
	sys.version_info >= (3, 11) or sys.exit("vimzoo needs Python 3.11 or newer, $(PYTHON) is " + v + "; try make PYTHON=python3.12"); \
	sys.version_info < (3, 14) or sys.exit("Hydra 1.3, which the trainer needs, does not start on Python " + v + "; try make PYTHON=python3.13")'
	$(PYTHON) -m venv .venv
	@echo "Installing into .venv; torch and what it needs are several gigabytes."
	$(BIN)/python -m pip install --disable-pip-version-check -e ".[dev]"
	@touch $@ .venv/native

# The install above has built the kernels; this rebuilds them when their sources change.
.venv/native: .venv/installed $(SOURCES)
	$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis vimzoo/kernels/_cpu_*.so
	find . -name __pycache__ -not -path "./.venv/*" -prune -exec rm -rf {} +
	rm -f .venv/native
