# Every target sets up what it needs. On a machine with git, make and Python, start with `make demo`.

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check

# The interpreter that .venv is made with: the first of these that runs and will do, or yours by
# `make demo PYTHON=/path/to/python`. The versions are those of python_requires in setup.cfg.
SUITABLE := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c '$(SUITABLE)' 2> /dev/null && echo $$python && break; done)

.PHONY: help demo test test-slow notebooks format check lock clean
.NOTPARALLEL:  # the targets share one .venv

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1             \2/; s/^\(make .\{12\}\) */\1/p' Makefile

demo: $(VENV)/.installed  ## train a small hedger and report how well it hedges
	$(BIN)/tfhedge train --preset demo

test: $(VENV)/.installed-dev  ## run the tests, and the examples in the documentation
	$(BIN)/pytest --numprocesses 2 --dist worksteal

test-slow: $(VENV)/.installed-dev  ## run the tests that take minutes
	$(BIN)/pytest -m slow

# What TensorFlow writes to file descriptor 2 is not part of what a cell shows.
WITHOUT_LOG := --ExecutePreprocessor.extra_arguments=--IPKernelApp.capture_fd_output=False
notebooks: $(VENV)/.installed-notebooks  ## run the notebooks again, and keep what they show
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace $(WITHOUT_LOG) notebooks/*.ipynb

format: $(VENV)/.installed-dev  ## format the code, and fix what can be fixed
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

check: $(VENV)/.installed-dev  ## check the format and the style of the code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

# The oldest Python decides: what it can install, the newer ones can.
lock: SUITABLE := import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, 11))
lock: $(VENV)-lock/bin/pip  ## renew constraints.txt (with Python 3.11)
	$(VENV)-lock/bin/python $(PIP_INSTALL) --upgrade --upgrade-strategy eager --editable '.[dev]'
	{ echo '# Versions that work together, on every Python supported. Renewed by: make lock'; \
	$(VENV)-lock/bin/pip freeze --all --exclude pip --exclude tfhedge; } > constraints.txt
	rm -rf $(VENV)-lock

clean:  ## remove .venv and what the tools left behind
	rm -rf $(VENV) *.egg-info .pytest_cache .hypothesis .ruff_cache
	find tfhedge tests -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.installed-dev: EXTRAS := [dev]
$(VENV)/.installed-notebooks: EXTRAS := [notebooks]
$(VENV)/.installed $(VENV)/.installed-dev $(VENV)/.installed-notebooks: setup.cfg pyproject.toml constraints.txt | $(BIN)/pip
	@echo 'Installing TensorFlow and the rest into $(VENV): this takes minutes the first time.'
	$(BIN)/python $(PIP_INSTALL) --constraint constraints.txt --editable '.$(EXTRAS)'
	@touch $@

%/bin/pip:
	@"$(PYTHON)" -c '$(SUITABLE)' 2> /dev/null || { echo "No suitable Python found: install \
	3.11, 3.12 or 3.13 with its venv module, or run make PYTHON=/path/to/python" >&2; exit 1; }
	"$(PYTHON)" -m venv --clear $*
