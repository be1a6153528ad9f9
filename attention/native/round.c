/* Keys and values rounded to rows of bytes on the CPU, with the bits of round_into in int8_keys.py,
   which rounds them where this library is not.

   A row's scale is its largest magnitude, at least TINY, times UP / 127, as the nearest bfloat16; its
   numbers are the nearest integers of the quotients, of two the even one. Where the scale is no finite
   number all of them are 0.

   levels.h includes the file once more for each instruction set. */

#ifndef LANES

#include "common.h"

#define TINY 1e-30f
#define UP ((float)((1 + 1 / 256.0) / 127)) /* as torch has it: rounded once */
#define SOME 256 /* rows of a task */
#define INFINITE 0x7f800000 /* the bits of infinity: larger ones are no numbers */
/* Added to a small number it leaves the nearest integer in the lowest bits. */
#define SHIFT 12582912.0f /* 1.5 * 2^23 */
#define SHIFT_BITS 0x4b400000

typedef struct {
    const char *from;
    char *to;
    int64_t heads, tokens, dim, type;
    int64_t from_head, from_token, to_head, to_token; /* strides: numbers, bytes */
    int64_t next;
} Job;

/* The scale of a row, written behind it; 0 where it is no finite number. */
static float scale_of(int32_t magnitude, char *row_end) {
    float largest;
    memcpy(&largest, &magnitude, 4);
    uint16_t half = float_to_half((largest < TINY ? TINY : largest) * UP);
    memcpy(row_end, &half, 2);
    return magnitude < INFINITE ? half_to_float(&half) : 0;
}

#define BODY "round.c"
#include "levels.h"

/* from: [heads, tokens, dim] of float32 or bfloat16; to: rows of dim + 2 bytes. Strides count numbers
   and bytes. parallel: GOMP_parallel or null. */
EXPORT void longctx_round(const void *from, void *to, int64_t heads, int64_t tokens, int64_t dim,
                          int64_t type, int64_t from_head, int64_t from_token, int64_t to_head,
                          int64_t to_token, int level, void *parallel, int threads) {
    Job job = {from,      to,         heads,   tokens,   dim, type,
               from_head, from_token, to_head, to_token, 0};
    share(AT_LEVEL(work, level), &job, (heads * tokens + SOME - 1) / SOME, parallel, threads);
}

#else /* one instruction set */

TARGET ALWAYS Ints NAME(greater)(Ints a, Ints b) {
#if LANES == 16
    return (Ints)_mm512_max_epi32((__m512i)a, (__m512i)b);
#elif LANES == 8
    return (Ints)_mm256_max_epi32((__m256i)a, (__m256i)b);
#else
    Ints more = a > b;
    return (more & a) | (~more & b);
#endif
}

/* Small integers, a byte each. */
TARGET ALWAYS void NAME(narrow)(Ints x, char *to) {
#if LANES == 16
    _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8((__m512i)x));
#elif LANES == 8
    __m128i halves = _mm_packs_epi32(_mm256_castsi256_si128((__m256i)x),
                                     _mm256_extracti128_si256((__m256i)x, 1));
    _mm_storel_epi64((__m128i *)to, _mm_packs_epi16(halves, halves));
#else
    for (int lane = 0; lane < LANES; lane++) to[lane] = (char)x[lane];
#endif
}

/* The numbers from `at` on, zeros behind the last one. */
TARGET ALWAYS Floats NAME(numbers)(const char *from, int64_t at, int64_t dim, int type) {
    if (__builtin_expect(at + LANES <= dim, 1)) return NAME(widened)(from, at, type);
    Floats x = {0};
    for (int lane = 0; lane < dim - at; lane++) x[lane] = number(from, at + lane, type);
    return x;
}

TARGET ALWAYS void NAME(round)(const char *from, int64_t dim, int type, char *to) {
    Ints top = {0};
    for (int64_t d = 0; d < dim; d += LANES)
        top = NAME(greater)(top, (Ints)NAME(numbers)(from, d, dim, type) & INT32_MAX);
    int32_t magnitude = top[0];
    for (int lane = 1; lane < LANES; lane++)
        magnitude = top[lane] > magnitude ? top[lane] : magnitude;
    float scale = scale_of(magnitude, to + dim);
    if (!scale) {
        memset(to, 0, (size_t)dim);
        return;
    }
    for (int64_t d = 0; d < dim; d += LANES) {
        Ints x = (Ints)(NAME(numbers)(from, d, dim, type) / scale + SHIFT) - SHIFT_BITS;
        if (__builtin_expect(d + LANES <= dim, 1))
            NAME(narrow)(x, to + d);
        else
            for (int lane = 0; lane < dim - d; lane++) to[d + lane] = (char)x[lane];
    }
}

/* What a thread does: the next rows until there are none. */
TARGET static void NAME(work)(void *argument) {
    Job *job = argument;
    int64_t task, rows = job->heads * job->tokens, size = type_bytes[job->type];
    while ((task = taken(&job->next)) * SOME < rows)
        for (int64_t row = task * SOME; row < least(rows, (task + 1) * SOME); row++) {
            int64_t head = row / job->tokens, token = row % job->tokens;
            const char *from = job->from + (head * job->from_head + token * job->from_token) * size;
            char *to = job->to + head * job->to_head + token * job->to_token;
            if (job->type == F32)
                NAME(round)(from, job->dim, F32, to);
            else
                NAME(round)(from, job->dim, BF16, to);
        }
}

#endif
