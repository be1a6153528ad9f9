/* What a decoder layer computes between its products, row by row: RMSNorm, and the rotary embedding of
   queries and keys. One pass each over the numbers, where the model's own code is six operations
   or ten.

   The arithmetic is that of the modules of transformers: in float32, rounded to bfloat16 where they
   round. Rotations have their very bits; a norm sums in another order. A row's numbers depend on
   that row alone, not on how many rows, threads or lanes there are: every instruction set sums in
   the same order, and products and sums are not contracted (setup.py says so to the compiler).

   The file includes itself once for each instruction set. */

#ifndef ISA

#include "common.h"

#define LANES 16 /* that one number of C stands for, whatever the processor has */
#define SUMS 4   /* vectors that a norm sums in */
#define BLOCK 8  /* rows that a thread takes at a time */

enum { RMS_NORM, ROTATE };

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

typedef struct {
    int operation, type;
    const char *a, *b, *c, *d; /* x and weight; q, k, cos and sin */
    char *out, *more;
    int64_t rows, width;        /* width: of a head, where rows are rotated */
    int64_t a_stride, b_stride; /* numbers from one row to the next */
    int64_t heads, kv_heads;
    float epsilon;
    int64_t next;
} Job;

#pragma GCC diagnostic ignored "-Wpsabi" /* vectors are passed to what is inlined, to nothing else */

#define JOIN(a, b) a##_##b
#define NAMED(a, b) JOIN(a, b)
#define NAME(a) NAMED(a, ISA)

#ifdef X86
#define ISA avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
#include "layer.c"
#undef ISA
#undef TARGET
#define ISA avx2
#define TARGET __attribute__((target("avx2,fma")))
#include "layer.c"
#undef ISA
#undef TARGET
#endif
#define ISA plain
#define TARGET
#include "layer.c"

EXPORT int longctx_level(void) { return level_here(); }

static void run(Job *job, int level, void *parallel, int threads) {
    Work work = work_plain;
#ifdef X86
    work = level >= 2 ? work_avx512 : level == 1 ? work_avx2 : work_plain;
#endif
    share(work, job, job->rows, parallel, threads);
}

/* out = weight * x / sqrt(mean of x^2 + epsilon); x and out are contiguous. */
EXPORT void longctx_rms_norm(const void *x, const void *weight, void *out, int64_t rows,
                             int64_t width, float epsilon, int type, int level, void *parallel,
                             int threads) {
    Job job = {.operation = RMS_NORM, .type = type, .a = x, .b = weight, .out = out,
               .rows = rows, .width = width, .epsilon = epsilon};
    run(&job, level, parallel, threads);
}

/* Rows of heads of `width` numbers, each rotated by its row of cos and sin, which are contiguous as
   both outs are: x cos + (-second half, first half of x) sin. */
EXPORT void longctx_rotate(const void *q, const void *k, const void *cos, const void *sin,
                           void *out_q, void *out_k, int64_t rows, int64_t width, int64_t heads,
                           int64_t kv_heads, int64_t q_stride, int64_t k_stride, int type,
                           int level, void *parallel, int threads) {
    Job job = {.operation = ROTATE, .type = type, .a = q, .b = k, .c = cos, .d = sin,
               .out = out_q, .more = out_k, .rows = rows, .width = width, .a_stride = q_stride,
               .b_stride = k_stride, .heads = heads, .kv_heads = kv_heads};
    run(&job, level, parallel, threads);
}

#else /* one instruction set */

/* To the nearest number of the type, of two the even one; what is none stays none. */
TARGET ALWAYS Floats NAME(rounded)(Floats x, int type) {
    if (type == F32) return x;
    Bits bits = (Bits)x, none = (Bits)(x != x);
    Bits near = (bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u;
    return (Floats)((none & 0x7fc00000u) | (~none & near));
}

/* `count` numbers from number `at` on, zeros behind them. */
TARGET ALWAYS Floats NAME(load)(const char *from, int64_t at, int64_t count, int type) {
    if (type == BF16) {
        Halves halves = {0};
        if (count >= LANES) memcpy(&halves, from + 2 * at, sizeof halves);
        else memcpy(&halves, from + 2 * at, 2 * (size_t)count);
        return (Floats)(__builtin_convertvector(halves, Bits) << 16);
    }
    Floats x = {0};
    if (count >= LANES) memcpy(&x, from + 4 * at, sizeof x);
    else memcpy(&x, from + 4 * at, 4 * (size_t)count);
    return x;
}

TARGET ALWAYS void NAME(store)(char *to, int64_t at, int64_t count, int type, Floats x) {
    x = NAME(rounded)(x, type);
    if (type == BF16) {
        Halves halves = __builtin_convertvector((Bits)x >> 16, Halves);
        if (count >= LANES) memcpy(to + 2 * at, &halves, sizeof halves);
        else memcpy(to + 2 * at, &halves, 2 * (size_t)count);
        return;
    }
    if (count >= LANES) memcpy(to + 4 * at, &x, sizeof x);
    else memcpy(to + 4 * at, &x, 4 * (size_t)count);
}

TARGET ALWAYS void NAME(norm)(const Job *job, int64_t row, int type) {
    int64_t width = job->width, size = type == BF16 ? 2 : 4, at = 0;
    const char *from = job->a + row * width * size;
    char *to = job->out + row * width * size;
    Floats sums[SUMS] = {{0}};
    for (; at + SUMS * LANES <= width; at += SUMS * LANES)
        for (int each = 0; each < SUMS; each++) {
            Floats x = NAME(load)(from, at + each * LANES, LANES, type);
            sums[each] += x * x;
        }
    for (; at < width; at += LANES) {
        Floats x = NAME(load)(from, at, width - at, type);
        sums[0] += x * x;
    }
    Floats sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    for (int half = LANES / 2; half; half /= 2)
        for (int lane = 0; lane < half; lane++) sum[lane] += sum[lane + half];
    float scale = 1 / __builtin_sqrtf(sum[0] / (float)width + job->epsilon);
    for (at = 0; at < width; at += LANES) {
        Floats x = NAME(load)(from, at, width - at, type);
        Floats weight = NAME(load)(job->b, at, width - at, type);
        NAME(store)(to, at, width - at, type, weight * NAME(rounded)(x * scale, type));
    }
}

TARGET ALWAYS void NAME(turn)(const char *from, const char *cos, const char *sin, char *to,
                              int64_t heads, int64_t width, int type) {
    int64_t half = width / 2, size = type == BF16 ? 2 : 4;
    for (int64_t head = 0; head < heads; head++, from += width * size, to += width * size)
        for (int64_t at = 0; at < half; at += LANES) {
            int64_t count = half - at;
            Floats x = NAME(load)(from, at, count, type);
            Floats y = NAME(load)(from, half + at, count, type);
            Floats x_cos = x * NAME(load)(cos, at, count, type);
            Floats y_sin = -y * NAME(load)(sin, at, count, type);
            Floats y_cos = y * NAME(load)(cos, half + at, count, type);
            Floats x_sin = x * NAME(load)(sin, half + at, count, type);
            NAME(store)(to, at, count, type,
                        NAME(rounded)(x_cos, type) + NAME(rounded)(y_sin, type));
            NAME(store)(to, half + at, count, type,
                        NAME(rounded)(y_cos, type) + NAME(rounded)(x_sin, type));
        }
}

TARGET ALWAYS void NAME(rotate)(const Job *job, int64_t row, int type) {
    int64_t width = job->width, size = type == BF16 ? 2 : 4;
    const char *cos = job->c + row * width * size, *sin = job->d + row * width * size;
    NAME(turn)(job->a + row * job->a_stride * size, cos, sin,
               job->out + row * job->heads * width * size, job->heads, width, type);
    NAME(turn)(job->b + row * job->b_stride * size, cos, sin,
               job->more + row * job->kv_heads * width * size, job->kv_heads, width, type);
}

/* Once for each type, which the compiler knows then. */
TARGET ALWAYS void NAME(rows)(const Job *job, int64_t first, int64_t stop, int type) {
    for (int64_t row = first; row < stop; row++) {
        if (job->operation == RMS_NORM) NAME(norm)(job, row, type);
        else NAME(rotate)(job, row, type);
    }
}

/* What a thread does: the next rows until there are none. */
TARGET static void NAME(work)(void *argument) {
    Job *job = argument;
    int64_t first;
    while ((first = __atomic_fetch_add(&job->next, BLOCK, __ATOMIC_RELAXED)) < job->rows) {
        int64_t stop = least(first + BLOCK, job->rows);
        if (job->type == BF16) NAME(rows)(job, first, stop, BF16);
        else NAME(rows)(job, first, stop, F32);
    }
}

#endif
