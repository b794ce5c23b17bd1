# smallfirst. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CACHE ?= $(if $(SMALLFIRST_CACHE),$(SMALLFIRST_CACHE),$(HOME)/.cache/smallfirst)
TOOLS := $(CACHE)/tools/bin
CARGO_DENY_VERSION := 0.20.2
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
# From Debian: what builds need, what the test cluster's node is made of, and a server that tests start themselves: at run
# level 1 Debian installs one without starting it.
DEBIAN := build-essential ca-certificates git pkg-config python3 python3-pip python3-venv redis-server $(shell cat tests/cluster/debian-packages.txt)

export PATH := $(TOOLS):$(PATH)

.PHONY: help
help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: deps
deps: ## Install what a fresh Debian machine needs (Rust and Go must be there)
	@echo "[1/4] Debian packages"
	@missing=$$({ dpkg-query -W -f='$${db:Status-Status} $${Package}\n' $(DEBIAN) 2>/dev/null || true; } | awk '$$1 == "installed" {print $$2}' | sort | comm -13 - <(printf '%s\n' $(DEBIAN) | sort)); \
	if [ -n "$$missing" ]; then $(SUDO) apt-get update -qq && $(SUDO) env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; fi
	@echo "[2/4] crates"
	@cargo fetch --locked --quiet
	@echo "[3/4] cargo-deny $(CARGO_DENY_VERSION)"
	@$(TOOLS)/cargo-deny --version 2>/dev/null | grep -qF ' $(CARGO_DENY_VERSION)' || cargo install --locked --quiet --root $(CACHE)/tools cargo-deny@$(CARGO_DENY_VERSION)
	@echo "[4/4] Kubernetes for the tests (about 6 minutes, once)"
	@tests/cluster/run build --variant control-plane
	@tests/cluster/run fetch
	@cd tests/gitops && go mod download && go mod download $$(cat modules.txt)
	@cd tests/cluster/parts && go mod download k8s.io/kubernetes

.PHONY: build
build: ## Build the binary for release: target/release/smallfirst
	cargo build --locked --release

.PHONY: check
check: ## Format, lints, generated files, licences and sources, rustdoc
	cargo fmt --all --check
	cargo clippy --locked --all-targets -- -D warnings
	@# Of the build that the tests need too: that of `cargo run` would have its dependencies with other features.
	cargo test --locked --quiet --lib cli::crds
	cargo deny --workspace --locked check bans licenses sources
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --quiet

.PHONY: test
test: deps ## Run every test; the last lines say how many ran per layer
	tests/run

.PHONY: fuzz
fuzz: ## Fuzz each target for ten minutes (FUZZ_SECONDS), one after the other: tests/fuzz/README.md
	FUZZ_SECONDS=$${FUZZ_SECONDS:-600} FUZZ_JOBS=1 tests/fuzz/run

.PHONY: fuzz-merge
fuzz-merge: ## Keep what fuzzing has found since that reaches new code: tests/fuzz/corpus
	tests/fuzz/run --merge

# Each peer in an environment of its own: their requirements need not agree, and one that can't be installed is left out.
BENCH_VENVS := target/bench/venv

.PHONY: bench-deps
bench-deps: ## Install what the benchmark needs beside the rest: nginx, haproxy, wrk from Debian, the other peers from PyPI
	@# At run level 1 Debian installs a server without starting it.
	$(SUDO) apt-get update -qq && $(SUDO) env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nginx-light haproxy wrk
	@for file in benches/gateway/requirements/*.txt; do \
	  name=$$(basename "$$file" .txt); venv=$(BENCH_VENVS)/$$name; \
	  cmp -s "$$file" "$$venv/installed.txt" && continue; \
	  echo "$$name: $$(cat "$$file")"; \
	  if python3 -m venv --clear "$$venv" && "$$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$$file"; \
	  then cp "$$file" "$$venv/installed.txt"; else echo "$$name could not be installed: 'make bench' leaves it out"; fi; \
	done

.PHONY: bench
bench: build ## Measure the router beside other gateways, about 20 minutes idle: target/bench/gateway.json, plots
	benches/gateway/run.py --smallfirst target/release/smallfirst

FAULTS := benches/faults

.PHONY: faults
faults: failover swaps streams resume soak ## Run all five of the next on an idle machine, about a quarter of an hour: target/bench/*.json

.PHONY: failover
failover: build ## Break a replica, then a whole tier, under load: no client may notice
	$(FAULTS)/failover.py --smallfirst target/release/smallfirst

.PHONY: swaps
swaps: build ## Swap the table a thousand times under load
	$(FAULTS)/swaps.py --smallfirst target/release/smallfirst

.PHONY: streams
streams: build ## Check every event of 2,000 streams at once
	$(FAULTS)/streams.py --smallfirst target/release/smallfirst

.PHONY: soak
soak: build ## Ten minutes of faults and clients that leave: memory and descriptors stay
	$(FAULTS)/soak.py --smallfirst target/release/smallfirst

.PHONY: resume
resume: build ## Kill and freeze real engines in mid-stream: the client's stream goes on
	$(FAULTS)/resume.py --smallfirst target/release/smallfirst

.PHONY: propagation
propagation: ## Measure the time from a change to every router's acknowledgement, about 3 minutes: target/bench/propagation.json
	benches/propagation/run

.PHONY: rotation
rotation: ## Change Secrets under 200 requests a second, with real pods: no request may fail; about four minutes beside the images
	tests/e2e/run rotation

.PHONY: image-volumes
image-volumes: ## Serve a model from an OCI image volume, with real pods and a containerd that is built first; then without it
	PATH="$$(tests/cluster/run containerd):$$PATH" tests/e2e/run image_volumes.Served
	tests/e2e/run image_volumes.Lacking

.PHONY: scale-to-zero
scale-to-zero: ## Scale a pool to zero 20 times, with real pods: what the first request waits, and none lost; a quarter of an hour
	tests/e2e/run zero

.PHONY: handover
handover: ## Change the autoscaler of a pool under load, with real pods: no replica is lost; five minutes beside the images
	tests/e2e/run handover

.PHONY: keda
keda: ## Let KEDA itself scale pools, with real pods: a peak, sleep, taking over; 40 minutes beside the images, a first build of KEDA as long
	tests/e2e/run keda

.PHONY: scaling-llama
scaling-llama: ## Scale llama.cpp itself by its load, 1x, 5x and 1x; fourteen minutes beside the images
	tests/e2e/run llama

.PHONY: sizing-table
sizing-table: ## Compare sizing's closed form with long simulations, a table of 288 rows; minutes
	cargo test --locked --profile fast --lib sizing::simulated -- --ignored --nocapture

.PHONY: sizing-wait
sizing-wait: build ## Compare predicted waits with those at a real llama.cpp server, half an hour idle: target/bench/sizing-wait.json
	benches/sizing/wait.py --smallfirst target/release/smallfirst

.PHONY: budget
budget: build ## Three routers spend one budget while they and the operator are killed 20 times: target/bench/budget.json (root)
	benches/limits/budget.py --smallfirst target/release/smallfirst

.PHONY: quota
quota: build ## Six routers share one account under skewed load, then without the operator: target/bench/quota.json (root)
	benches/limits/quota.py --smallfirst target/release/smallfirst

.PHONY: pressure
pressure: build ## Halve a frontier's quota under load, twice, and give it back: target/bench/pressure.json, pressure.svg (root)
	benches/limits/pressure.py --smallfirst target/release/smallfirst

.PHONY: simulate-speed
simulate-speed: build ## Simulate a day at 50 requests/s, and 100 pools: time and memory in target/bench/simulate-speed.json
	benches/simulate/speed.py --smallfirst target/release/smallfirst

TRACES ?= $(error TRACES must be the folder of Azure's traces: see benches/simulate/README.md)

.PHONY: simulate-traces
simulate-traces: build ## Simulate Azure's traces in the folder TRACES at 1, 3 and 10 times their rate, and a lost frontier
	benches/simulate/traces.py --smallfirst target/release/smallfirst --traces $(TRACES)

.PHONY: crds
crds: ## Generate the CRDs (crds/, their chart, deploy/crds) from the Rust types
	cargo run --locked --quiet -- crds --output-dir crds
	cargo run --locked --quiet -- crds --output-dir deploy/crds
	cargo run --locked --quiet -- crds --output-dir charts/smallfirst-crds/templates --helm

.PHONY: image
image: ## Build the image archive target/image/smallfirst.tar, without Docker (PROFILE=release for a slower build of a faster one)
	tests/image/build

.PHONY: manifests
manifests: ## Render what deploy/ has of the chart: operator, one namespace, monitoring
	export PATH="$$(tests/cluster/run fetch):$$PATH"; \
	render() { helm template smallfirst charts/smallfirst --skip-tests "$$@"; }; \
	render --namespace smallfirst-system > deploy/operator/operator.yaml; \
	render --namespace ai --set watchNamespace=ai > deploy/overlays/one-namespace/operator.yaml; \
	render --namespace smallfirst-system --set metrics.podMonitor.enabled=true,metrics.rules.enabled=true,metrics.dashboard.enabled=true \
	  --show-only templates/monitors.yaml --show-only templates/rules.yaml --show-only templates/dashboard.yaml > deploy/monitoring/monitoring.yaml

.PHONY: cluster-up
cluster-up: ## Start a real Kubernetes with a node, in a network namespace of its own
	tests/cluster/run up

.PHONY: cluster-down
cluster-down: ## Stop it; its disk stays (tests/cluster/run wipe deletes it)
	tests/cluster/run down

.PHONY: cluster-status
cluster-status: ## Say what of it runs
	tests/cluster/run status

VENV := $(CACHE)/demo-venv

.PHONY: images
images: image ## Build all images of the demo and the tests: the project's, llama.cpp with a small model, the stand-in provider
	tests/engine/build-image --output target/image/llama-server.tar
	tests/standin/build-image target/image/standin.tar

.PHONY: python
python: # The Python that the demo and the tests with real pods run on
	@$(VENV)/bin/python -c 'import matplotlib, openai' 2>/dev/null || { python3 -m venv $(VENV) && $(VENV)/bin/pip install --quiet --requirement tests/demo/requirements.txt; }

.PHONY: print-python
print-python:
	@echo $(VENV)/bin/python

GRPC := $(CACHE)/grpc-venv

.PHONY: grpc
grpc: # The Python that asks the external scaler as KEDA does
	@cmp -s tests/scaler/requirements.txt $(GRPC)/requirements.txt || { \
	  python3 -m venv --clear $(GRPC); $(GRPC)/bin/pip install --quiet --disable-pip-version-check --requirement tests/scaler/requirements.txt; \
	  cp tests/scaler/requirements.txt $(GRPC)/requirements.txt; }

.PHONY: print-grpc
print-grpc:
	@echo $(GRPC)/bin/python

.PHONY: demo
demo: deps images python ## Show it: a real cluster, a small model in pods, requests that escalate, three disturbances
	if [ -z "$${KUBECONFIG:-}" ]; then \
	  tests/cluster/run up; tests/cluster/run fetch >/dev/null; \
	  tests/cluster/run image import target/image/*.tar; \
	  eval "$$(tests/cluster/run env)"; \
	fi; \
	$(VENV)/bin/python tests/demo/main.py

.PHONY: clean
clean: ## Remove what was built here
	cargo clean
