/* What the C files of this package share: types of numbers, bfloat16, and how work is shared.

   No library beside libc and libm: no Python, no torch, and no thread of their own. The caller
   hands in GOMP_parallel of the OpenMP that torch has loaded, because two of them in a process would
   fight over the cores.

   Its bytes are part of the hash that every library says it was made of (build.py). */

#pragma once

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define ALWAYS static inline __attribute__((always_inline))

#define LINE 64 /* bytes of a cache line */
#define LOG2E 1.4426950408889634

/* The hash that the compiler was told: who loads a library compares it with that of the files. */
EXPORT const char *longctx_source(void) { return SOURCE; }

ALWAYS int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* A head's numbers in whole vectors of any instruction set. */
ALWAYS int64_t padded(int64_t dim) { return (dim + 15) / 16 * 16; }

/* As Python packs them. I8: rows of int8_keys.py, a bfloat16 scale behind each. */
enum { F32, BF16, I8 };
static const int64_t type_bytes[] = {4, 2, 1};

ALWAYS float half_to_float(const uint16_t *from) {
    uint32_t bits = (uint32_t)*from << 16;
    float number;
    memcpy(&number, &bits, 4);
    return number;
}

/* The nearest bfloat16, of two the even one; what is no number stays none. */
ALWAYS uint16_t float_to_half(float number) {
    uint32_t bits;
    memcpy(&bits, &number, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)((bits >> 16) | 0x40);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

/* Of the int8 numbers before it. */
ALWAYS float scale_behind(const char *row_end) {
    uint16_t half;
    memcpy(&half, row_end, 2);
    return half_to_float(&half);
}

ALWAYS float number(const char *from, int64_t at, int64_t type) {
    return type == F32  ? ((const float *)from)[at]
           : type == I8 ? (float)((const int8_t *)from)[at]
                        : half_to_float((const uint16_t *)from + at);
}

ALWAYS void put(char *out, int64_t type, int64_t at, float number) {
    if (type == F32)
        ((float *)out)[at] = number;
    else
        ((uint16_t *)out)[at] = float_to_half(number);
}

#if (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__))
#define X86 1
#include <immintrin.h>
#endif

/* What this processor has: 0 plain C, 1 AVX2, 2 AVX-512. */
ALWAYS int level_here(void) {
#ifdef X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
            return 2;
        return 1;
    }
#endif
    return 0;
}

typedef void (*Work)(void *);
typedef void (*Parallel)(Work, void *, unsigned, unsigned);

/* The next of a job's tasks. */
ALWAYS int64_t taken(int64_t *next) { return __atomic_fetch_add(next, 1, __ATOMIC_RELAXED); }

/* Every thread does `work` with the job: it takes tasks until there is none, and where it gets no
   memory leaves them to the others. parallel: GOMP_parallel or null. */
ALWAYS void share(Work work, void *job, int64_t tasks, void *parallel, int threads) {
    if ((int64_t)threads > tasks) threads = (int)tasks;
    if (parallel && threads > 1)
        ((Parallel)parallel)(work, job, (unsigned)threads, 0);
    else
        work(job);
}
