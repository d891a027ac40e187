# The commands of this project. `make demo` and `make test` need root for the test host (namespaces,
# loop devices, mounts) and use sudo when they are not run by root.

CARGO ?= cargo
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env=PATH,CARGO_HOME,RUSTUP_HOME)
SHELL_FILES = $(shell git ls-files '*.sh' .ci/run)

.PHONY: help demo test test-host format lint build

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: build ## one task and its job, from nothing to nothing, shown as it happens
	@$(AS_ROOT) target/release/demo

test: format lint ## everything that can be checked on one machine
	$(CARGO) test --workspace
	$(MAKE) test-host

test-host: build ## the end-to-end tests on the test host (root)
	$(AS_ROOT) $(CARGO) test --release -p testhost --features root --test host
	$(AS_ROOT) $(CARGO) test --release -p chain --features root --test chain

build: ## the programs, optimised
	$(CARGO) build --release --workspace

format: ## check the format
	$(CARGO) fmt --all --check

lint: ## clippy with the project's lints
	$(CARGO) clippy --workspace --all-targets --all-features -- -D warnings
