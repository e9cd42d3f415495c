# Fathom's build. Everything is written under $(BUILD).
#   make            the program and the libraries        make check     unit tests, style, includes
#   make test       every test, after installing what is missing     make demo    the main job
BUILD   ?= build
CC      ?= gcc
PREFIX  ?= /usr/local
MODULES ?= base tensor io text ops comm model infer train post eval scale serve cli
OPT     ?= -O3
WARN     = -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Werror
SAN     ?=
CFLAGS  += -std=c11 -D_GNU_SOURCE $(OPT) -g -fPIC $(WARN) $(SAN)
# No fast-math: no contraction, and only flags that never change a value.
CFLAGS  += -ffp-contract=off -fno-math-errno -fno-trapping-math
CPPFLAGS += -Isrc -Iinclude -MMD -MP
LIBS     = -ljansson -lpcre2-8 -lzstd -lz -lm -lpthread

AVX2    = -mavx2 -mfma -mf16c
AVX512  = $(AVX2) -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mprefer-vector-width=512
AMX     = $(AVX512) -mamx-tile -mamx-bf16 -mamx-int8
isa_flags = $(if $(filter %_avx2.c,$1),$(AVX2),$(if $(filter %_avx512.c,$1),$(AVX512),$(if $(filter %_amx.c,$1),$(AMX))))

SRC  := $(foreach m,$(filter-out cli,$(MODULES)),$(wildcard src/$m/*.c src/$m/*/*.c))
OBJ  := $(SRC:%.c=$(BUILD)/%.o)
CLI  := $(if $(filter cli,$(MODULES)),$(wildcard src/cli/*.c))
CLIO := $(CLI:%.c=$(BUILD)/%.o)
TEST := $(wildcard tests/test_*.c)
TESTBIN := $(TEST:tests/%.c=$(BUILD)/tests/%)
LIB  := $(BUILD)/libfathom.a

all: $(if $(CLI),$(BUILD)/fathom) $(LIB)

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) $(call isa_flags,$<) -c $< -o $@

$(LIB): $(OBJ)
	@rm -f $@
	ar rcs $@ $(OBJ)

$(BUILD)/fathom: $(CLIO) $(LIB)
	$(CC) $(CFLAGS) $(CLIO) $(LIB) $(LIBS) $(CLILIBS) -o $@

$(BUILD)/tests/%: tests/%.c $(LIB)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -Itests $< $(LIB) -lcmocka $(LIBS) -o $@

clean:
	rm -rf $(BUILD)

.PHONY: all clean
-include $(OBJ:.o=.d) $(CLIO:.o=.d) $(TESTBIN:=.d)
