# The commands of this project. `make demo` and `make test` need root for the test host (namespaces,
# loop devices, mounts) and use sudo when they are not run by root.

CARGO ?= cargo
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)
# Cargo builds as whoever calls it, and only the tests themselves run as root.
TESTS_AS_ROOT := $(if $(AS_ROOT),--config 'target."cfg(unix)".runner = "$(AS_ROOT)"')
CARGO_DENY_VERSION = 0.20.2
CARGO_DENY = target/tools/bin/cargo-deny
SHELL_FILES = $(shell git grep -lE '^\#(!.*sh$$| shellcheck shell=)')

.PHONY: help demo test test-host build programs format lint deny host-files vm-test

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: build ## one task and its job, from nothing to nothing, shown as it happens
	@$(AS_ROOT) target/release/demo

# Programs that the tests and checks call, by the names of their packages.
PROGRAMS = curl jq packer rsync shellcheck
MISSING = $(strip $(foreach program,$(PROGRAMS),$(if $(shell command -v $(program)),,$(program))) \
	$(if $(shell python3 -c 'import ensurepip' 2>&1),python3-venv) \
	$(if $(shell command -v systemd-analyze),,systemd) $(if $(shell command -v mkfs.xfs),,xfsprogs))

test: programs format lint deny host-files images-check ## everything that can be checked on one machine
	$(CARGO) test --workspace
	$(MAKE) test-host

# The whole workspace is named, so that nothing is compiled again with fewer features.
test-host: build images-programs ## the end-to-end tests on the test host
	$(CARGO) test --release --workspace $(TESTS_AS_ROOT) --features testhost/root,chain/root,slowfs/root,supervisor/root,vm/root --test storage --test host --test chain --test sidecar --test golden --test slowfs --test stores --test stack

build: ## the programs, optimised
	$(CARGO) build --release --workspace

format: ## check the format
	$(CARGO) fmt --all --check

programs: ## install what the tests call and the machine lacks
	$(if $(MISSING),$(AS_ROOT) apt-get update && $(AS_ROOT) apt-get install -y --no-install-recommends $(MISSING))

lint: programs ## clippy and shellcheck
	$(CARGO) clippy --workspace --all-targets --all-features -- -D warnings
	shellcheck --external-sources --source-path=SCRIPTDIR $(SHELL_FILES)

vm-test: build ## a host in a virtual machine: minutes of emulation
	$(CARGO) test --release --workspace $(TESTS_AS_ROOT) --features testhost/root,chain/root,vm/root,vm/machine --test machine

host-files: programs ## check the Packer template and the systemd units
	ami/test/validate
	systemd/test/verify

deny: $(CARGO_DENY) ## licences and sources of the dependencies
	$(CARGO_DENY) --log-level error check --hide-inclusion-graph licenses bans sources

$(CARGO_DENY):
	$(CARGO) install cargo-deny --locked --version $(CARGO_DENY_VERSION) --root target/tools

# The benchmark. ONLY=section,… chooses sections or comparisons; `target/release/bench list` names them.
# FULL=1 adds the sizes that do not fit into 20 minutes.
ONLY ?=
FULL ?=
# Peers and tools by the program and, where the name differs, the package.
PEERS = fpsync:fpart jq rclone rsync valgrind zstd
MISSING_PEERS = $(strip $(foreach peer,$(PEERS),$(if $(shell command -v $(firstword $(subst :, ,$(peer)))),,$(lastword $(subst :, ,$(peer))))))

.PHONY: bench bench-check bench-record bench-programs

bench: build bench-programs ## every claim beside what one would use instead (ONLY=section,… FULL=1)
	$(AS_ROOT) target/release/bench run --only "$(ONLY)"$(if $(FULL), --full)

bench-check: bench ## the same, and fail when a figure got worse than its record
	target/release/bench check

bench-record: bench ## the same, and make the figures those of record (docs/benchmarks/)
	target/release/bench record

bench-programs:
	$(if $(MISSING_PEERS),$(AS_ROOT) apt-get update && $(AS_ROOT) apt-get install -y --no-install-recommends $(MISSING_PEERS))

# The images. What checks them comes from PyPI, in the versions of tests/images/requirements.txt.
PYTHON = target/tools/python

.PHONY: images images-programs images-check

images: ## the images of a task, with Docker or, where it reaches no registry, on a test host
	MAKE="$(MAKE)" images/make.sh

images-programs: ## the programs as the images have them: static, the same bytes for the same commit
	images/build.sh target/images/build/out

images-check: programs $(PYTHON)/installed ## Dockerfiles, compose and ECS files by linters, AWS's models and moto
	$(PYTHON)/bin/python tests/images/check_images.py
	$(PYTHON)/bin/python tests/images/check_ecs.py

$(PYTHON)/installed: tests/images/requirements.txt
	python3 -m venv $(PYTHON)
	$(PYTHON)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	touch $@
