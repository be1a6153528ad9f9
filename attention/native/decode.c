/* Decode attention on the CPU: all rows of one query of a step over all their keys, in one call.

   A row's keys lie in segments, read where they are, in float32 or bfloat16, or as int8 with a
   bfloat16 scale behind each (int8_keys.py), and widened in registers. Each segment has its own rotation of the query (Dual Chunk Attention, arXiv 2402.17463);
   one online softmax (arXiv 1805.02867) goes over all of them, so nothing is merged by part. The
   query heads of a key head go together: a key is read once from memory.

   What a row's numbers are depends on that row alone, to the last bit: keys are taken in tiles and
   splits that start at multiples of TILE and SPLIT of the row's positions, wherever its segments end
   and however many threads and other rows there are. Splits are the tasks of the threads; whoever
   ends a row's last one combines them in order (flash-decoding). Rows that read the same keys have
   their tasks one behind the other, so that the keys come from the cache but for the first.

   No library beside libc: no Python, no torch, and no thread of its own. The caller hands in
   GOMP_parallel of the OpenMP that torch has loaded, because two of them in a process would fight
   over the cores.

   The file includes itself once for each instruction set. */

#ifndef LANES

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

#define TILE 64    /* keys of a step of the online softmax */
#define PITCH 68   /* of a head's weights: scores are written four at a time */
#define SPLIT 512  /* keys of a task; a multiple of TILE */
#define LINE 64    /* bytes of a cache line */
#define LOG2E 1.4426950408889634f
#define ALWAYS static inline __attribute__((always_inline))

enum { F32, BF16, I8 };
static const int64_t type_bytes[] = {4, 2, 1};

/* All int64 and in this order, as rows.py packs them. Offsets and strides count elements. */
typedef struct {
    int64_t heads, kv_heads, dim;
    int64_t query_type, key_type, value_type, out_type;
    int64_t query_pitch;        /* from head to head */
    int64_t rows, splits, tasks; /* splits: most of a row */
    int64_t row_table, segments, before, stacks, scales, turns, partials, left;
} Step;

typedef struct {
    int64_t query, out, keys; /* offsets of the first head; how many keys */
    int64_t first, count;     /* segments */
    int64_t batch, splits, partial; /* partial: index of its first split's results */
} Row;

typedef struct {
    int64_t stack, start, stop, slot, turn; /* positions [start, stop); turn -1: none */
} Segment;

typedef struct {
    int64_t key_batch, key_head, key_slot, value_batch, value_head, value_slot;
} Stack;

typedef struct {
    const Step *step;
    const char *query;
    char *out;
    const char *const *bases;
    float scale;
    int64_t next;
} Job;

typedef float Four __attribute__((vector_size(16)));
typedef float FourAt __attribute__((vector_size(16), aligned(4), may_alias));

/* A thread's own numbers for one task. */
typedef struct {
    float *query, *sum, *most, *total, *weights;
} Space;

static int64_t padded(int64_t dim) { return (dim + 15) / 16 * 16; }

ALWAYS float half_to_float(const uint16_t *from) {
    uint32_t bits = (uint32_t)*from << 16;
    float number;
    memcpy(&number, &bits, 4);
    return number;
}

/* Of the int8 numbers before it. */
ALWAYS float scale_behind(const char *row_end) {
    uint16_t half;
    memcpy(&half, row_end, 2);
    return half_to_float(&half);
}

static void put(char *out, int64_t type, int64_t at, float number) {
    if (type == F32) {
        ((float *)out)[at] = number;
        return;
    }
    uint32_t bits;
    memcpy(&bits, &number, 4);
    if ((bits & 0x7fffffff) > 0x7f800000)
        bits = (bits >> 16) | 0x40; /* stays not a number */
    else
        bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    ((uint16_t *)out)[at] = (uint16_t)bits;
}

/* The query of every head of a group, turned for a segment, in units of log2, zero behind dim. */
static void turn_queries(const Job *job, const Row *row, int64_t kv_head, int64_t turn, float scale,
                         float *into) {
    const Step *step = job->step;
    int64_t dim = step->dim, pitch = padded(dim), half = dim / 2;
    int64_t group = step->heads / step->kv_heads;
    const float *table = (const float *)step->turns + (turn < 0 ? 0 : turn) * dim;
    for (int64_t head = 0; head < group; head++, into += pitch) {
        int64_t at = row->query + (kv_head * group + head) * step->query_pitch;
        if (step->query_type == F32) {
            memcpy(into, (const float *)job->query + at, (size_t)dim * 4);
        } else {
            const uint16_t *from = (const uint16_t *)job->query + at;
            for (int64_t d = 0; d < dim; d++) into[d] = half_to_float(from + d);
        }
        if (turn >= 0)
            for (int64_t f = 0; f < half; f++) {
                float a = into[f], b = into[f + half], cos = table[f], sin = table[f + half];
                into[f] = a * cos - b * sin;
                into[f + half] = b * cos + a * sin;
            }
        for (int64_t d = 0; d < dim; d++) into[d] *= scale;
        for (int64_t d = dim; d < pitch; d++) into[d] = 0;
    }
}

static int64_t first_segment(const Segment *segments, int64_t count, int64_t position) {
    int64_t low = 0, high = count;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (segments[middle].stop <= position)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

#define JOIN(a, b) a##_##b
#define NAMED(a, b) JOIN(a, b)
#define NAME(a) NAMED(a, ISA)

#if (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__))
#define X86 1
#include <immintrin.h>
#define ISA avx512
#define LANES 16
#define HEADS 4
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
#include "decode.c"
#undef ISA
#undef LANES
#undef HEADS
#undef TARGET
#define ISA avx2
#define LANES 8
#define HEADS 2
#define TARGET __attribute__((target("avx2,fma")))
#include "decode.c"
#undef ISA
#undef LANES
#undef HEADS
#undef TARGET
#endif
#define ISA plain
#define LANES 4
#define HEADS 2
#define TARGET
#include "decode.c"

/* What decode() may be asked for at most: 0 plain C, 1 AVX2, 2 AVX-512. */
EXPORT int longctx_level(void) {
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

/* The hash of this file: who loads the library compares it with the file beside it. */
EXPORT const char *longctx_source(void) { return SOURCE; }
EXPORT int longctx_split(void) { return SPLIT; }

typedef void (*Work)(void *);
typedef void (*Parallel)(Work, void *, unsigned, unsigned);

/* query, out: first elements. bases: a key and a value tensor's first element for each stack.
   parallel: GOMP_parallel or null. Returns 0, or 1 where no thread got memory. */
EXPORT int longctx_decode(const Step *step, const void *query, void *out, const void *const *bases,
                          float scale, int level, void *parallel, int threads) {
    const Row *rows = (const Row *)step->row_table;
    int64_t *left = (int64_t *)step->left;
    for (int64_t row = 0; row < step->rows; row++)
        for (int64_t head = 0; head < step->kv_heads; head++)
            left[row * step->kv_heads + head] = rows[row].splits;
    Job job = {step, query, out, (const char *const *)bases, scale, 0};
    Work work = work_plain;
#ifdef X86
    work = level >= 2 ? work_avx512 : level == 1 ? work_avx2 : work_plain;
#endif
    if ((int64_t)threads > step->tasks) threads = (int)step->tasks;
    if (parallel && threads > 1)
        ((Parallel)parallel)(work, &job, (unsigned)threads, 0);
    else
        work(&job);
    return job.next < step->tasks;
}

#else /* one instruction set */

typedef float NAME(Floats) __attribute__((vector_size(4 * LANES)));
typedef float NAME(FloatsAt) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t NAME(Ints) __attribute__((vector_size(4 * LANES)));
#if LANES == 4
typedef uint16_t HalvesAt __attribute__((vector_size(8), aligned(2), may_alias));
typedef int8_t BytesAt __attribute__((vector_size(4), aligned(1), may_alias));
typedef uint32_t Words __attribute__((vector_size(16)));
#endif
#define Floats NAME(Floats)
#define FloatsAt NAME(FloatsAt)
#define Ints NAME(Ints)
#define FEW(a, b) ((a) < (b) ? (a) : (b))

TARGET ALWAYS Floats NAME(floats)(const float *from) { return *(const FloatsAt *)from; }

TARGET ALWAYS Floats NAME(all)(float number) { return number - (Floats){0}; }

TARGET ALWAYS Floats NAME(widened)(const char *from, int64_t at, int type) {
    if (type == F32) return *(const FloatsAt *)((const float *)from + at);
    if (type == I8) {
#if LANES == 16
        return _mm512_cvtepi32_ps(
            _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(from + at))));
#elif LANES == 8
        return _mm256_cvtepi32_ps(
            _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(from + at))));
#else
        return __builtin_convertvector(*(const BytesAt *)(from + at), Floats);
#endif
    }
    const uint16_t *halves = (const uint16_t *)from + at;
#if LANES == 16
    return (Floats)_mm512_slli_epi32(
        _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)halves)), 16);
#elif LANES == 8
    return (Floats)_mm256_slli_epi32(
        _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)halves)), 16);
#else
    return (Floats)(__builtin_convertvector(*(const HalvesAt *)halves, Words) << 16);
#endif
}

/* Fewer numbers than a vector has, and zeros. */
TARGET static __attribute__((noinline)) void NAME(some)(const char *from, int64_t at, int64_t count,
                                                        int type, float *out) {
    for (int64_t lane = 0; lane < LANES; lane++)
        out[lane] = lane >= count ? 0
                    : type == F32 ? ((const float *)from)[at + lane]
                    : type == I8  ? ((const int8_t *)from)[at + lane]
                                  : half_to_float((const uint16_t *)from + at + lane);
}

/* A vector of `dim` numbers from `at` on. */
TARGET ALWAYS Floats NAME(numbers)(const char *from, int64_t at, int64_t dim, int type) {
    if (__builtin_expect(at + LANES <= dim, 1)) return NAME(widened)(from, at, type);
    float out[LANES];
    NAME(some)(from, at, dim - at, type, out);
    return NAME(floats)(out);
}

TARGET ALWAYS Floats NAME(larger)(Floats a, Floats b) {
#if LANES == 16
    return _mm512_max_ps(a, b);
#elif LANES == 8
    return _mm256_max_ps(a, b);
#else
    Ints more = (Ints)(a > b);
    return (Floats)((more & (Ints)a) | (~more & (Ints)b));
#endif
}

TARGET ALWAYS float NAME(largest)(Floats x) {
#if LANES == 16
    return _mm512_reduce_max_ps(x);
#elif LANES == 8
    __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_max_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
#else
    float a = x[0] > x[1] ? x[0] : x[1], b = x[2] > x[3] ? x[2] : x[3];
    return a > b ? a : b;
#endif
}

/* Four sums of four vectors' lanes. */
TARGET ALWAYS void NAME(sums)(Floats a, Floats b, Floats c, Floats d, float *into) {
#if LANES == 16
    __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    __m512 low = _mm512_castpd_ps(
        _mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd)));
    __m512 high = _mm512_castpd_ps(
        _mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd)));
    __m512 each = _mm512_add_ps(low, high);
    __m256 halves = _mm256_add_ps(_mm512_castps512_ps256(each), _mm512_extractf32x8_ps(each, 1));
    _mm_storeu_ps(into, _mm_add_ps(_mm256_castps256_ps128(halves),
                                   _mm256_extractf128_ps(halves, 1)));
#elif LANES == 8
    __m256 each = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_storeu_ps(into,
                  _mm_add_ps(_mm256_castps256_ps128(each), _mm256_extractf128_ps(each, 1)));
#else
    into[0] = (a[0] + a[2]) + (a[1] + a[3]);
    into[1] = (b[0] + b[2]) + (b[1] + b[3]);
    into[2] = (c[0] + c[2]) + (c[1] + c[3]);
    into[3] = (d[0] + d[2]) + (d[1] + d[3]);
#endif
}

/* 2^x for x <= 0, and 0 below -125; NaN stays NaN. Taylor's series of 2^f, |f| <= 1/2: the first
   term that is left out is below 2^-27. */
TARGET ALWAYS Floats NAME(power)(Floats x) {
    Ints below = (Ints)(x < -125.0f);
    x = (Floats)((below & (Ints)NAME(all)(-125.0f)) | (~below & (Ints)x));
    Floats shifted = x + 12582912.0f; /* 1.5 * 2^23: rounds to an integer in the lowest bits */
    Floats f = x - (shifted - 12582912.0f);
    Floats y = f * 1.5252734e-5f + 1.5403530e-4f;
    y = y * f + 1.3333558e-3f;
    y = y * f + 9.6181291e-3f;
    y = y * f + 5.5504109e-2f;
    y = y * f + 2.4022651e-1f;
    y = y * f + 6.9314718e-1f;
    y = y * f + 1.0f;
    return (Floats)(~below & ((Ints)y + ((Ints)shifted << 23)));
}

TARGET ALWAYS float NAME(power_of)(float x) { return NAME(power)(NAME(all)(x))[0]; }

/* Logits of four keys for `heads` queries. `ahead`: their values, which come next, in numbers of
   `ahead_size` bytes, or null: asked for little by little, or the loads of keys would wait. */
TARGET ALWAYS void NAME(score_heads)(const char *const *key, int type, const char *const *ahead,
                                     int64_t ahead_size, const float *query, int64_t dim,
                                     int heads, float *into) {
    int64_t space = padded(dim);
    Floats sum[4][HEADS];
    for (int i = 0; i < 4; i++)
        for (int h = 0; h < heads; h++) sum[i][h] = (Floats){0};
    for (int64_t d = 0; d < dim; d += LANES) {
        Floats k[4];
        for (int i = 0; i < 4; i++) k[i] = NAME(numbers)(key[i], d, dim, type);
        if (ahead && (ahead_size > 1 || d % LINE == 0))
            for (int i = 0; i < 4; i++) __builtin_prefetch(ahead[i] + d * ahead_size, 0, 2);
        for (int h = 0; h < heads; h++) {
            Floats q = NAME(floats)(query + h * space + d);
            for (int i = 0; i < 4; i++) sum[i][h] += k[i] * q;
        }
    }
    for (int h = 0; h < heads; h++)
        NAME(sums)(sum[0][h], sum[1][h], sum[2][h], sum[3][h], into + h * PITCH);
}

/* Adds `wide` vectors of `count` values from `d` on, weighted, to `heads` sums. `ahead`: the keys
   that are read next, of the same shape; of them one in `every` from `due` on is asked for. */
TARGET ALWAYS void NAME(add_heads)(const char *values, int64_t pitch, int64_t count, int type,
                                   const char *ahead, int64_t due, int64_t every,
                                   const float *weights, int64_t d, int64_t dim, int heads,
                                   int wide, float *sums) {
    int64_t space = padded(dim);
    Floats sum[HEADS][4];
    for (int h = 0; h < heads; h++)
        for (int x = 0; x < wide; x++) sum[h][x] = NAME(floats)(sums + h * space + d + x * LANES);
    for (int64_t j = 0; j < count; j++, values += pitch) {
        if (j == due) {
            int64_t size = type_bytes[type];
            const char *row = ahead + j * pitch + d * size;
            for (int64_t at = 0; at < wide * LANES * size; at += LINE)
                __builtin_prefetch(row + at, 0, 2);
            due += every;
        }
        Floats v[4];
        for (int x = 0; x < wide; x++)
            v[x] = wide == 1 ? NAME(numbers)(values, d, dim, type)
                             : NAME(widened)(values, d + x * LANES, type);
        for (int h = 0; h < heads; h++) {
            Floats w = NAME(all)(weights[h * PITCH + j]);
            for (int x = 0; x < wide; x++) sum[h][x] += w * v[x];
        }
    }
    for (int h = 0; h < heads; h++)
        for (int x = 0; x < wide; x++)
            *(FloatsAt *)(sums + h * space + d + x * LANES) = sum[h][x];
}

/* A compiler keeps the sums in registers where it knows how many there are. */
#if HEADS == 4
#define BY_HEADS(call, heads) \
    switch (heads) { \
    case 1: call(1); break; \
    case 2: call(2); break; \
    case 3: call(3); break; \
    default: call(4); \
    }
#else
#define BY_HEADS(call, heads) \
    if ((heads) == 1) { call(1); } else { call(2); }
#endif

#define SCORE(type, heads) \
    NAME(score_heads)(key, type, h ? 0 : next, ahead_size, query + h * space, dim, heads, \
                      into + h * PITCH + j)
#define SCORE_F32(heads) SCORE(F32, heads)
#define SCORE_BF16(heads) SCORE(BF16, heads)
#define SCORE_I8(heads) SCORE(I8, heads)
/* Logits of `count` keys, four at a time: the last ones repeat a key, so that no key's number
   depends on where its segment ends. `ahead`: their values, which come next. */
TARGET static void NAME(score)(const char *keys, int64_t pitch, int64_t count, int64_t type,
                               const char *ahead, int64_t ahead_pitch, int64_t ahead_size,
                               const float *query, int64_t dim, int64_t group, float *into) {
    int64_t space = padded(dim);
    for (int64_t j = 0; j < count; j += 4) {
        const char *key[4], *next[4];
        for (int i = 0; i < 4; i++) {
            int64_t at = FEW(j + i, count - 1);
            key[i] = keys + at * pitch;
            next[i] = ahead + at * ahead_pitch;
        }
        for (int64_t h = 0; h < group; h += HEADS) {
            if (type == F32) {
                BY_HEADS(SCORE_F32, group - h)
            } else if (type == BF16) {
                BY_HEADS(SCORE_BF16, group - h)
            } else {
                BY_HEADS(SCORE_I8, group - h)
            }
        }
        if (type == I8) {
            Four scales;
            for (int i = 0; i < 4; i++) scales[i] = scale_behind(key[i] + dim);
            for (int64_t h = 0; h < group; h++) *(FourAt *)(into + h * PITCH + j) *= scales;
        }
    }
}

#define ADD(type, heads, wide) \
    NAME(add_heads)(values, pitch, count, type, ahead, ahead ? h / HEADS : count, every, \
                    weights + h * PITCH, d, dim, heads, wide, sums + h * space)
#define ADD_F32(heads) ADD(F32, heads, 4)
#define ADD_BF16(heads) ADD(BF16, heads, 4)
#define ADD_I8(heads) ADD(I8, heads, 4)
#define ADD_ONE_F32(heads) ADD(F32, heads, 1)
#define ADD_ONE_BF16(heads) ADD(BF16, heads, 1)
#define ADD_ONE_I8(heads) ADD(I8, heads, 1)
TARGET static void NAME(add)(const char *values, int64_t pitch, int64_t count, int64_t type,
                             const char *ahead, float *weights, int64_t dim, int64_t group,
                             float *sums) {
    int64_t space = padded(dim), every = (group + HEADS - 1) / HEADS, d = 0;
    if (type == I8) { /* the weights are read here for the last time */
        float scales[TILE];
        for (int64_t j = 0; j < count; j++) scales[j] = scale_behind(values + j * pitch + dim);
        for (int64_t h = 0; h < group; h++)
            for (int64_t j = 0; j < count; j++) weights[h * PITCH + j] *= scales[j];
    }
    for (; d + 4 * LANES <= dim; d += 4 * LANES)
        for (int64_t h = 0; h < group; h += HEADS) {
            if (type == F32) {
                BY_HEADS(ADD_F32, group - h)
            } else if (type == BF16) {
                BY_HEADS(ADD_BF16, group - h)
            } else {
                BY_HEADS(ADD_I8, group - h)
            }
        }
    for (; d < dim; d += LANES)
        for (int64_t h = 0; h < group; h += HEADS) {
            if (type == F32) {
                BY_HEADS(ADD_ONE_F32, group - h)
            } else if (type == BF16) {
                BY_HEADS(ADD_ONE_BF16, group - h)
            } else {
                BY_HEADS(ADD_ONE_I8, group - h)
            }
        }
}

/* One head's logits of a tile become weights. */
TARGET static void NAME(soften)(float *weights, int64_t count, float *most, float *total,
                                float *sum, int64_t space) {
    int64_t whole = (count + LANES - 1) / LANES * LANES;
    for (int64_t j = count; j < whole; j++) weights[j] = -__builtin_inff();
    Floats top = NAME(floats)(weights);
    for (int64_t j = LANES; j < whole; j += LANES)
        top = NAME(larger)(top, NAME(floats)(weights + j));
    float now = NAME(largest)(top);
    now = now > *most ? now : *most;
    if (now > *most) {
        float factor = NAME(power_of)(*most - now); /* 0 before the first key that counts */
        *total *= factor;
        for (int64_t d = 0; d < space; d++) sum[d] *= factor;
        *most = now;
    }
    /* Where no key counts so far, all weigh 0: -inf less -inf would be no number. */
    float base = now == -__builtin_inff() ? 0 : now;
    Floats added = {0};
    for (int64_t j = 0; j < whole; j += LANES) {
        Floats w = NAME(power)(NAME(floats)(weights + j) - base);
        if (j + LANES > count)
            for (int lane = 0; lane < LANES; lane++)
                if (j + lane >= count) w[lane] = 0;
        *(FloatsAt *)(weights + j) = w;
        added += w;
    }
    Floats none = {0};
    float all[4];
    NAME(sums)(added, none, none, none, all);
    *total += all[0];
}

/* A row's splits as one, in their order. */
TARGET static void NAME(combine)(const Job *job, const Row *row, int64_t kv_head, float *sum) {
    const Step *step = job->step;
    int64_t dim = step->dim, space = padded(dim), group = step->heads / step->kv_heads;
    int64_t pitch = step->heads * (space + 2);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
        const float *parts = (const float *)step->partials + row->partial * pitch;
        parts += head * (space + 2);
        float most = parts[space], total = 0;
        for (int64_t split = 1; split < row->splits; split++) {
            float other = parts[split * pitch + space];
            most = other > most ? other : most;
        }
        for (int64_t d = 0; d < space; d++) sum[d] = 0;
        for (int64_t split = 0; split < row->splits; split++) {
            const float *part = parts + split * pitch;
            float weight = NAME(power_of)(part[space] - most);
            total += weight * part[space + 1];
            for (int64_t d = 0; d < space; d++) sum[d] += weight * part[d];
        }
        for (int64_t d = 0; d < dim; d++)
            put(job->out, step->out_type, row->out + head * dim + d, sum[d] / total);
    }
}

TARGET static void NAME(attend)(const Job *job, const Row *row, int64_t kv_head, int64_t split,
                                Space space) {
    const Step *step = job->step;
    const Segment *segments = (const Segment *)step->segments + row->first;
    int64_t dim = step->dim, pitch = padded(dim), group = step->heads / step->kv_heads;
    int64_t key_bytes = type_bytes[step->key_type], value_bytes = type_bytes[step->value_type];
    int64_t start = split * SPLIT, stop = FEW(start + SPLIT, row->keys);
    float scale = job->scale * LOG2E;
    scale *= ((const float *)step->scales)[row - (const Row *)step->row_table];
    int64_t from = first_segment(segments, row->count, start), turned = -2;
    for (int64_t at = 0; at < group * pitch; at++) space.sum[at] = 0;
    for (int64_t head = 0; head < group; head++) {
        space.most[head] = -__builtin_inff();
        space.total[head] = 0;
    }
    for (int64_t tile = start; tile < stop; tile += TILE) {
        int64_t end = FEW(tile + TILE, stop);
        while (from < row->count && segments[from].stop <= tile) from++;
        for (int pass = 0; pass < 2; pass++) { /* logits, then values */
            for (int64_t s = from; s < row->count && segments[s].start < end; s++) {
                const Segment *segment = segments + s;
                const Stack *stack = (const Stack *)step->stacks + segment->stack;
                int64_t low = segment->start > tile ? segment->start : tile;
                int64_t high = FEW(segment->stop, end);
                if (low >= high) continue;
                int64_t slot = segment->slot + low - segment->start;
                int64_t key_pitch = stack->key_slot * key_bytes;
                int64_t value_pitch = stack->value_slot * value_bytes;
                const char *keys = job->bases[2 * segment->stack];
                const char *values = job->bases[2 * segment->stack + 1];
                keys += key_bytes * (row->batch * stack->key_batch + kv_head * stack->key_head) +
                        slot * key_pitch;
                values += value_bytes *
                              (row->batch * stack->value_batch + kv_head * stack->value_head) +
                          slot * value_pitch;
                float *weights = space.weights + (low - tile);
                if (pass == 0) {
                    if (segment->turn != turned) {
                        turned = segment->turn;
                        turn_queries(job, row, kv_head, turned, scale, space.query);
                    }
                    NAME(score)(keys, key_pitch, high - low, step->key_type, values, value_pitch,
                                value_bytes, space.query, dim, group, weights);
                } else {
                    int alike = key_pitch == value_pitch && segment->stop > high;
                    NAME(add)(values, value_pitch, high - low, step->value_type,
                              alike ? keys + (high - low) * key_pitch : 0, weights, dim, group,
                              space.sum);
                }
            }
            if (pass == 0)
                for (int64_t head = 0; head < group; head++)
                    NAME(soften)(space.weights + head * PITCH, end - tile, space.most + head,
                                 space.total + head, space.sum + head * pitch, pitch);
        }
    }
    if (row->splits == 1) {
        for (int64_t head = 0; head < group; head++) {
            float total = space.total[head];
            for (int64_t d = 0; d < dim; d++)
                put(job->out, step->out_type, row->out + (kv_head * group + head) * dim + d,
                    row->keys ? space.sum[head * pitch + d] / total : 0);
        }
        return;
    }
    float *parts = (float *)step->partials;
    parts += ((row->partial + split) * step->heads + kv_head * group) * (pitch + 2);
    for (int64_t head = 0; head < group; head++, parts += pitch + 2) {
        memcpy(parts, space.sum + head * pitch, (size_t)pitch * 4);
        parts[pitch] = space.most[head];
        parts[pitch + 1] = space.total[head];
    }
    int64_t *left = (int64_t *)step->left;
    left += (row - (const Row *)step->row_table) * step->kv_heads + kv_head;
    if (__atomic_sub_fetch(left, 1, __ATOMIC_ACQ_REL) == 0)
        NAME(combine)(job, row, kv_head, space.sum);
}

/* What a thread does: the next task until there is none. Tasks are in order of split, key head, row;
   rows in order of how many splits they have, the most first; `before` are the tasks before a split. */
TARGET static void NAME(work)(void *argument) {
    Job *job = argument;
    const Step *step = job->step;
    const int64_t *before = (const int64_t *)step->before;
    int64_t group = step->heads / step->kv_heads, wide = group * padded(step->dim);
    float *memory = malloc((size_t)(2 * wide + 2 * group + group * PITCH + LANES) * 4);
    if (!memory) return; /* the others do what is left */
    float *totals = memory + 2 * wide;
    Space space = {memory, memory + wide, totals, totals + group, totals + 2 * group};
    int64_t task;
    while ((task = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED)) < step->tasks) {
        int64_t low = 0, high = step->splits - 1;
        while (low < high) {
            int64_t middle = (low + high + 1) / 2;
            if (before[middle] <= task)
                low = middle;
            else
                high = middle - 1;
        }
        int64_t rows = (before[low + 1] - before[low]) / step->kv_heads, at = task - before[low];
        const Row *row = (const Row *)step->row_table + at % rows;
        NAME(attend)(job, row, at / rows, low, space);
    }
    free(memory);
}

#undef Floats
#undef FloatsAt
#undef Ints
#undef FEW
#undef BY_HEADS
#undef SCORE
#undef SCORE_F32
#undef SCORE_BF16
#undef ADD
#undef ADD_F32
#undef ADD_BF16
#undef ADD_ONE_F32
#undef ADD_ONE_BF16
#undef SCORE_I8
#undef ADD_I8
#undef ADD_ONE_I8

#endif
