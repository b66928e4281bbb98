# One command for each thing that a person wants. `make` alone lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:

# Builds are kept outside the clone, so that the next one is quick wherever it is made.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/lifeboat-target
# rustup's programs, also where no profile was read
export PATH := $(PATH):$(HOME)/.cargo/bin

.PHONY: help demo test test-times setup-demo setup-test servers lint fmt bench clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r target what; do
		printf '  make %-12s %s\n' "$$target" "$$what"
	done
	echo "builds go to $(CARGO_TARGET_DIR); set CARGO_TARGET_DIR to change that"

demo: setup-demo ## install what is needed, build, and show the whole job on throwaway servers
	@echo "demo: building (the first time takes minutes)"
	cargo build --release --locked
	"$(CARGO_TARGET_DIR)/release/lifeboat" demo

test: setup-test ## install what is needed and run every test, against real servers
	@scripts/run-tests

test-times: setup-test ## as test, and list the slowest tests
	@scripts/run-tests --times

setup-demo: ## only install what the demo needs
	@scripts/setup demo

setup-test: ## only install what the tests need
	@scripts/setup test

servers: ## the servers that tests need and Debian does not ship: which, and whether they are installed
	@scripts/servers list

lint: ## formatting, clippy without warnings, shell scripts
	@cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	if command -v shellcheck >/dev/null; then
		shellcheck scripts/setup scripts/run-tests .ci/run
	else
		echo "lint: shell scripts not checked: apt-get install shellcheck"
	fi

fmt: ## format the code
	@cargo fmt

bench: ## measure lifeboat beside its peers
	@test -x scripts/bench || { echo "bench: there are no benchmarks yet (no scripts/bench)" >&2; exit 1; }
	scripts/setup bench
	cargo build --release --locked
	scripts/bench

clean: ## remove what was built
	@cargo clean
