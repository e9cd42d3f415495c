/* Which instruction set level this processor and kernel offer, and the levels' names.
 *
 * A level counts only if the processor has its instructions (cpuid), the kernel saves its registers
 * (XCR0) and, for AMX, the kernel grants this process tile data (arch_prctl). Asked once a
 * process. */
#include "ops/exec.h"

#include <pthread.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(__x86_64__)
#define XCR0_YMM 0x6u            /* xmm, upper halves of ymm                        */
#define XCR0_ZMM 0xe6u           /* and mask registers, both parts of zmm           */
#define XCR0_TILE 0x60000u       /* tile configuration and data                     */
#define REQ_XCOMP_PERM 0x1023
#define XFEATURE_TILE_DATA 18

static uint64_t read_xcr0(void)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return ((uint64_t)hi << 32) | lo;
}

static bool has(uint32_t reg, uint32_t bits)
{
    return (reg & bits) == bits;
}

static fm_isa detect(void)
{
    uint32_t a, b, c, d, b7, c7, d7;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return FM_ISA_SCALAR;
    if (!has(c, bit_OSXSAVE | bit_FMA | bit_F16C)) return FM_ISA_SCALAR;
    uint64_t xcr0 = read_xcr0();
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7)) return FM_ISA_SCALAR;
    if ((xcr0 & XCR0_YMM) != XCR0_YMM || !has(b7, bit_AVX2)) return FM_ISA_SCALAR;
    const uint32_t avx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    if ((xcr0 & XCR0_ZMM) != XCR0_ZMM || !has(b7, avx512) || !has(c7, bit_AVX512VNNI))
        return FM_ISA_AVX2;
    const uint32_t amx = bit_AMX_TILE | bit_AMX_BF16 | bit_AMX_INT8;
    if ((xcr0 & XCR0_TILE) != XCR0_TILE || !has(d7, amx)) return FM_ISA_AVX512;
    if (syscall(SYS_arch_prctl, REQ_XCOMP_PERM, XFEATURE_TILE_DATA)) return FM_ISA_AVX512;
    return FM_ISA_AMX;
}
#else
static fm_isa detect(void)
{
    return FM_ISA_SCALAR;
}
#endif

static fm_isa detected;

static void detect_once(void)
{
    detected = detect();
}

fm_isa fm_isa_detect(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, detect_once);
    return detected;
}

static const char *const isa_names[] = {"scalar", "avx2", "avx512", "amx"};

const char *fm_isa_name(fm_isa isa)
{
    return (unsigned)isa <= FM_ISA_AMX ? isa_names[isa] : "unknown";
}

int fm_isa_parse(const char *name)
{
    for (int i = 0; i <= FM_ISA_AMX; i++)
        if (name && !strcmp(name, isa_names[i])) return i;
    return -1;
}
