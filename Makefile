# The commands a person types. Each installs what it needs and says so (scripts/prerequisites.sh).
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help build demo test test-long bench tidy fmt

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

build: ## the release binary, target/release/ripstop
	@scripts/prerequisites.sh demo
	@. scripts/lib.sh && cargo build --release --package ripstop

demo: ## build and start the demo mesh; Ctrl-C stops it
	@scripts/demo.sh

test: ## format, lint, invariants, licences and the whole test suite
	@scripts/test.sh

test-long: ## the same, and the tests that compare figures
	@scripts/test.sh long

bench: ## measure and print; asserts nothing
	@scripts/bench.sh

tidy: ## the crate edges and the invariants
	@. scripts/lib.sh && cargo xtask tidy

fmt: ## format the Rust code
	@. scripts/lib.sh && cargo fmt --all
