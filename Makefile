# Fathom's build. Everything is written under $(BUILD).
#
#   make           the program and the library          make test   every test
#   make demo      from a corpus to a story             make bench  measurements into bench/results
#   make check     unit tests, style, include graph     make fuzz   parsers, FUZZ_SECONDS each
#   make check-asan / check-ubsan / check-tsan          make install / uninstall (PREFIX, DESTDIR)
VERSION  = 0.1.0
BUILD   ?= build
CC      ?= gcc
PREFIX  ?= /usr/local
MODULES ?= base tensor io text ops comm model infer train post eval scale bench serve cli
OPT     ?= -O3
WARN     = -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Werror
SAN     ?=
FUZZ_SECONDS ?= 5
# Sanitizers make the compiler warn of things that are not there; the plain build is the one without warnings.
SANWARN  = -Wall -Wextra -Wno-maybe-uninitialized
ASAN     = -fsanitize=address -fno-omit-frame-pointer
UBSAN    = -fsanitize=undefined -fno-sanitize-recover=all
CFLAGS  += -std=c11 -D_GNU_SOURCE $(OPT) -g -fPIC $(WARN) $(SAN)
# No fast-math: no contraction, and only flags that never change a value.
CFLAGS  += -ffp-contract=off -fno-math-errno -fno-trapping-math
CPPFLAGS += -Isrc -Iinclude -MMD -MP -DFM_VERSION='"$(VERSION)"'
# NLopt and SQLite belong to `fathom scale`, which without them names the package to install.
NLOPT   := $(shell pkg-config --exists nlopt 2>/dev/null && echo yes)
SQLITE  := $(shell pkg-config --exists sqlite3 2>/dev/null && echo yes)
CPPFLAGS += $(if $(NLOPT),-DFM_HAVE_NLOPT $(shell pkg-config --cflags nlopt))
CPPFLAGS += $(if $(SQLITE),-DFM_HAVE_SQLITE $(shell pkg-config --cflags sqlite3))
OPTLIBS := $(if $(NLOPT),$(shell pkg-config --libs nlopt)) $(if $(SQLITE),$(shell pkg-config --libs sqlite3))
LIBS     = -ljansson -linih -lpcre2-8 -lzstd -lz $(strip $(OPTLIBS)) -lm -lpthread

AVX2     = -mavx2 -mfma -mf16c
AVX512   = $(AVX2) -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mprefer-vector-width=512
AMX      = $(AVX512) -mamx-tile -mamx-bf16 -mamx-int8
isa_flags = $(if $(filter %_avx2.c,$1),$(AVX2),$(if $(filter %_avx512.c,$1),$(AVX512),\
            $(if $(filter %_amx.c,$1),$(AMX))))

# libedit gives `fathom chat` its line editing; without it chat reads plain lines.
EDIT    := $(shell pkg-config --exists libedit 2>/dev/null && echo yes)
CLIFLAGS = $(if $(EDIT),-DFM_HAVE_LIBEDIT $(shell pkg-config --cflags libedit))
CLILIBS  = $(if $(EDIT),$(shell pkg-config --libs libedit))

SRC     := $(foreach m,$(filter-out cli,$(MODULES)),$(wildcard src/$m/*.c src/$m/*/*.c))
OBJ     := $(SRC:%.c=$(BUILD)/%.o)
CLI     := $(if $(filter cli,$(MODULES)),$(wildcard src/cli/*.c))
CLIO    := $(CLI:%.c=$(BUILD)/%.o)
TESTS   := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_*.c))
SCRIPTS := $(wildcard tests/cli/*.sh)
FUZZERS := $(patsubst fuzz/%.c,$(BUILD)/fuzz/%,$(wildcard fuzz/fuzz_*.c))
LIB     := $(BUILD)/libfathom.a
SO      := $(BUILD)/libfathom.so.$(VERSION)
HEADERS := $(wildcard include/fathom/*.h)

all: $(if $(CLI),$(BUILD)/fathom) $(LIB)

$(BUILD)/src/cli/%.o: CFLAGS += $(CLIFLAGS)
$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) $(call isa_flags,$<) -c $< -o $@

$(LIB): $(OBJ)
	@rm -f $@
	ar rcs $@ $(OBJ)

$(SO): $(OBJ)
	$(CC) -shared -Wl,-soname,libfathom.so.0 $(CFLAGS) $(OBJ) $(LIBS) -o $@

$(BUILD)/fathom: $(CLIO) $(LIB)
	$(CC) $(CFLAGS) $(CLIO) $(LIB) $(LIBS) $(CLILIBS) -o $@

$(BUILD)/tests/%: tests/%.c $(LIB)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -Itests $< $(LIB) -lcmocka $(LIBS) -o $@

$(BUILD)/fuzz/%: fuzz/%.c fuzz/driver.c $(LIB)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) $< fuzz/driver.c $(LIB) $(LIBS) -o $@

$(BUILD)/compare_blas: bench/compare_blas.c $(LIB)
	$(CC) $(CPPFLAGS) $(CFLAGS) $< $(LIB) $(LIBS) -ldl -o $@

$(BUILD)/compare_steps: bench/compare_steps.c
	$(CC) $(CPPFLAGS) $(CFLAGS) $< -ldl -o $@

# --- tests ----------------------------------------------------------------------------------------
tests-built: all $(TESTS) $(BUILD)/compare_blas $(BUILD)/compare_steps
style:
	@sh scripts/check_includes.sh
	@sh scripts/check_style.sh
	@sh scripts/check_headers.sh $(CC)

check: style check-run
check-run: tests-built
	@FATHOM=$(abspath $(BUILD)/fathom) sh scripts/run_tests.sh 600 $(TESTS)

fuzz: $(FUZZERS)
	@sh scripts/run_fuzz.sh $(FUZZ_SECONDS) $(FUZZERS)

# Sanitizer builds run the unit tests in a build directory of their own, the long ones shortened. -O2: what -O1 leaves
# in memory is checked access by access, and the vector kernels take ten to twenty times as long.
check-san:
	$(MAKE) -j2 BUILD=$(BUILD)/san OPT=-O2 WARN="$(SANWARN)" SAN="$(ASAN) $(UBSAN)" san-run
check-asan:
	$(MAKE) BUILD=$(BUILD)/asan OPT=-O2 WARN="$(SANWARN)" SAN="$(ASAN)" san-run
check-ubsan:
	$(MAKE) BUILD=$(BUILD)/ubsan OPT=-O2 WARN="$(SANWARN)" SAN="$(UBSAN)" san-run
check-tsan:
	$(MAKE) -j2 BUILD=$(BUILD)/tsan OPT=-O2 WARN="$(SANWARN)" SAN="-fsanitize=thread" tsan-run
san-run: $(TESTS)
	@FATHOM_TEST_QUICK=1 sh scripts/run_tests.sh 900 $(TESTS)
TSAN_TESTS = test_base test_device test_gated test_linear_xent
tsan-run: $(addprefix $(BUILD)/tests/,$(filter $(TSAN_TESTS),$(notdir $(TESTS))))
	@FATHOM_TEST_QUICK=1 sh scripts/run_tests.sh 900 $^

test:
	@sh scripts/deps.sh test
	@sh scripts/test_all.sh $(MAKE)

e2e: all
	@FATHOM=$(abspath $(BUILD)/fathom) sh scripts/run_tests.sh 900 $(SCRIPTS)

# --- use ------------------------------------------------------------------------------------------
demo:
	@sh scripts/deps.sh build
	@$(MAKE) --no-print-directory -s -j2 all
	@$(BUILD)/fathom demo

bench: all
	@sh scripts/bench.sh $(BUILD)/fathom

install: all $(SO)
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/pkgconfig $(DESTDIR)$(PREFIX)/include/fathom
	install -d $(DESTDIR)$(PREFIX)/share/fathom
	install -m 755 $(BUILD)/fathom $(DESTDIR)$(PREFIX)/bin/fathom
	install -m 644 $(LIB) $(DESTDIR)$(PREFIX)/lib/libfathom.a
	install -m 755 $(SO) $(DESTDIR)$(PREFIX)/lib/libfathom.so.$(VERSION)
	ln -sf libfathom.so.$(VERSION) $(DESTDIR)$(PREFIX)/lib/libfathom.so.0
	ln -sf libfathom.so.0 $(DESTDIR)$(PREFIX)/lib/libfathom.so
	install -m 644 include/fathom.h $(DESTDIR)$(PREFIX)/include/fathom.h
	install -m 644 $(HEADERS) $(DESTDIR)$(PREFIX)/include/fathom/
	install -m 644 $(wildcard corpus/*) $(DESTDIR)$(PREFIX)/share/fathom/
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' -e 's|@LIBS@|$(LIBS)|' \
	    scripts/fathom.pc.in >$(DESTDIR)$(PREFIX)/lib/pkgconfig/fathom.pc

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/fathom $(DESTDIR)$(PREFIX)/lib/libfathom.a
	rm -f $(DESTDIR)$(PREFIX)/lib/libfathom.so $(DESTDIR)$(PREFIX)/lib/libfathom.so.0
	rm -f $(DESTDIR)$(PREFIX)/lib/libfathom.so.$(VERSION) $(DESTDIR)$(PREFIX)/lib/pkgconfig/fathom.pc
	rm -f $(DESTDIR)$(PREFIX)/include/fathom.h
	rm -rf $(DESTDIR)$(PREFIX)/include/fathom $(DESTDIR)$(PREFIX)/share/fathom

clean:
	rm -rf $(BUILD)

.PHONY: all tests-built style check check-run check-san tsan-run fuzz check-asan check-ubsan check-tsan san-run test e2e demo bench \
        install uninstall clean
-include $(OBJ:.o=.d) $(CLIO:.o=.d) $(TESTS:=.d) $(FUZZERS:=.d) $(BUILD)/compare_blas.d $(BUILD)/compare_steps.d
