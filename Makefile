# distsqz: `make demo` runs the main job to its report, `make test` proves it; both set up everything first.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
FASHION_MNIST := /usr/share/datasets/fashion-mnist

.PHONY: demo test lint docs clean data sshd

demo: .venv/.installed data
	$(BIN)/python launch/compare.py --data fashion-mnist --image-size 64 --num-classes 1000 \
	  --steps 20 --warmup-steps 3 --block-steps 2
	@run=$$(ls -td runs/*/ | head -1) && \
	  $(BIN)/python analysis/report.py "$$run" --html "$${run}page.html" >/dev/null

test: .venv/.installed data sshd lint
	$(BIN)/python -m pytest

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# The API pages, in build/api, of all rooms but the command. A warning is an error: a module that cannot be imported, an annotation
# that does not resolve. Two are known: pandas' Series takes a type for type checkers alone, and pdoc finds no source of a function
# that torch assigns.
API := distsqz distsqz.errors $(filter-out distsqz.cli distsqz.__pycache__,$(subst /,.,$(patsubst %/,%,$(wildcard distsqz/*/))))
docs: .venv/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --editable '.[docs]'
	$(BIN)/python -W error::UserWarning -W 'ignore:Error parsing type annotation pd.Series:UserWarning' \
	  -W 'ignore:Cannot determine where distsqz.strategies.parameter_server.arrival:UserWarning' \
	  -m pdoc --docformat google --output-directory build/api $(API)

# The stamp is written last, so that an installation cut short is made again.
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq \
	  && apt-get install -y -qq python3-venv; } \
	  || { echo "make: $(PYTHON) has no venv; install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --editable '.[test]'
	touch $@

# Fashion-MNIST from Debian where that can be had; elsewhere the loader fetches the official files itself.
data:
	@if [ ! -d $(FASHION_MNIST) ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  (apt-get update -qq && apt-get install -y -qq dataset-fashion-mnist) >/dev/null \
	    || echo "make: Debian's dataset-fashion-mnist could not be installed; the official files will be fetched" >&2; \
	fi

# For the hosts of a lab, which start sshd on their own addresses. On this machine itself a freshly installed one is not to run.
APT := apt-get install -y -qq --no-install-recommends
sshd:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && [ ! -x /usr/sbin/sshd ]; then \
	  (apt-get update -qq && RUNLEVEL=1 $(APT) openssh-server \
	    && { systemctl disable --now ssh.service ssh.socket || true; }) >/dev/null 2>&1 \
	    || echo "make: openssh-server could not be installed; what needs it is skipped" >&2; \
	fi
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! command -v rsync >/dev/null; then \
	  (apt-get update -qq && $(APT) rsync) >/dev/null 2>&1 \
	    || echo "make: rsync could not be installed; what needs it is skipped" >&2; \
	fi

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
