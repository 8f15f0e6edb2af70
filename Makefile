# make run    set up what a run needs, and run the main job on the embedded model
# make check  while working: lint, types and the tests that compute little (a minute and a half)
# make test   set up and run all tests
# make lint   formatting, lint and types
# make docs   docs/ and the reference of the modules as a site, build/docs; a warning is an error
# make chaos  160 faults on purpose (kills, full disks, damaged files, ...), then `survived N of N`
# make audit  licences of all that is installed, then its known vulnerabilities (asks PyPI)
# make paper  the paper in miniature: every experiment on both built-in tasks, then the report in
#             report/paper (SEEDS=10 for narrower intervals; goes on where it was stopped)
# make objectives  the bench of objectives: every objective and anchor, tuned and under stress, on
#             both built-in tasks, into runs/objectives and docs/objectives.md; about three hours, goes
#             on where it was stopped (OBJECTIVES="--tiny": all of it in a minute, to see that it runs)
# make paper-smol  the paper's objectives on SmolLM2-135M-Instruct, into runs/smol and
#             docs/paper-at-135m.md; three hours, goes on where it was stopped
#             (PAPER_SMOL="--tiny": all of it in a minute, to see that it runs)
# make tune   the sweep that chose the learning rates of the built-in models
# make bench  time and memory side by side with what people would use instead, on the CPU, into
#             docs/benchmarks.md, goes on where it was stopped (BENCH="--all": every shape);
#             make bench-gpu the same on one CUDA card, with models of 7B
# make bench-check  whether anything has become slower than in docs/benchmarks-check.json, in a minute
# make gpu-check  what holds on this CUDA card: ten minutes, one line a claim, into build/gpu-check
#             (GPU_CHECK="--tiny": all of it on the CPU, to see that it runs; docs/gpu.md)
# make gpu-simulate  a 7B without a card and without its memory, on torch's build for CUDA: what is
#             alive at most, against the plan, and which kernels attend, into build/simulation.md.
#             That torch comes into .venv-cuda: several GB
PYTHON ?= python3
VENV ?= .venv
READY := $(VENV)/.ready
RUNS := $(VENV)/.runs
CUDA_VENV ?= .venv-cuda
CUDA_TORCH ?= torch==2.11.0
CUDA_READY := $(CUDA_VENV)/.ready
SEEDS ?= 3
JOBS ?= 2
# Hundreds of processes import the same modules: they are compiled once, whatever the shell says.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run check test chaos audit lint docs paper paper-smol objectives tune bench bench-gpu bench-check gpu-check gpu-simulate
run: $(RUNS)
	$(VENV)/bin/python main.py

check: lint
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile \
		-m "not process and not runs and not browser and not slow"

# On two cores a third worker computes where the others wait for processes and browsers.
test: $(READY)
	$(VENV)/bin/python -m pytest -n 3 --dist loadfile

chaos: $(READY)
	PYTHONPATH=.:tests $(VENV)/bin/python -m e2e.chaos $(CHAOS)

# --strict: what PyPI does not know is no pass. Editable is this project; +cpu is a build of torch.
audit: $(READY)
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/pip install --quiet pip-audit pip-licenses
	$(VENV)/audit/bin/pip-licenses --python=$(VENV)/bin/python --summary --order=count
	$(VENV)/bin/python -m pip list --format=freeze --exclude-editable | sed 's/+.*//' > $(VENV)/audit/installed.txt
	$(VENV)/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement $(VENV)/audit/installed.txt

lint: $(READY)
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

# Runs of one thread each, JOBS at a time.
seeds = $(shell $(PYTHON) -c "print(*range($(SEEDS)), sep=',')")
sweep = OMP_NUM_THREADS=1 $(VENV)/bin/python main.py -m track=none hydra/launcher=joblib \
	hydra.launcher.n_jobs=$(JOBS)

paper: $(READY)
	$(sweep) sweep=miniature model=micro,micro_open_weak seed=$(seeds) runs_dir=runs/paper
	$(sweep) sweep=seeds model=micro_open seed=$(seeds) runs_dir=runs/paper
	$(VENV)/bin/python -m analysis all runs=runs/paper out=report/paper

objectives: $(READY)
	$(VENV)/bin/python -m benchmarks.objectives --seeds $(SEEDS) --jobs $(JOBS) $(OBJECTIVES)

paper-smol: $(READY)
	$(VENV)/bin/python -m benchmarks.smol --seeds $(SEEDS) --jobs $(JOBS) $(PAPER_SMOL)

tune: $(READY)
	$(sweep) sweep=tune model=micro optim.lr=1e-5,3e-5,1e-4,3e-4 runs_dir=runs/tune
	$(sweep) sweep=tune model=micro_open data.heldout=320 \
		optim.lr=3e-7,1e-6,3e-6,1e-5,3e-5,1e-4,3e-4 runs_dir=runs/tune
	$(sweep) sweep=tune model=micro_open_weak data.heldout=320 \
		optim.lr=3e-6,1e-5,3e-5,1e-4,3e-4,1e-3 runs_dir=runs/tune
	$(VENV)/bin/python -m analysis tuning runs=runs/tune out=report/tune

bench: $(READY)
	$(VENV)/bin/python -m benchmarks.suite $(BENCH)

bench-gpu: $(READY)
	$(VENV)/bin/python -m benchmarks.suite --suite gpu $(BENCH)

bench-check: $(READY)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m benchmarks.check $(BENCH_CHECK)

gpu-check: $(READY)
	$(VENV)/bin/python -m benchmarks.gpu_check $(GPU_CHECK)

gpu-simulate: $(CUDA_READY)
	mkdir -p build
	OMP_NUM_THREADS=1 $(CUDA_VENV)/bin/python -m benchmarks.simulation --device cuda --out build/simulation

# PyPI's torch for Linux is the one for CUDA; the tested set is that of the CPU. An older torch wants
# an older setuptools: held to the tested one, pip would take another torch.
$(CUDA_READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(CUDA_VENV)
	{ grep -Ev '^(torch|setuptools)==' constraints.txt; echo '$(CUDA_TORCH)'; } > $(CUDA_VENV)/constraints.txt
	$(CUDA_VENV)/bin/pip install --quiet --no-cache-dir '$(CUDA_TORCH)'
	$(CUDA_VENV)/bin/pip install --quiet --constraint $(CUDA_VENV)/constraints.txt --editable .
	touch $(CUDA_READY)

# What a run needs, and shown as it comes. torch first: asked for alone it is the build of this
# platform, and what follows leaves it as it is.
$(RUNS): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --constraint constraints.txt torch
	$(VENV)/bin/pip install --constraint constraints.txt --editable .
	touch $(RUNS)

# What tests, docs and benchmarks need besides.
$(READY): $(RUNS)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)
