# make          what there is to make
# make demo     build, start a private node, run examples/hello.yaml, fetch its page
# make test     format, lints, every test; installs what the tests need
# make vm       the tests that need systemd and cgroup v2, and all of the runtime's, in a guest under qemu
# make fuzz     hostile input for the runtime's parsers, FUZZ_SECONDS (300) for each; needs a nightly toolchain
# make peers    containerd, podman and Docker with orlop-runtime as their runtime, beside runc
# make bench    figures beside a peer, as ratios, in one run

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help build demo demo-stop test lint unit e2e vm fuzz peers bench deps deps-build deps-vm deps-peers clean install

# Releases are static. Where rustup cannot give the musl target, a static glibc build stands in.
MUSL   := x86_64-unknown-linux-musl
TARGET := $(shell rustup target list --installed 2>/dev/null | grep -qx $(MUSL) && echo $(MUSL) || \
            { rustup target add $(MUSL) >/dev/null 2>&1 && echo $(MUSL) || echo x86_64-unknown-linux-gnu; })
export CARGO_BUILD_TARGET := $(TARGET)
OUT    := target/$(TARGET)
BIN    := $(OUT)/bin
SHARE   = $(DESTDIR)/usr/local/share
# Nothing unwinds where a panic aborts, so the tables of frames are left out.
SMALL_FLAGS := --config 'target.$(TARGET).rustflags=["-Ctarget-feature=+crt-static","-Crelocation-model=static",\
"-Clink-arg=-Wl,--no-eh-frame-hdr","-Clink-arg=-T","-Clink-arg=$(CURDIR)/dist/no-unwind.ld"]'

help:
	@grep -E '^# make' Makefile | sed 's/^# //'

# A C compiler for musl; everything else a build needs is cargo's.
deps-build:
	@command -v musl-gcc >/dev/null || dist/apt-install musl-tools

# What the tests drive: a real registry, real programs to put into images, real peers.
deps: deps-build
	@dist/apt-install busybox-static docker-registry skopeo umoci runc nftables iproute2 curl bsdutils \
	  kubernetes-client:kubectl uidmap:newuidmap util-linux:setpriv python3-seccomp golang-github-containers-common criu

# A guest of its own kernel. Where qemu cannot be installed the tests in it say SKIP.
deps-vm: deps-build
	-@dist/apt-install qemu-system-x86:qemu-system-x86_64 mmdebstrap e2fsprogs:mke2fs util-linux:setpriv \
	  debian-archive-keyring

# The daemons in one program; the runtime, the shim and the plugins as small ones.
build: deps-build
	cargo build --release -p orlop -p orlop-cri -p orlop-cni
	cargo build --profile small $(SMALL_FLAGS) -p orlop-runtime -p orlop-shim
	@mkdir -p $(BIN)
	@install -m 0755 $(OUT)/release/{orlop,orlop-cri,orlop-cni} $(OUT)/small/{orlop-runtime,orlop-shim} $(BIN)/
	@ls -l $(BIN) | awk 'NR>1 {printf "%8.1f KiB  %s\n", $$5/1024, $$9}'

demo: build
	cargo build --profile small -p orlop-hello
	@BIN=$(BIN) HELLO=$(OUT)/small/orlop-hello examples/demo.sh run

demo-stop:
	@BIN=$(BIN) examples/demo.sh stop

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo rustc -q -p orlop-runtime --lib --profile check -- --cfg fuzzing -D warnings

unit: deps
	cargo build -p orlop-shim -p orlop-runtime -p orlop-cri -p orlop-cni -p orlop
	cargo nextest run --workspace --exclude orlop-tests

e2e: deps deps-vm
	cargo build -p orlop-shim -p orlop-runtime -p orlop-cri -p orlop-cni -p orlop -p orlop-hello
	cargo test -p orlop-tests

test: deps lint unit e2e

vm: deps-vm
	cargo build -p orlop-shim -p orlop-runtime -p orlop
	ORLOP_VM=all cargo test -p orlop-tests --test vm

FUZZ_SECONDS ?= 300
fuzz:
	@fuzz/run $(FUZZ_SECONDS)

# Not part of `make test`: their packages are large.
deps-peers: deps-build
	@dist/apt-install busybox-static runc bsdutils util-linux:setpriv containerd podman conmon docker.io:dockerd \
	  docker.io:docker

peers: deps-peers
	cargo build -p orlop-runtime
	ORLOP_BIN=$(abspath $(OUT))/debug cargo test -p orlop-tests --test peers

bench: deps deps-vm build
	cargo build --release -p orlop-tests --bin bench
	ORLOP_BIN=$(abspath $(BIN)) $(OUT)/release/bench

install: build
	install -D -m 0755 -t $(DESTDIR)/usr/local/bin $(BIN)/*
	install -D -m 0644 -t $(DESTDIR)/etc/systemd/system dist/orlop.service
	cargo build -p orlop-runtime --example manual
	$(OUT)/debug/examples/manual $(OUT)/manual
	install -D -m 0644 -t $(SHARE)/man/man8 $(OUT)/manual/man8/*
	install -D -m 0644 $(OUT)/manual/bash/orlop-runtime.bash $(SHARE)/bash-completion/completions/orlop-runtime
	install -D -m 0644 -t $(SHARE)/zsh/site-functions $(OUT)/manual/zsh/_orlop-runtime
	install -D -m 0644 -t $(SHARE)/fish/vendor_completions.d $(OUT)/manual/fish/orlop-runtime.fish

clean:
	cargo clean
