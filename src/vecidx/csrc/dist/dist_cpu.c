/* dist_cpu.c - which kernels this CPU can run, and which were chosen.
 *
 * A level runs if the CPU has every feature its files are compiled with and the
 * operating system saves the registers they use: a CPU with AVX2 under a system
 * that does not save the upper halves of ymm would compute nonsense.
 *
 * Both answers are worked out at the first question and kept in one atomic word
 * each; two threads asking at once work out the same. */
#include "dist.h"

#include <stdatomic.h>
#include <string.h>

#include "../base/vx_cpuid.h"
#include "../base/vx_status.h"

static const char *const level_names[VX_N_LEVELS] = { "scalar", "avx2", "avx512", "avx512vnni",
                                                      "neon" };

#define N_OF(array) (sizeof(array) / sizeof((array)[0]))
#define KNOWN 0x80000000u /* set once a word has been worked out */

/* ---- features -------------------------------------------------------------- */

#if defined(VX_X86)

/* In the order that vx_cpu_feature() lists them. */
static const struct feature {
    const char *name;
    unsigned leaf, reg, bit; /* CPUID leaf (sub-leaf 0), register eax .. edx as 0 .. 3 */
    unsigned needs;          /* register state the system must save */
} features[] = {
    { "avx", 1, 2, 28, 1 },       { "f16c", 1, 2, 29, 1 },     { "fma", 1, 2, 12, 1 },
    { "avx2", 7, 1, 5, 1 },       { "bmi2", 7, 1, 8, 0 },      { "avx512f", 7, 1, 16, 2 },
    { "avx512bw", 7, 1, 30, 2 },  { "avx512dq", 7, 1, 17, 2 }, { "avx512vl", 7, 1, 31, 2 },
    { "avx512vnni", 7, 2, 11, 2 }, { "avx512vpopcntdq", 7, 2, 14, 2 },
};
enum { AVX, F16C, FMA, AVX2, BMI2, F, BW, DQ, VL, VNNI, VPOPCNT };
enum { NO_STATE, YMM_STATE, ZMM_STATE };

#define BIT(feature) (1u << (feature))
#define NEED_AVX2 (BIT(AVX) | BIT(AVX2) | BIT(FMA) | BIT(F16C))
#define NEED_AVX512 (NEED_AVX2 | BIT(F) | BIT(BW) | BIT(DQ) | BIT(VL))

/* Features a level needs, by vx_level; a level of another architecture never runs. */
static const unsigned needs[VX_N_LEVELS] = { 0, NEED_AVX2, NEED_AVX512, NEED_AVX512 | BIT(VNNI),
                                             ~0u };
#define ALLOWED "scalar, avx2, avx512 or avx512vnni"

static unsigned look(void)
{
    unsigned regs[8][4] = { { 0 } };
    vx_cpuid(1, 0, regs[1]);
    vx_cpuid(7, 0, regs[7]);
    unsigned state = NO_STATE;
    if (regs[1][2] >> 27 & 1) { /* OSXSAVE */
        const uint64_t saved = vx_xgetbv0();
        if ((saved & 0x06) == 0x06) /* xmm and ymm */
            state = YMM_STATE;
        if ((saved & 0xE6) == 0xE6 || (state == YMM_STATE && vx_os_promises_avx512()))
            state = ZMM_STATE; /* and the mask registers, zmm0-15, zmm16-31 */
    }
    unsigned found = 0;
    for (unsigned i = 0; i < N_OF(features); i++)
        if (state >= features[i].needs && (regs[features[i].leaf][features[i].reg] >> features[i].bit & 1))
            found |= BIT(i);
    return found;
}

#define MAY_COUNT BIT(VPOPCNT)

#else

static const struct feature {
    const char *name;
} features[] = {
#if defined(VX_ARM)
    { "neon" },
#endif
    { "" }, /* C has no empty array; never listed, for look() does not find it */
};
static const unsigned needs[VX_N_LEVELS] = { 0, ~0u, ~0u, ~0u, 1u };
#if defined(VX_ARM)
#define ALLOWED "scalar or neon"
#else
#define ALLOWED "scalar"
#endif

/* 64-bit Arm always has NEON. */
static unsigned look(void) { return N_OF(features) - 1; }
#define MAY_COUNT 0u

#endif

static unsigned present(void)
{
    static _Atomic unsigned cache;
    unsigned word = atomic_load_explicit(&cache, memory_order_relaxed);
    if (word == 0) {
        word = look() | KNOWN;
        atomic_store_explicit(&cache, word, memory_order_relaxed);
    }
    return word & ~KNOWN;
}

const char *vx_cpu_feature(size_t i, int *out_present)
{
    if (i >= N_OF(features) || features[i].name[0] == '\0')
        return NULL;
    *out_present = (int)(present() >> i & 1);
    return features[i].name;
}

bool vx_cpu_has_vpopcnt(void) { return (present() & MAY_COUNT) != 0; }

/* ---- levels ------------------------------------------------------------------ */

const char *vx_level_name(vx_level level) { return level_names[level]; }

int vx_level_from_name(const char *name)
{
    for (int i = 0; i < VX_N_LEVELS; i++)
        if (strcmp(name, level_names[i]) == 0)
            return i;
    return -1;
}

bool vx_level_runs(vx_level level) { return (present() & needs[level]) == needs[level]; }

/* Can any CPU of this architecture run it? */
static bool is_ours(vx_level level) { return (needs[level] & KNOWN) == 0; }

/* The best level that runs and is not above `cap`.  Both chains rise with the
 * enum, and no level of the other chain runs. */
static vx_level best_below(int cap)
{
    while (cap > VX_SCALAR && !vx_level_runs((vx_level)cap))
        cap--;
    return (vx_level)cap;
}

const char *vx_simd_available(size_t i)
{
    for (int level = 0; level < VX_N_LEVELS; level++)
        if (vx_level_runs((vx_level)level) && i-- == 0)
            return level_names[level];
    return NULL;
}

/* The chosen level | KNOWN; 0: not chosen yet. */
static _Atomic unsigned active;

vx_status vx_simd_init(const char *want, vx_error *err)
{
    int cap = VX_N_LEVELS - 1;
    if (want != NULL && want[0] != '\0') {
        cap = vx_level_from_name(want);
        if (cap < 0 || !is_ours((vx_level)cap))
            return vx_fail(err, VX_E_ARG,
                           "SIMD level: expected " ALLOWED ", or nothing for the best, got '%.40s'",
                           want);
    }
    atomic_store(&active, (unsigned)best_below(cap) | KNOWN);
    return VX_OK;
}

vx_level vx_level_active(void)
{
    const unsigned word = atomic_load_explicit(&active, memory_order_relaxed);
    return word != 0 ? (vx_level)(word & ~KNOWN) : best_below(VX_N_LEVELS - 1);
}

const char *vx_simd_level(void) { return level_names[vx_level_active()]; }
