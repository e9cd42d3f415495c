/* Drives a fuzz target without libFuzzer: PROGRAM SECONDS CORPUS_DIR [FIRST_RUN].
 *
 * Every seed runs as it is, then with each of its allocations failing in turn; then mutated seeds
 * run until the time is over, one in four with a random failing allocation. The random numbers are
 * counter-based, so run N is the same input every time: a crash or a hang prints N and writes the
 * input to PROGRAM.crash, and FIRST_RUN begins there. The input lies in a heap block of its exact
 * size, so a sanitizer sees a read past the end. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/rng.h"
#include "io/file.h"

#define SEED_BYTES_MAX  ((size_t)1 << 16)
#define INPUT_BYTES_MAX ((size_t)1 << 17)
#define HANG_SECONDS    20

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
void __sanitizer_set_death_callback(void (*fn)(void)) __attribute__((weak));

static struct {
    char **bytes;
    size_t *sizes;
    int n;
} seeds;

static uint8_t input[INPUT_BYTES_MAX];
static size_t input_bytes;
static uint64_t run_number;
static char crash_path[512];

/* Called in a dying process: only plain system calls. */
static void save_input(void)
{
    char text[600];
    int n = snprintf(text, sizeof text, "fuzz: run %llu failed; input in %s\n",
                     (unsigned long long)run_number, crash_path);
    if (n > 0 && write(2, text, (size_t)n) < 0) return;
    FILE *f = fopen(crash_path, "wb");
    if (!f) return;
    fwrite(input, 1, input_bytes, f);
    fclose(f);
}

static void on_signal(int sig)
{
    save_input();
    signal(sig, SIG_DFL);
    raise(sig);
}

static uint32_t pick(uint64_t run, uint32_t *draw, uint32_t below)
{
    uint32_t w[4];
    fmi_rng_words(20250101, (*draw)++, run, FMI_RNG_TEST, 0, w);
    return below ? w[0] % below : w[0];
}

/* Runs the input from a block of its own. */
static void run_once(void)
{
    uint8_t *exact = malloc(input_bytes ? input_bytes : 1);
    if (!exact) exit(2);
    memcpy(exact, input, input_bytes);
    alarm(HANG_SECONDS);
    LLVMFuzzerTestOneInput(exact, input_bytes);
    free(exact);
}

/* Replaces [at, at + cut) by n bytes; too large an outcome is left alone. */
static void splice(size_t at, size_t cut, const void *bytes, size_t n)
{
    if (input_bytes - cut + n > INPUT_BYTES_MAX) return;
    memmove(input + at + n, input + at + cut, input_bytes - at - cut);
    memcpy(input + at, bytes, n);
    input_bytes = input_bytes - cut + n;
}

static void mutate_once(uint64_t run, uint32_t *d)
{
    static const char *const words[] = {"{",
                                        "}",
                                        "[",
                                        "]",
                                        "\"",
                                        ":",
                                        ",",
                                        "-1",
                                        "0",
                                        "18446744073709551616",
                                        "9223372036854775807",
                                        "4611686018427387904",
                                        "1e999",
                                        "\\u0000",
                                        "\\ud800",
                                        "null",
                                        "true",
                                        "\xff",
                                        "\xc3",
                                        "\n",
                                        "=",
                                        " ;",
                                        "[]",
                                        "{}",
                                        "\"\"",
                                        "[[[[[[[[",
                                        "{\"a\":",
                                        "99999"};
    static const uint64_t values[] = {0,          1,          2,
                                      127,        128,        255,
                                      256,        65535,      65536,
                                      0x7fffffff, 0xffffffff, (uint64_t)1 << 40,
                                      INT64_MAX,  UINT64_MAX, UINT64_MAX - 7};
    size_t at = pick(run, d, (uint32_t)input_bytes + 1), left = input_bytes - at;
    switch (pick(run, d, 8)) {
    case 0:
        if (left) input[at] ^= (uint8_t)(1u << pick(run, d, 8));
        break;
    case 1:
        if (left) input[at] = (uint8_t)pick(run, d, 256);
        break;
    case 2: {
        const char *w = words[pick(run, d, sizeof words / sizeof words[0])];
        size_t n = strlen(w), cut = pick(run, d, 2) ? (n < left ? n : left) : 0;
        splice(at, cut, w, n);
        break;
    }
    case 3: {
        uint64_t v = values[pick(run, d, sizeof values / sizeof values[0])];
        size_t n = (size_t)1 << pick(run, d, 4);
        at &= ~(n - 1);
        if (at + n <= input_bytes) memcpy(input + at, &v, n);
        break;
    }
    case 4: splice(at, left ? 1 + pick(run, d, (uint32_t)left) % 64 % left : 0, "", 0); break;
    case 5: {
        uint8_t copy[256];
        size_t n = left < sizeof copy ? left : pick(run, d, sizeof copy);
        memcpy(copy, input + at, n);
        splice(pick(run, d, (uint32_t)input_bytes + 1), 0, copy, n);
        break;
    }
    case 6: {
        int k = (int)pick(run, d, (uint32_t)seeds.n);
        size_t from = pick(run, d, (uint32_t)seeds.sizes[k] + 1), n = seeds.sizes[k] - from;
        splice(at, left, seeds.bytes[k] + from, n);
        break;
    }
    default: input_bytes = pick(run, d, 4) ? input_bytes : at; break;
    }
}

static void load(int k)
{
    input_bytes = seeds.sizes[k];
    memcpy(input, seeds.bytes[k], input_bytes);
}

static int load_seeds(const char *dir)
{
    fm_err err;
    char **names;
    if (fmi_dir_names(dir, &names, &seeds.n, &err)) {
        fprintf(stderr, "fuzz: %s\n", err.text);
        return 1;
    }
    seeds.bytes = calloc((size_t)seeds.n + 1, sizeof *seeds.bytes);
    seeds.sizes = calloc((size_t)seeds.n + 1, sizeof *seeds.sizes);
    int bad = !seeds.bytes || !seeds.sizes || seeds.n == 0;
    for (int i = 0; i < seeds.n && !bad; i++) {
        char *path = fmi_path_join(dir, names[i]);
        bad = fmi_file_read(path, SEED_BYTES_MAX, &seeds.bytes[i], &seeds.sizes[i], &err) != FM_OK;
        if (bad) fprintf(stderr, "fuzz: %s\n", err.text);
        fmi_free(path);
    }
    fmi_names_free(names, seeds.n);
    return bad;
}

/* Each seed whole, then with its 1st, 2nd, .. allocation failing until none is left to fail. */
static uint64_t run_seeds(void)
{
    uint64_t runs = 0;
    for (int k = 0; k < seeds.n; k++) {
        load(k);
        run_once();
        runs++;
        for (int64_t n = 1;; n++, runs++) {
            int64_t calls = fmi_alloc_calls();
            fmi_alloc_fail_after(n);
            run_once();
            fmi_alloc_fail_after(0);
            if (fmi_alloc_calls() - calls < n || n > 20000) break;
        }
    }
    return runs;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: %s SECONDS CORPUS_DIR [FIRST_RUN]\n", argv[0]);
        return 2;
    }
    double seconds = strtod(argv[1], NULL);
    uint64_t first = argc > 3 ? strtoull(argv[3], NULL, 10) : 0;
    snprintf(crash_path, sizeof crash_path, "%.500s.crash", argv[0]);
    if (load_seeds(argv[2])) return 1;
    signal(SIGABRT, on_signal);
    signal(SIGALRM, on_signal);
    if (__sanitizer_set_death_callback)
        __sanitizer_set_death_callback(save_input);
    else
        signal(SIGSEGV, on_signal);
    uint64_t whole = first ? 0 : run_seeds();
    double end = fmi_clock_s() + seconds;
    for (run_number = first; fmi_clock_s() < end; run_number++) {
        uint32_t draw = 0;
        load((int)pick(run_number, &draw, (uint32_t)seeds.n));
        for (uint32_t n = 1 + pick(run_number, &draw, 6); n > 0; n--)
            mutate_once(run_number, &draw);
        if (pick(run_number, &draw, 4) == 0) fmi_alloc_fail_after(1 + pick(run_number, &draw, 100));
        run_once();
        fmi_alloc_fail_after(0);
    }
    alarm(0);
    const char *name = strrchr(argv[0], '/');
    printf("ok    %-24s %d seeds, %llu runs on them, %llu mutated\n", name ? name + 1 : argv[0],
           seeds.n, (unsigned long long)whole, (unsigned long long)(run_number - first));
    for (int i = 0; i < seeds.n; i++) fmi_free(seeds.bytes[i]);
    free(seeds.bytes);
    free(seeds.sizes);
    return 0;
}
