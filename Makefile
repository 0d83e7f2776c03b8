# Costrel. `make demo` and `make test` work on a fresh Debian 12 or 13; `make help` lists the rest.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
MAKEFLAGS += --no-print-directory

PREFIX ?= /usr/local
TARGET := $(or $(CARGO_TARGET_DIR),target)
# A whole installation, as `make dist` packs it: bin/costrel, lib/costrel/{vminitd,costrel-vmm,vmlinux}.
STAGED := $(TARGET)/costrel
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/costrel
GUEST := x86_64-unknown-linux-gnu
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n1)


.PHONY: help build binaries kernel demo test test-kvm test-long bench bench-kvm dist install lint clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' Makefile | column -t -s '|'

build: binaries $(STAGED)/lib/costrel/vmlinux ## Build command, agent and kernel into target/costrel

binaries:
	@scripts/install-deps.sh run build
	@scripts/build.sh "$(STAGED)"

# A link into the cache: the kernel is built once for all checkouts.
$(STAGED)/lib/costrel/vmlinux: kernel/build.sh kernel/check-config.sh kernel/pack-elf.py kernel/x86_64.config
	@mkdir -p $(@D)
	@kernel=$$(kernel/build.sh) && ln -sfn "$$kernel" $@

kernel: ## Build the guest kernel into the cache, and print where it is
	@kernel/build.sh

demo: ## From nothing to a Python function that answers from its own virtual machine
	@scripts/demo.sh

test: ## All tests that fit into a quarter of an hour
	@scripts/test.sh

test-kvm: build ## The end-to-end tests on KVM, in a machine that has one (part of `make test`)
	@scripts/test-inputs.sh "$(abspath $(TARGET))/test-inputs"
	@scripts/test-kvm.sh

test-long: ## The slow ones: thousands of property cases, longer fault injection, fuzzing
	@COSTREL_LONG_TESTS=1 scripts/test.sh
	@scripts/fuzz.sh 60

bench: build ## Measure, and print a table
	@scripts/bench.py
	@scripts/bench-serve.py
	@scripts/bench-kvm.sh

bench-kvm: build ## Only our VMM on KVM, beside others
	@scripts/bench-kvm.sh

lint: ## Formatting and clippy
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets --quiet -- -D warnings

dist: build ## Pack command, agent and kernel into target/
	@name=costrel-$(VERSION)-x86_64-linux && \
	rm -rf "$(TARGET)/$$name" && mkdir -p "$(TARGET)/$$name" && \
	cp -rL "$(STAGED)/." "$(TARGET)/$$name/" && \
	cp "$$(dirname "$$(readlink -f "$(STAGED)/lib/costrel/vmlinux")")/provenance.json" "$(TARGET)/$$name/lib/costrel/" && \
	cp LICENSE README.md "$(TARGET)/$$name/" && \
	tar -C "$(TARGET)" --sort=name --owner=0 --group=0 --numeric-owner -cf - "$$name" | zstd -q -19 -T0 -f -o "$(TARGET)/$$name.tar.zst" && \
	rm -rf "$(TARGET)/$$name" && ls -l "$(TARGET)/$$name.tar.zst"

install: build ## Install below PREFIX (/usr/local)
	install -D "$(STAGED)/bin/costrel" "$(DESTDIR)$(PREFIX)/bin/costrel"
	install -D "$(STAGED)/lib/costrel/vminitd" "$(DESTDIR)$(PREFIX)/lib/costrel/vminitd"
	install -D "$(STAGED)/lib/costrel/costrel-vmm" "$(DESTDIR)$(PREFIX)/lib/costrel/costrel-vmm"
	install -D -m 644 "$(STAGED)/lib/costrel/vmlinux" "$(DESTDIR)$(PREFIX)/lib/costrel/vmlinux"
	install -D -m 644 "$$(dirname "$$(readlink -f "$(STAGED)/lib/costrel/vmlinux")")/provenance.json" "$(DESTDIR)$(PREFIX)/lib/costrel/provenance.json"

clean: ## Remove what was built here; the cache stays
	cargo clean
