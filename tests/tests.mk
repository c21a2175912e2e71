# Everything that is run to find out whether Vicinal keeps its promises.  Included by the Makefile.
#
#   make test        all of CI                 make unit       C unit tests
#   make recall      the index against exact   make service    the real suite, from outside;
#                                              service-full: on Kafka, Redis and Postgres
#   make fault       kills, disks, engines     make sim        simulated clusters (SEEDS=FROM:COUNT)
#                                              make sim-mutants  does the simulation find what is wrong?
#   make fuzz        short fuzzing (FUZZ_SECONDS)   make tidy   style, layers, format
#   make deploy      compose files and alert rules, and the full stack as composed

TEST_LDLIBS  := -lcmocka
SEEDS        ?= 1:2000
FUZZ_SECONDS ?= 10
JOBS         ?= 2

UNIT_TESTS   := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/unit/test_*.c))
RECALL_TESTS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/recall/test_*.c))
FUZZERS      := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/fuzz/fuzz_*.c))

.PHONY: unit recall programs service service-full fault clients deploy sim sim-mutants fuzz tidy unit-asan unit-tsan unit-threads suite-asan \
        suite-tsan clang-build nightly
.SECONDARY:

# A test that needs the linker's help says so in its first lines: "link-flags: -Wl,--wrap=…".
link_flags = $(shell sed -n '1,20s/.*link-flags: *\([^*]*\).*/\1/p' $(1))

$(BUILD)/tests/unit/%: $(BUILD)/tests/unit/%.o $(TEST_LIBS)
	@$(CC) $(LDFLAGS) -o $@ $< -Wl,--start-group $(TEST_LIBS) -Wl,--end-group $(call link_flags,tests/unit/$*.c) $(TEST_LDLIBS) $(SYSTEM_LIBS)
$(BUILD)/tests/recall/%: $(BUILD)/tests/recall/%.o $(TEST_LIBS)
	@$(CC) $(LDFLAGS) -o $@ $< -Wl,--start-group $(TEST_LIBS) -Wl,--end-group $(TEST_LDLIBS) $(SYSTEM_LIBS)
$(BUILD)/tests/fuzz/%: $(BUILD)/tests/fuzz/%.o $(TEST_LIBS)
	@$(CC) $(LDFLAGS) -fsanitize=fuzzer -o $@ $< -Wl,--start-group $(TEST_LIBS) -Wl,--end-group $(SYSTEM_LIBS)
SIM_FLAGS := -Wl,--wrap=store_open -Wl,--wrap=setpriority
$(BIN)/sim: $(BUILD)/tests/sim/sim_main.o $(call lib,tests/sim) $(TEST_LIBS)
	@mkdir -p $(@D)
	@$(CC) $(LDFLAGS) -o $@ $< -Wl,--start-group $(call lib,tests/sim) $(TEST_LIBS) -Wl,--end-group $(SIM_FLAGS) $(SYSTEM_LIBS)

run_programs = python3 tests/run_programs.py --jobs $(JOBS)

unit: $(UNIT_TESTS)
	@$(run_programs) $(UNIT_TESTS)

recall: $(RECALL_TESTS)
	@$(run_programs) $(RECALL_TESTS)
# Both, the longest of either first.
programs: unit-programs
	@$(run_programs) $(UNIT_TESTS) $(RECALL_TESTS)

# Sanitized builds live beside the plain one.  Under TSan by clang: its runtime since version 15 is 2.7
# times as fast as that of gcc 12 where a process has hundreds of threads, as a shard has.
ASAN  := BUILD=build-asan BIN=build-asan/bin OPT=-O1 SANITIZE=address,undefined
TSAN  := BUILD=build-tsan BIN=build-tsan/bin CC=clang-16 OPT=-O1 SANITIZE=thread
CLANG := BUILD=build-clang BIN=build-clang/bin CC=clang-16 WERROR=1
FUZZ  := BUILD=build-fuzz CC=clang-16 OPT=-O1

unit-asan:
	@$(MAKE) --no-print-directory $(ASAN) unit
# Those without threads of their own, or with those of others only, would only be slow there.  Where one
# test of a program has threads, that one is run (tests/lib/own_threads.h).
TSAN_SKIPS := engine engine_filter engine_kept ivf_faults newer_formats spool_damage spool_faults spool_rows spool_upgrade three_regions http_stack engine_faults engine_graph engine_recall engine_calibration_kept segment_damage segment_faults engine_cold engine_cold_faults engine_cold_folders cold_damage segments_folders segments_history filter_oracle wal_damage verify_damage snapshots_verify wal_crash spool_crash shard_crash cold_crash durable_faults ingest_faults engine_verify kernels model_memory hits shard_map
TSAN_TESTS := $(filter-out $(TSAN_SKIPS:%=$(BUILD)/tests/unit/test_%),$(UNIT_TESTS))
# A service that is ended by force leaves threads behind; that is no report.
TSAN_SETTINGS := suppressions=$(abspath tests/tsan.supp) halt_on_error=1 report_thread_leaks=0
unit-tsan:
	@TSAN_OPTIONS="$(TSAN_SETTINGS)" \
	    $(MAKE) --no-print-directory $(TSAN) unit-threads
unit-threads: $(TSAN_TESTS)
	@$(run_programs) $(TSAN_TESTS)
clang-build:
	@$(MAKE) --no-print-directory $(CLANG) all

pytest = $(PYTHON) -m pytest -q -x --color=no -p no:cacheprovider

service: all
	@VICINAL_BIN=$(abspath $(BIN)) $(pytest) tests/service
# The same on Kafka, Redis and Postgres.
service-full: all
	@VICINAL_ENGINES=full VICINAL_BIN=$(abspath $(BIN)) $(pytest) tests/service
fault: all
	@VICINAL_BIN=$(abspath $(BIN)) $(pytest) tests/fault
clients: all
	@VICINAL_BIN=$(abspath $(BIN)) $(pytest) tests/clients
deploy: all
	@VICINAL_BIN=$(abspath $(BIN)) $(pytest) tests/deploy

# The real suite under sanitizers: the service tests once more, against instrumented binaries.
suite-asan:
	@$(MAKE) --no-print-directory $(ASAN) all
	@VICINAL_BIN=$(abspath build-asan/bin) VICINAL_SLOW=4 $(pytest) tests/service
suite-tsan:
	@$(MAKE) --no-print-directory $(TSAN) all
	@TSAN_OPTIONS="$(TSAN_SETTINGS)" \
	    VICINAL_BIN=$(abspath build-tsan/bin) VICINAL_SLOW=8 $(pytest) tests/service

sim: $(BIN)/sim
	$(BIN)/sim --seeds $(SEEDS) --jobs $(JOBS)
# The product with one promise broken at a time: each is to be found.
sim-mutants: $(BIN)/sim
	@python3 tests/sim_mutants.py --build=$(BUILD) --jobs=$(JOBS) --compile='$(CC) $(CPPFLAGS) $(CFLAGS)' \
	    --link='$(CC) $(LDFLAGS)' --main=$(BUILD)/tests/sim/sim_main.o \
	    --libs='$(call lib,tests/sim) $(TEST_LIBS)' --system-libs='$(SIM_FLAGS) $(SYSTEM_LIBS)' --options='$(MUTANT_OPTIONS)' $(MUTANTS)

fuzz:
	@$(MAKE) --no-print-directory $(FUZZ) fuzz-run
.PHONY: fuzz-run fuzz-programs
fuzz-run: export FUZZ_RUN := 1
fuzz-run fuzz-programs: CFLAGS += -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
fuzz-run fuzz-programs: LDFLAGS += -fsanitize=address,undefined
fuzz-programs: $(FUZZERS)
fuzz-run: $(FUZZERS)
	@printf '%s\n' $(FUZZERS) | xargs -P $(JOBS) -I FUZZER sh -c 'mkdir -p FUZZER.corpus; \
	    FUZZER -max_total_time=$(FUZZ_SECONDS) -timeout=20 -rss_limit_mb=4096 -artifact_prefix=FUZZER- \
	    -print_final_stats=0 -verbosity=0 FUZZER.corpus > FUZZER.log 2>&1 && echo "fuzz FUZZER" || \
	    { tail -40 FUZZER.log; exit 255; }'

tidy:
	@python3 tests/tidy.py

test: deps-test
	@$(MAKE) --no-print-directory tidy
	@$(MAKE) --no-print-directory -j$(JOBS) WERROR=1 all unit-programs
	@$(MAKE) --no-print-directory programs
	@$(MAKE) --no-print-directory sim
	@$(MAKE) --no-print-directory sim-mutants
	@$(MAKE) --no-print-directory -j2 --output-sync=line outside instrumented
	@$(MAKE) --no-print-directory fault
	@$(MAKE) --no-print-directory -j2 --output-sync=line asan tsan
	@$(MAKE) --no-print-directory -j$(JOBS) fuzz
	@echo "everything passed"

# What mostly waits goes beside what computes: the tests from outside beside building everything once
# more, by clang and for the sanitizers, and what one sanitizer makes slow beside the other's.
.PHONY: outside instrumented asan tsan
outside:
	@VICINAL_SLOW=2 $(MAKE) --no-print-directory service
	@VICINAL_SLOW=2 $(MAKE) --no-print-directory clients
	@VICINAL_SLOW=2 $(MAKE) --no-print-directory deploy
instrumented:
	@nice $(MAKE) --no-print-directory clang-build
	@nice $(MAKE) --no-print-directory $(ASAN) all unit-programs
	@nice $(MAKE) --no-print-directory $(TSAN) all unit-programs
	@nice $(MAKE) --no-print-directory $(FUZZ) fuzz-programs
	@VICINAL_SLOW=2 $(MAKE) --no-print-directory service-full
asan:
	@$(MAKE) --no-print-directory suite-asan
	@$(MAKE) --no-print-directory unit-asan JOBS=1
tsan:
	@$(MAKE) --no-print-directory suite-tsan
	@$(MAKE) --no-print-directory unit-tsan JOBS=1
.PHONY: unit-programs
unit-programs: $(UNIT_TESTS) $(RECALL_TESTS)

nightly:
	@$(MAKE) --no-print-directory sim SEEDS=10000:100000
	@$(MAKE) --no-print-directory fuzz FUZZ_SECONDS=600
	@VICINAL_KILLS=200 VICINAL_CUT_SECONDS=60 VICINAL_FAULT_SECONDS=1800 $(MAKE) --no-print-directory fault
