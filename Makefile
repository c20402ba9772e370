# The commands of a developer.  Needs CPython 3.11 or newer, make and a C compiler.
#
#   make demo       install into .venv and show the package at work
#   make test       everything CI runs
#   make dev        editable install with C asserts, for working on the code
#   make test-c asan ubsan tsan    the C tests, plain and under each sanitizer
#   make fuzz       fuzz the loader for 10 minutes (clang); ARGS=-max_total_time=60
#   make asan-py ubsan-py tsan-py    the extension under a sanitizer, beneath the Python tests
#   make valgrind   the C tests under valgrind's memcheck
#   make emulated   the fast tests as CPUs without AVX, without AVX-512, and as Arm; needs qemu-user
#   make corrupt    every test of damaged files, under ASan: half an hour
#   make stress     the threaded C tests under TSan for 10 minutes (STRESS_SECONDS=)
#   make simd       all Python tests, once per SIMD level (`make test`: kernels below the newest)
#   make ecosystem  the tests of what works with other projects, in an environment with all of them
#   make docs       the pages, into build/docs
#   make test-ray   all tests on a Ray cluster of this machine, in 5 minutes; Linux
#   make profile    flame graphs and hottest lines of a build and a search; needs perf
#                   (Debian: apt-get install linux-perf binutils)
#   make count      what searches read: nodes, links, codes, vectors, cache lines
#   make wheels     build and check wheels for Linux; the C core for macOS and Windows
#   make bench bench-all lint annotate clean
#
# Variables: PYTHON (the interpreter), CC, VECIDX_STRICT=1 (a missing tool is an
# error, not a skip), ARGS (for demo, bench, profile, emulated, wheels, asan-py ...).

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check -q
ifeq ($(origin CC),default)
CC := cc
endif
ARGS ?=

CSRC := src/vecidx/csrc
C_HEADERS := $(wildcard $(CSRC)/*.h $(CSRC)/*/*.h)
C_SOURCES := $(wildcard $(CSRC)/*/*.c)
C_TESTS := $(patsubst tests/c/%.c,%,$(wildcard tests/c/test_*.c))
PACKAGE := setup.py pyproject.toml $(C_HEADERS) $(C_SOURCES) $(wildcard src/vecidx/*.py* \
	src/vecidx/*/*.py* src/vecidx/*.pxd src/vecidx/*.pxi src/vecidx/py.typed) README.md

# The packages of an extra in pyproject.toml.
extra = $$($(PY) -c "import tomllib; print(*tomllib.load(open('pyproject.toml', \
	'rb'))['project']['optional-dependencies']['$(1)'])")

.PHONY: all demo test test-ray dev docs ecosystem test-c asan ubsan tsan stress fuzz corrupt simd \
	test-arm64 emulated valgrind asan-py ubsan-py tsan-py \
	bench bench-all profile count lint annotate wheels clean
all: $(VENV)/.installed

# ---- the environment ---------------------------------------------------------

$(VENV)/.made:
	@$(PYTHON) -c "" 2>/dev/null || { echo "vecidx: no interpreter '$(PYTHON)'; \
	choose one of CPython 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and \
	'vecidx: needs CPython 3.11 or newer, but $(PYTHON) is %d.%d; choose another: make \
	PYTHON=python3.12 $(MAKECMDGOALS)' % sys.version_info[:2])"
	$(PYTHON) -m venv $(VENV)
	$(PIP) install "setuptools>=77" "cython>=3.1" "numpy>=1.25"
	@touch $@

$(VENV)/.installed: $(VENV)/.made $(PACKAGE)
	@rm -rf build/py/*/lib* $(VENV)/.dev
	$(PIP) install --no-build-isolation .
	@touch $@

$(VENV)/.extra-%: $(VENV)/.made pyproject.toml
	$(PIP) install --prefer-binary $(call extra,$*)
	@touch $@

# The tests need pytest; those that need another package are skipped where it has no
# wheel.  What is missing is tried again next time.
$(VENV)/.extra-test: $(VENV)/.made pyproject.toml
	$(PIP) install --prefer-binary pytest
	@missing=0; for package in $(call extra,test); do \
	$(PIP) install --only-binary :all: "$$package" || { missing=1; \
	echo "$(if $(filter 1,$(VECIDX_STRICT)),FAILED,SKIPPED): no wheel of $$package" >&2; }; done; \
	if [ $$missing = 0 ]; then touch $@; else [ "$(VECIDX_STRICT)" != 1 ]; fi

# Ray has wheels for fewer systems.
$(VENV)/.extra-test-ray: $(VENV)/.made pyproject.toml
	@if $(PIP) install --only-binary :all: $(call extra,test-ray); then touch $@; \
	else echo "$(if $(filter 1,$(VECIDX_STRICT)),FAILED,SKIPPED): no wheel of Ray" >&2; \
	[ "$(VECIDX_STRICT)" != 1 ]; fi

# The pages are built by Sphinx, which tests do without.
$(VENV)/.extra-docs: $(VENV)/.made pyproject.toml
	@if $(PIP) install --prefer-binary $(call extra,docs); then touch $@; \
	else echo "$(if $(filter 1,$(VECIDX_STRICT)),FAILED,SKIPPED): no Sphinx" >&2; \
	[ "$(VECIDX_STRICT)" != 1 ]; fi

# The demo does without.
$(VENV)/.extra-progress: $(VENV)/.made pyproject.toml
	@if $(PIP) install --prefer-binary $(call extra,progress); then touch $@; \
	else echo "SKIPPED: no tqdm, and so no progress bar" >&2; fi

# ---- using it ------------------------------------------------------------------

demo: $(VENV)/.installed $(VENV)/.extra-progress
	@$(PY) -m vecidx demo $(ARGS)

dev: $(VENV)/.made $(VENV)/.extra-test
	VECIDX_ASSERTS=1 $(PIP) install --no-build-isolation -e .
	@rm -f $(VENV)/.installed; touch $(VENV)/.dev

bench: $(VENV)/.installed $(VENV)/.extra-bench
	$(PY) benchmarks/compare.py $(ARGS)

# Every library that compare.py knows; one that cannot be installed is named, with pip's reason.
bench-all: $(VENV)/.installed $(VENV)/.extra-bench
	@mkdir -p build; for package in $(call extra,bench-all); do \
	$(PIP) install --prefer-binary "$$package" >build/pip.log 2>&1 || \
	echo "SKIPPED: $$package: $$(grep -m1 -i error build/pip.log)" >&2; done
	$(PY) benchmarks/compare.py --libraries all $(ARGS)

# What users get (setup.py's flags, no asserts), with the symbols that wheels are stripped of, in
# a folder of its own: the environment keeps what it has.
build/profile/site/.built: $(VENV)/.made $(PACKAGE)
	@rm -rf build/py/*/lib* build/profile/site
	$(PIP) install --no-build-isolation --no-deps --target build/profile/site .
	@touch $@

# 77: perf is missing, which record_profile.py says.
profile: build/profile/site/.built
	@PYTHONPATH=$(abspath build/profile/site) $(PY) tools/record_profile.py $(ARGS) || \
	{ code=$$?; [ $$code = 77 ] && [ "$(VECIDX_STRICT)" != 1 ]; }

build/count/site/.built: $(VENV)/.made $(PACKAGE)
	@rm -rf build/py/*-counts/lib* build/count/site
	VECIDX_COUNT_WORK=1 $(PIP) install --no-build-isolation --no-deps --target build/count/site .
	@touch $@

count: build/count/site/.built
	@PYTHONPATH=$(abspath build/count/site) $(PY) tools/count_work.py $(ARGS)

annotate: $(VENV)/.made
	@mkdir -p build/annotate
	$(PY) -m cython -3 -a -I src -o build/annotate/_core.c src/vecidx/_core.pyx
	@echo build/annotate/_core.html

# ---- checking it ----------------------------------------------------------------

test: $(VENV)/.installed $(VENV)/.extra-test $(VENV)/.extra-test-ray $(VENV)/.extra-docs
	@MAKE="$(MAKE)" CC="$(CC)" $(PY) tools/run_checks.py

simd: $(VENV)/.installed $(VENV)/.extra-test
	@MAKE="$(MAKE)" CC="$(CC)" $(PY) tools/run_checks.py simd

# Other projects are large, and so have an environment of their own.  The whole suite has
# these tests, and skips each where its project is missing.  txtai and mteb bring torch, of which
# there are large and small builds: PIP_CONSTRAINT can name one.
ECOSYSTEM := build/ecosystem
ECOSYSTEM_TESTS := tests/ecosystem tests/test_stores.py tests/test_docs.py tests/test_examples.py

$(ECOSYSTEM)/.installed: $(VENV)/.made $(PACKAGE) requirements/ecosystem.txt
	$(PYTHON) -m venv $(ECOSYSTEM)
	$(ECOSYSTEM)/bin/pip --disable-pip-version-check -q install --prefer-binary \
	-r requirements/ecosystem.txt
	@rm -rf build/py/*/lib*
	$(ECOSYSTEM)/bin/pip --disable-pip-version-check -q install --no-deps .
	@touch $@

ecosystem: $(ECOSYSTEM)/.installed
	VECIDX_ECOSYSTEM=1 $(ECOSYSTEM)/bin/python -m pytest -q -rs $(ECOSYSTEM_TESTS) $(ARGS)

docs: $(VENV)/.installed $(VENV)/.extra-docs
	$(PY) -m sphinx -W --keep-going -q -b html docs build/docs
	@echo build/docs/index.html

test-ray: $(VENV)/.installed $(VENV)/.extra-test $(VENV)/.extra-test-ray
	@VECIDX_LONG=1 $(PY) tools/run_checks.py ray

lint: $(VENV)/.made $(VENV)/.extra-lint
	$(PY) tools/check_includes.py
	$(VENV)/bin/ruff check src tests tools benchmarks examples docs setup.py
	PATH="$(abspath $(VENV)/bin):$$PATH" cython-lint src/vecidx/_core.pyx src/vecidx/_vecidx.pxd

# ---- C tests: build/c/<variant>/, asserts on --------------------------------------

C_WARN := -Wall -Wextra -Wconversion -Wshadow -Wvla
C_FLAGS := -std=c11 -D_GNU_SOURCE -g -fno-omit-frame-pointer -ffp-contract=off -pthread $(C_WARN) \
	-I$(CSRC) -Itests/c
C_FLAGS_plain := -O2
C_FLAGS_asan := -O1 -fsanitize=address,undefined -fno-sanitize-recover=all
C_FLAGS_ubsan := -O1 -fsanitize=undefined -fno-sanitize-recover=all
C_FLAGS_tsan := -O1 -fsanitize=thread
# Damaged files take minutes and are for ASan; what lacks memory has nothing new for TSan.
C_SKIP_plain := test_corrupt
C_SKIP_ubsan := test_corrupt
C_SKIP_tsan := test_corrupt test_nomem
# TSan of older compilers cannot stand a fully randomised address space.
C_RUN_tsan := $(shell command -v setarch >/dev/null && setarch -R true 2>/dev/null && echo setarch -R)

# As in setup.py: the flags of files that are for one instruction set.
ARCH := $(patsubst amd64,x86_64,$(shell uname -m))
ISA_avx512 := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c
ISA_x86_64_hnsw_walk_avx2 := -mavx2 -mfma -mf16c
ISA_x86_64_hnsw_walk_avx512 := $(ISA_avx512)
ISA_x86_64_hnsw_walk_avx512vnni := $(ISA_avx512) -mavx512vnni
ISA_x86_64_store_crc_hw := -msse4.2
ISA_aarch64_store_crc_hw := -mcpu=generic+crc

# $(1): variant.  Objects, an archive of csrc, one program per test file.
define c_variant
build/c/$(1)/%.o: $(CSRC)/%.c Makefile
	@mkdir -p $$(@D)
	$$(CC) $$(C_FLAGS) $$(C_FLAGS_$(1)) $$(ISA_$(or $(ARCH_$(1)),$(ARCH))_$$(notdir $$*)) \
	-MMD -c $$< -o $$@
build/c/$(1)/libvecidx.a: $(patsubst $(CSRC)/%.c,build/c/$(1)/%.o,$(C_SOURCES))
	@rm -f $$@
	@$$(AR) rcs $$@ $$^
build/c/$(1)/test_%: tests/c/test_%.c build/c/$(1)/libvecidx.a Makefile
	$$(CC) $$(C_FLAGS) $$(C_FLAGS_$(1)) -MMD $$< build/c/$(1)/libvecidx.a -lm -o $$@
-include $(patsubst $(CSRC)/%.c,build/c/$(1)/%.d,$(C_SOURCES)) $(C_TESTS:%=build/c/$(1)/%.d)
runs_$(1) := $(patsubst %,run-$(1)-%,$(filter-out $(C_SKIP_$(1)),$(C_TESTS)))
run-$(1): $$(runs_$(1))
$$(runs_$(1)): run-$(1)-%: build/c/$(1)/%
	@echo "$$<"; $$(C_RUN_$(1)) $$<
.PHONY: run-$(1) $$(runs_$(1))
endef
$(foreach variant,plain asan ubsan tsan,$(eval $(call c_variant,$(variant))))

# Clang's UBSan finds more than GCC's.
SAN_CC ?= $(if $(shell command -v clang),clang,$(CC))
build/c/asan/%: CC := $(SAN_CC)
build/c/ubsan/%: CC := $(SAN_CC)

# For 64-bit Arm, by a cross compiler, run by qemu: a name of both is in each Linux distribution.
ARM_AR ?= aarch64-linux-gnu-ar
ARM_CC ?= aarch64-linux-gnu-gcc
QEMU_ARM ?= $(firstword $(shell command -v qemu-aarch64 qemu-aarch64-static) qemu-aarch64)
C_FLAGS_arm64 := -O2 -static
ARCH_arm64 := aarch64
C_RUN_arm64 := $(QEMU_ARM)
build/c/arm64/%: CC := $(ARM_CC)
build/c/arm64/%: AR := $(ARM_AR)
$(eval $(call c_variant,arm64))

# What a smaller CPU, or an Arm one, does: all C tests and the fast tier, emulated (Linux, x86-64).
test-arm64: run-arm64
emulated: $(VENV)/.installed $(VENV)/.extra-test
	@MAKE="$(MAKE)" $(PY) tools/check_emulated.py $(ARGS)

# C tests with every read and write watched: build, search, filters, save, load, each with allocations
# that fail.  Valgrind has no AVX-512, which the CPU then does not claim to have, and too little address
# space for the tests of planes and threads.  Threads of the pool live to the end: no leak.
VALGRIND_TESTS ?= alloc cpu rows bits store store_index filter index
valgrind: $(VALGRIND_TESTS:%=build/c/plain/test_%)
	@for test in $^; do echo "$$test"; \
	valgrind -q --error-exitcode=9 --leak-check=full --show-leak-kinds=definite \
	--errors-for-leak-kinds=definite $$test || exit 1; done

# The extension itself under sanitizers, beneath the Python tests.
asan-py ubsan-py tsan-py: $(VENV)/.made $(VENV)/.extra-test
	@$(PY) tools/sanitize.py $(@:-py=) $(ARGS)

# A fuzzer of the loader, by clang's libFuzzer, 10 minutes unless ARGS says otherwise;
# what it finds is a file build/fuzz/crash-*.  Mended, it becomes a test.
FUZZ_CC ?= clang
C_FLAGS_fuzz := -O1 -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=all
build/c/fuzz/%: CC := $(FUZZ_CC)
$(eval $(call c_variant,fuzz))
build/c/fuzz/fuzz_load: tests/c/fuzz_load.c tests/c/vx_damage.h build/c/fuzz/libvecidx.a
	$(CC) $(C_FLAGS) $(C_FLAGS_fuzz) -fsanitize=fuzzer $< build/c/fuzz/libvecidx.a -lm -o $@
fuzz: build/c/fuzz/fuzz_load
	@mkdir -p build/fuzz/corpus build/fuzz/seeds
	@cp tests/golden/*.vidx build/fuzz/seeds
	build/c/fuzz/fuzz_load -artifact_prefix=build/fuzz/ -max_len=450000 -timeout=25 \
	-max_total_time=600 -print_final_stats=1 $(ARGS) build/fuzz/corpus build/fuzz/seeds

corrupt: build/c/asan/test_corrupt
	VECIDX_LONG=1 $<

STRESS_SECONDS ?= 600
stress: build/c/tsan/test_living build/c/tsan/test_writers build/c/tsan/test_pool
	@end=$$(($$(date +%s) + $(STRESS_SECONDS))); rounds=0; \
	while [ $$(date +%s) -lt $$end ]; do \
	for test in $^; do $(C_RUN_tsan) $$test || exit 1; done; rounds=$$((rounds + 1)); done; \
	echo "$$rounds rounds"

test-c: run-plain
asan: run-asan
ubsan: run-ubsan
tsan: run-tsan

# ---- shipping it -------------------------------------------------------------------

# For Linux, by a compiler that brings the C libraries; without containers (wheels/README.md).
wheels: $(VENV)/.made
	@rm -f wheels/*.whl
	$(PY) wheels/build.py $(ARGS)

clean:
	rm -rf build dist $(VENV) wheels/*.whl src/*.egg-info .hypothesis .ruff_cache
	find src tests tools benchmarks -name __pycache__ -prune -exec rm -rf {} +
	rm -f src/vecidx/*.so src/vecidx/*.pyd
