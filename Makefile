# Everything here needs Go, git and make. Only the tests also need a C compiler,
# for the race detector, and redis-server, so `make run` works without.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Overridable: make test TESTFLAGS='-run TestName -v', make fuzz FUZZTIME=1m.
TESTFLAGS ?=
TIMEOUT   ?= 15m
BENCH     ?= .
BENCHTIME ?= 1s
COUNT     ?= 1
FUZZTIME  ?= 10s
RESTTIME  ?= 30x
ARGS      ?=
ATLANTIS  ?=

# The race detector is the only user of cgo.
RACE_TEST := CGO_ENABLED=1 go test -race -timeout $(TIMEOUT) $(TESTFLAGS)
# Without a limit of its own a benchmark run is ended after go test's 10 minutes.
BENCHMARK := go test -run '^$$' -bench '$(BENCH)' -benchmem -benchtime $(BENCHTIME) -timeout 0
# Pinned in a module of their own, so that no user of the library gets them.
TOOL      := go tool -modfile=tools/go.mod
# Extra GOFLAGS for the packages that the linter loads, see .ci/run.
LINT_GOFLAGS ?=

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-18s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: ## Check that Go, a C compiler and redis-server are there; as root on Debian install the last two
	scripts/setup

.PHONY: build
build: ## Build bin/atlantis-locks
	scripts/setup go
	CGO_ENABLED=0 go build -o bin/atlantis-locks ./cmd/atlantis-locks

.PHONY: run
run: build ## Build and start the server, with ARGS='...' for its flags
	bin/atlantis-locks serve $(ARGS)

.PHONY: test
test: setup ## Run all tests with the race detector
	$(RACE_TEST) ./...

.PHONY: test-integration
test-integration: setup ## Run only the tests below tests/
	$(RACE_TEST) ./tests/...

.PHONY: test-performance
test-performance: ## Run all benchmarks once (BENCH, BENCHTIME, COUNT)
	scripts/setup go
	$(BENCHMARK) -count $(COUNT) ./...

# test covers tests/ too, so test-integration would only repeat it.
.PHONY: test-all
test-all: export ATLANTIS_LOCKS_TEST_FULL = 1
test-all: TIMEOUT = 60m
test-all: ## Run all tests with the full number of rounds, then all benchmarks
	$(MAKE) test TESTFLAGS='$(TESTFLAGS) -count=1' TIMEOUT=$(TIMEOUT)
	$(MAKE) test-performance

.PHONY: generate
generate: ## Write the parts of docs/ that are made from the code
	scripts/setup go
	ATLANTIS_LOCKS_TEST_UPDATE=1 go test -count=1 -run '^Test(Schema|Reference)$$' ./cmd/atlantis-locks

.PHONY: embed
embed: ## Put this module into the Atlantis source tree ATLANTIS=DIR, see docs/embedding.md
	scripts/setup go
	scripts/embed '$(ATLANTIS)'
	cd '$(ATLANTIS)' && go mod tidy

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME
	scripts/setup go
	scripts/fuzz $(FUZZTIME)

# Each round runs every benchmark once, so that what slows the machine down for
# a while meets all of them. An interrupted run leaves the files of earlier runs
# as they were.
.PHONY: bench
bench: COUNT = 10
bench: ## Run all benchmarks COUNT=10 times; compare with stock and with the run before
	scripts/setup go
	mkdir -p bin/bench
	for round in $$(seq $(COUNT)); do $(BENCHMARK) ./...; done | tee bin/bench/running.txt
	if [ -f bin/bench/new.txt ]; then mv bin/bench/new.txt bin/bench/old.txt; fi
	mv bin/bench/running.txt bin/bench/new.txt
	$(TOOL) benchstat $$(ls bin/bench/old.txt 2>/dev/null) bin/bench/new.txt
	$(TOOL) benchstat -filter '/store:(stock OR ours) .unit:(sec/op OR pairs/s)' -col /store bin/bench/new.txt

# Rounds as above. At rest an operation is a second, see BenchmarkRest. The limit is
# for a candidate that hangs.
.PHONY: bench-redis
bench-redis: COUNT = 3
bench-redis: ## Compare on Redis with other lock systems, COUNT=3 rounds, and write docs/benchmarks.md (about 15 minutes)
	scripts/setup
	mkdir -p bin/bench
	cd bench && { for round in $$(seq $(COUNT)); do \
		go test -run '^$$' -bench 'Pair|Contended|HandOver|Held|Floor|Cluster' -benchmem -benchtime $(BENCHTIME) -timeout 1h .; done; \
		go test -run '^$$' -bench 'Rest|Renew' -benchtime $(RESTTIME) -timeout 1h .; } | tee ../bin/bench/redis.txt
	cd bench && go run ./report -docs ../docs -command 'make bench-redis COUNT=$(COUNT) BENCHTIME=$(BENCHTIME) RESTTIME=$(RESTTIME)' ../bin/bench/redis.txt

# What is run too rarely stops working.
.PHONY: bench-once
bench-once: ## Run each benchmark of tests/ and bench/ once, with little data, and the tests of bench/
	scripts/setup
	go test -short -run '^$$' -bench . -benchtime 1x ./tests
	cd bench && go test -short -bench . -benchtime 1x ./...

.PHONY: fmt
fmt: ## Format all Go files
	$(TOOL) golangci-lint fmt

.PHONY: fmt-check
fmt-check: ## List Go files that gofmt would change (quick, part of lint too)
	@files=$$(gofmt -l .); if [ -n "$$files" ]; then echo "run make fmt for:"; echo "$$files"; exit 1; fi

.PHONY: lint
lint: ## Run the linters and format checks of .golangci.yml
	GOFLAGS="$$(go env GOFLAGS) $(LINT_GOFLAGS)" $(TOOL) golangci-lint run

.PHONY: vuln
vuln: ## Look the dependencies up in Go's vulnerability database
	$(TOOL) govulncheck ./...

.PHONY: clean
clean: ## Remove what was built
	rm -rf bin
