/* Attention of a block of queries on the CPU: what a prompt's chunk needs, in one call.

   The query heads of a key head are one run of rows, query by query. A task is a block of them: its
   queries are packed once, then keys go by in blocks of KEYS from key 0 on, packed by columns, and
   one online softmax (arXiv 1805.02867) goes over the blocks. Logits and sums are two products of
   the same shape, ROWS rows by WIDE vectors, whose results stay in registers. Keys behind the last
   one that a tile of rows sees are not computed. bfloat16 is widened as it is packed: all arithmetic
   is float32.

   What a row's numbers are depends on its query and the keys that it sees, to the last bit: blocks
   of keys start at multiples of KEYS, and no sum goes across rows.

   No library beside libc and libm, and no thread of its own: as decode.c, of which the way to
   include itself once for each instruction set is taken, too. */

#ifndef LANES

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define ALWAYS static inline __attribute__((always_inline))

#define KEYS 128 /* of a step of the online softmax */
#define ROWS 6   /* of a product in registers */
#define SLOTS 16 /* of a tile's numbers by row: ROWS, and vectors are whole */
#define LINE 64  /* bytes of a cache line */
#define LOG2E 1.4426950408889634
#define LN2 0.6931471805599453

enum { F32, BF16 };
static const int64_t type_bytes[] = {4, 2};

/* All int64 and in this order, as blocks.py packs them. Strides count elements; a query's numbers,
   a key's and a value's lie one behind the other. */
typedef struct {
    int64_t batch, heads, kv_heads, queries, keys, dim;
    int64_t query_type, key_type, value_type, out_type;
    int64_t query_batch, query_head, query_slot;
    int64_t key_batch, key_head, key_slot;
    int64_t value_batch, value_head, value_slot;
    int64_t causal; /* the last query sees the last key */
    int64_t rows;   /* of a task; a multiple of ROWS */
} Shape;

typedef struct {
    const Shape *shape;
    const char *query, *key, *value;
    char *out;  /* [batch, queries, heads, dim] */
    float *lse; /* [batch, heads, queries] */
    float scale;
    int64_t blocks, tasks, next; /* blocks: of rows, of a key head */
} Job;

/* A thread's own numbers. Queries: [tile][dim][ROWS]; weights: [row][KEYS]; sums: [row][wide dim];
   most: [tile][SLOTS]; totals: [row][SLOTS], by lane; keys: [panel][dim][a panel's keys]; values:
   [key][wide dim]. */
typedef struct {
    float *queries, *weights, *sums, *most, *totals, *keys, *values;
} Space;

ALWAYS float half_to_float(const uint16_t *from) {
    uint32_t bits = (uint32_t)*from << 16;
    float number;
    memcpy(&number, &bits, 4);
    return number;
}

ALWAYS float number(const char *from, int64_t at, int type) {
    return type == F32 ? ((const float *)from)[at] : half_to_float((const uint16_t *)from + at);
}

static void put(char *out, int64_t type, int64_t at, const float *from, int64_t count, float factor) {
    if (type == F32) {
        for (int64_t d = 0; d < count; d++) ((float *)out)[at + d] = from[d] * factor;
        return;
    }
    for (int64_t d = 0; d < count; d++) {
        float number = from[d] * factor;
        uint32_t bits;
        memcpy(&bits, &number, 4);
        if ((bits & 0x7fffffff) > 0x7f800000)
            bits = (bits >> 16) | 0x40; /* stays not a number */
        else
            bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
        ((uint16_t *)out)[at + d] = (uint16_t)bits;
    }
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t padded(int64_t dim) { return (dim + 15) / 16 * 16; }

/* How many keys a row sees. */
static int64_t seen(const Shape *shape, int64_t row) {
    if (!shape->causal) return shape->keys;
    return shape->keys - shape->queries + row / (shape->heads / shape->kv_heads) + 1;
}

#define JOIN(a, b) a##_##b
#define NAMED(a, b) JOIN(a, b)
#define NAME(a) NAMED(a, ISA)

#if (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__))
#define X86 1
#include <immintrin.h>
#define ISA avx512
#define LANES 16
#define WIDE 4
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
#include "prefill.c"
#undef ISA
#undef LANES
#undef WIDE
#undef TARGET
#define ISA avx2
#define LANES 8
#define WIDE 2
#define TARGET __attribute__((target("avx2,fma")))
#include "prefill.c"
#undef ISA
#undef LANES
#undef WIDE
#undef TARGET
#endif
#define ISA plain
#define LANES 4
#define WIDE 2
#define TARGET
#include "prefill.c"

/* What prefill() may be asked for at most: 0 plain C, 1 AVX2, 2 AVX-512. */
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

typedef void (*Work)(void *);
typedef void (*Parallel)(Work, void *, unsigned, unsigned);

/* parallel: GOMP_parallel or null. Returns 0, or 1 where no thread got memory. */
EXPORT int longctx_prefill(const Shape *shape, const void *query, const void *key, const void *value,
                           void *out, float *lse, double scale, int level, void *parallel,
                           int threads) {
    int64_t rows = shape->queries * (shape->heads / shape->kv_heads);
    int64_t blocks = (rows + shape->rows - 1) / shape->rows;
    int64_t tasks = shape->batch * shape->kv_heads * blocks;
    Job job = {shape, query, key, value, out, lse, (float)(scale * LOG2E), blocks, tasks, 0};
    Work work = work_plain;
#ifdef X86
    work = level >= 2 ? work_avx512 : level == 1 ? work_avx2 : work_plain;
#endif
    if ((int64_t)threads > tasks) threads = (int)tasks;
    if (parallel && threads > 1)
        ((Parallel)parallel)(work, &job, (unsigned)threads, 0);
    else
        work(&job);
    return job.next < tasks;
}

#else /* one instruction set */

typedef float NAME(Floats) __attribute__((vector_size(4 * LANES)));
typedef float NAME(FloatsAt) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t NAME(Ints) __attribute__((vector_size(4 * LANES)));
#if LANES == 4
typedef uint16_t HalvesAt __attribute__((vector_size(8), aligned(2), may_alias));
typedef uint32_t Words __attribute__((vector_size(16)));
#endif
#define Floats NAME(Floats)
#define FloatsAt NAME(FloatsAt)
#define Ints NAME(Ints)
#define PANEL (WIDE * LANES) /* keys of a product */

TARGET ALWAYS Floats NAME(floats)(const float *from) { return *(const FloatsAt *)from; }
TARGET ALWAYS void NAME(store)(float *into, Floats x) { *(FloatsAt *)into = x; }
TARGET ALWAYS Floats NAME(all)(float number) { return number - (Floats){0}; }

TARGET ALWAYS Floats NAME(widened)(const char *from, int64_t at, int type) {
    if (type == F32) return *(const FloatsAt *)((const float *)from + at);
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

/* The larger one; b where either is not a number. */
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

/* 2^x for x <= 0, and 0 far below; NaN stays NaN. A polynomial of 2^f, |f| <= 1/2, fitted to a
   relative error of 1e-7, exact at 0. */
TARGET ALWAYS Floats NAME(power)(Floats x) {
#if LANES == 16
    x = NAME(larger)(NAME(all)(-160.0f), x);
    Floats whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    Ints below = (Ints)(x < -125.0f);
    x = (Floats)((below & (Ints)NAME(all)(-125.0f)) | (~below & (Ints)x));
    Floats shifted = x + 12582912.0f; /* 1.5 * 2^23: rounds to an integer in the lowest bits */
    Floats whole = shifted - 12582912.0f;
#endif
    Floats f = x - whole;
    Floats y = f * 1.3264727e-3f + 9.6715130e-3f;
    y = y * f + 5.5507336e-2f;
    y = y * f + 2.4022242e-1f;
    y = y * f + 6.9314700e-1f;
    y = y * f + 1.0f;
#if LANES == 16
    return _mm512_scalef_ps(y, whole);
#else
    return (Floats)(~below & ((Ints)y + ((Ints)shifted << 23)));
#endif
}

/* ROWS rows by `wide` vectors: products of a (its elements row_step and step apart) and b, summed
   over `depth`. Added to c times `factors`, by row, where there are any. */
TARGET ALWAYS void NAME(tile)(const float *a, int64_t row_step, int64_t step, const float *b,
                              int64_t pitch, int64_t depth, int wide, const float *factors, float *c,
                              int64_t c_pitch) {
    Floats sum[ROWS][WIDE];
    for (int r = 0; r < ROWS; r++)
        for (int x = 0; x < wide; x++)
            sum[r][x] = factors ? NAME(floats)(c + r * c_pitch + x * LANES) * factors[r]
                                : (Floats){0};
    for (int64_t k = 0; k < depth; k++, a += step, b += pitch) {
        Floats by[WIDE];
        for (int x = 0; x < wide; x++) by[x] = NAME(floats)(b + x * LANES);
        for (int r = 0; r < ROWS; r++) {
            Floats each = NAME(all)(a[r * row_step]);
            for (int x = 0; x < wide; x++) sum[r][x] += each * by[x];
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int x = 0; x < wide; x++) NAME(store)(c + r * c_pitch + x * LANES, sum[r][x]);
}

/* A compiler keeps the sums in registers where it knows how many there are. */
#if WIDE == 4
#define BY_WIDTH(call, wide) \
    switch (wide) { \
    case 1: call(1); break; \
    case 2: call(2); break; \
    case 3: call(3); break; \
    default: call(4); \
    }
#else
#define BY_WIDTH(call, wide) \
    if ((wide) == 1) { call(1); } else { call(2); }
#endif

/* Logits of a tile with `wide` vectors of a panel. */
#define SCORE(wide) NAME(tile)(queries, 1, ROWS, panel, PANEL, dim, wide, 0, into, KEYS)
TARGET static void NAME(score)(const float *queries, const float *panel, int64_t dim, int wide,
                               float *into) {
    BY_WIDTH(SCORE, wide)
}

/* Weighted values of a tile, `wide` vectors of them. */
#define ADD(wide) NAME(tile)(weights, KEYS, 1, values, pitch, count, wide, factors, sums, space)
TARGET static void NAME(add)(const float *weights, const float *values, int64_t pitch, int64_t count,
                             int wide, const float *factors, float *sums, int64_t space) {
    BY_WIDTH(ADD, wide)
}

/* One tile's logits become weights: `count` keys, of which row r sees `sees[r]`. `factors`: what its
   sums so far are to be multiplied with. */
TARGET static void NAME(soften)(float *weights, int64_t count, const int64_t *sees, float *most,
                                float *totals, float *factors) {
    int64_t whole = (count + LANES - 1) / LANES * LANES;
    float top[SLOTS] = {0}, base[SLOTS];
    for (int r = 0; r < ROWS; r++) {
        float *row = weights + r * KEYS;
        for (int64_t j = sees[r]; j < whole; j++) row[j] = -__builtin_inff();
        Floats found = NAME(floats)(row);
        for (int64_t j = LANES; j < whole; j += LANES)
            found = NAME(larger)(found, NAME(floats)(row + j));
        top[r] = NAME(largest)(found);
    }
    for (int r = 0; r < ROWS; r += LANES) {
        Floats before = NAME(floats)(most + r);
        Floats now = NAME(larger)(NAME(floats)(top + r), before);
        /* Where no key counts so far, all weigh 0: -inf less -inf would be no number. */
        Ints none = (Ints)(now == -__builtin_inff());
        Floats from = (Floats)(~none & (Ints)now);
        NAME(store)(most + r, now);
        NAME(store)(base + r, from);
        NAME(store)(factors + r, NAME(power)(before - from));
    }
    for (int r = 0; r < ROWS; r++) {
        float *row = weights + r * KEYS;
        Floats total = NAME(floats)(totals + r * SLOTS) * factors[r];
        Floats from = NAME(all)(base[r]);
        for (int64_t j = 0; j < whole; j += LANES) {
            Floats w = NAME(power)(NAME(floats)(row + j) - from);
            NAME(store)(row + j, w);
            total += w;
        }
        NAME(store)(totals + r * SLOTS, total);
    }
}

#if LANES == 16
/* LANES keys of LANES numbers, by columns. */
TARGET ALWAYS void NAME(turn)(Floats *x) {
    Floats y[16];
    for (int i = 0; i < 16; i += 2) {
        y[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            __m512d a = (__m512d)y[i + j], b = (__m512d)y[i + j + 2];
            x[i + 2 * j] = (Floats)_mm512_unpacklo_pd(a, b);
            x[i + 2 * j + 1] = (Floats)_mm512_unpackhi_pd(a, b);
        }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 2; j++) {
            Floats a = x[8 * j + i], b = x[8 * j + i + 4];
            y[8 * j + i] = _mm512_shuffle_f32x4(a, b, 0x88);
            y[8 * j + i + 4] = _mm512_shuffle_f32x4(a, b, 0xdd);
        }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 2; j++) {
            Floats a = y[4 * j + i], b = y[4 * j + i + 8];
            x[4 * j + i] = _mm512_shuffle_f32x4(a, b, 0x88);
            x[4 * j + i + 8] = _mm512_shuffle_f32x4(a, b, 0xdd);
        }
}
#elif LANES == 8
TARGET ALWAYS void NAME(turn)(Floats *x) {
    Floats y[8];
    for (int i = 0; i < 8; i += 2) {
        y[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
        y[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            __m256d a = (__m256d)y[i + j], b = (__m256d)y[i + j + 2];
            x[i + 2 * j] = (Floats)_mm256_unpacklo_pd(a, b);
            x[i + 2 * j + 1] = (Floats)_mm256_unpackhi_pd(a, b);
        }
    for (int i = 0; i < 4; i++) {
        Floats a = x[i], b = x[i + 4];
        y[i] = _mm256_permute2f128_ps(a, b, 0x20);
        y[i + 4] = _mm256_permute2f128_ps(a, b, 0x31);
    }
    for (int i = 0; i < 8; i++) x[i] = y[i];
}
#else
TARGET ALWAYS void NAME(turn)(Floats *x) {
    Floats y[4];
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) y[i][j] = x[j][i];
    for (int i = 0; i < 4; i++) x[i] = y[i];
}
#endif

/* `count` keys by columns; whole vectors of them, zeros behind the last one. */
TARGET ALWAYS void NAME(pack_keys)(const char *keys, int64_t slot, int64_t count, int64_t dim,
                                   int type, float *into) {
    for (int64_t j = 0; j < count; j += LANES) {
        float *panel = into + j / PANEL * PANEL * dim + j % PANEL;
        int64_t d = 0, some = least(LANES, count - j);
        for (; d + LANES <= dim; d += LANES) {
            Floats x[LANES];
            for (int i = 0; i < LANES; i++)
                x[i] = i < some ? NAME(widened)(keys, (j + i) * slot + d, type) : (Floats){0};
            NAME(turn)(x);
            for (int i = 0; i < LANES; i++) NAME(store)(panel + (d + i) * PANEL, x[i]);
        }
        for (; d < dim; d++)
            for (int i = 0; i < LANES; i++)
                panel[d * PANEL + i] = i < some ? number(keys, (j + i) * slot + d, type) : 0;
    }
}

TARGET ALWAYS void NAME(pack_values)(const char *values, int64_t slot, int64_t count, int64_t dim,
                                     int type, float *into) {
    int64_t space = padded(dim);
    for (int64_t j = 0; j < count; j++, into += space) {
        int64_t d = 0;
        for (; d + LANES <= dim; d += LANES)
            NAME(store)(into + d, NAME(widened)(values, j * slot + d, type));
        for (; d < space; d++) into[d] = d < dim ? number(values, j * slot + d, type) : 0;
    }
}

/* Rows [first, first + count) of a key head, zeros where the last tile is not full. */
TARGET static void NAME(pack_queries)(const Job *job, const char *query, int64_t first,
                                      int64_t count, float *into) {
    const Shape *shape = job->shape;
    int64_t dim = shape->dim, group = shape->heads / shape->kv_heads;
    for (int64_t row = 0; row < (count + ROWS - 1) / ROWS * ROWS; row++) {
        float *tile = into + row / ROWS * ROWS * dim + row % ROWS;
        int64_t at = (first + row) / group * shape->query_slot;
        at += (first + row) % group * shape->query_head;
        for (int64_t d = 0; d < dim; d++)
            tile[d * ROWS] =
                row < count ? number(query, at + d, (int)shape->query_type) * job->scale : 0;
    }
}

TARGET static void NAME(attend)(const Job *job, int64_t batch, int64_t kv_head, int64_t first,
                                int64_t rows, Space space) {
    const Shape *shape = job->shape;
    int64_t dim = shape->dim, wide_dim = padded(dim), group = shape->heads / shape->kv_heads;
    int64_t tiles = (rows + ROWS - 1) / ROWS, last = first + rows - 1, stop = seen(shape, last);
    int64_t vectors = (dim + LANES - 1) / LANES, parts = (vectors + WIDE - 1) / WIDE;
    const char *query = job->query, *key = job->key, *value = job->value;
    query += type_bytes[shape->query_type] *
             (batch * shape->query_batch + kv_head * group * shape->query_head);
    key += type_bytes[shape->key_type] * (batch * shape->key_batch + kv_head * shape->key_head);
    value +=
        type_bytes[shape->value_type] * (batch * shape->value_batch + kv_head * shape->value_head);
    int in_place = shape->value_type == F32 && dim % LANES == 0;
    NAME(pack_queries)(job, query, first, rows, space.queries);
    memset(space.sums, 0, (size_t)(tiles * ROWS * wide_dim) * 4);
    memset(space.totals, 0, (size_t)(tiles * ROWS * SLOTS) * 4);
    for (int64_t at = 0; at < tiles * SLOTS; at++) space.most[at] = -__builtin_inff();
    for (int64_t start = 0; start < stop; start += KEYS) {
        int64_t count = least(KEYS, stop - start);
        const char *from = key + start * shape->key_slot * type_bytes[shape->key_type];
        if (shape->key_type == F32)
            NAME(pack_keys)(from, shape->key_slot, count, dim, F32, space.keys);
        else
            NAME(pack_keys)(from, shape->key_slot, count, dim, BF16, space.keys);
        from = value + start * shape->value_slot * type_bytes[shape->value_type];
        const float *values = in_place ? (const float *)from : space.values;
        int64_t pitch = in_place ? shape->value_slot : wide_dim;
        if (!in_place) {
            if (shape->value_type == F32)
                NAME(pack_values)(from, shape->value_slot, count, dim, F32, space.values);
            else
                NAME(pack_values)(from, shape->value_slot, count, dim, BF16, space.values);
        }
        for (int64_t low = 0; low < count; low += PANEL)
            for (int64_t tile = 0; tile < tiles; tile++) {
                int64_t end = least(seen(shape, least(first + tile * ROWS + ROWS - 1, last)), stop);
                int64_t some = least(least(end - start, count) - low, PANEL);
                if (some <= 0) continue;
                NAME(score)(space.queries + tile * ROWS * dim, space.keys + low * dim, dim,
                            (int)((some + LANES - 1) / LANES),
                            space.weights + tile * ROWS * KEYS + low);
            }
        for (int64_t tile = 0; tile < tiles; tile++) {
            int64_t sees[ROWS], end = 0;
            float factors[SLOTS];
            for (int r = 0; r < ROWS; r++) {
                int64_t own = seen(shape, least(first + tile * ROWS + r, last)) - start;
                sees[r] = own < 0 ? 0 : least(own, count);
                end = sees[r];
            }
            if (!end) continue;
            float *weights = space.weights + tile * ROWS * KEYS;
            NAME(soften)(weights, end, sees, space.most + tile * SLOTS,
                         space.totals + tile * ROWS * SLOTS, factors);
            for (int64_t part = 0; part < parts; part++) {
                int64_t low = vectors * part / parts, high = vectors * (part + 1) / parts;
                NAME(add)(weights, values + low * LANES, pitch, end, (int)(high - low), factors,
                          space.sums + tile * ROWS * wide_dim + low * LANES, wide_dim);
            }
        }
    }
    for (int64_t row = 0; row < rows; row++) {
        int64_t at = (first + row) / group, head = kv_head * group + (first + row) % group;
        double total = 0;
        for (int lane = 0; lane < LANES; lane++) total += space.totals[row * SLOTS + lane];
        float most = space.most[row / ROWS * SLOTS + row % ROWS];
        put(job->out, shape->out_type,
            ((batch * shape->queries + at) * shape->heads + head) * dim,
            space.sums + row * wide_dim, dim, total == 0 ? 0 : (float)(1 / total));
        job->lse[(batch * shape->heads + head) * shape->queries + at] =
            (float)(most * LN2 + log(total));
    }
}

/* What a thread does: the next task until there is none; of a key head those with the most keys
   first. */
TARGET static void NAME(work)(void *argument) {
    Job *job = argument;
    const Shape *shape = job->shape;
    int64_t dim = shape->dim, wide_dim = padded(dim), rows = shape->rows, sizes[7];
    int64_t all = shape->queries * (shape->heads / shape->kv_heads);
    sizes[0] = rows * dim;
    sizes[1] = rows * KEYS;
    sizes[2] = rows * wide_dim;
    sizes[3] = rows / ROWS * SLOTS;
    sizes[4] = rows * SLOTS;
    sizes[5] = KEYS * dim;
    sizes[6] = KEYS * wide_dim;
    int64_t size = LINE;
    for (int i = 0; i < 7; i++) size += (sizes[i] + 15) / 16 * LINE;
    char *memory = malloc((size_t)size);
    if (!memory) return; /* the others do what is left */
    char *at = memory + (LINE - (uintptr_t)memory % LINE);
    float *each[7];
    for (int i = 0; i < 7; i++) {
        each[i] = (float *)at;
        at += (sizes[i] + 15) / 16 * LINE;
    }
    Space space = {each[0], each[1], each[2], each[3], each[4], each[5], each[6]};
    int64_t task;
    while ((task = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED)) < job->tasks) {
        int64_t head = task / job->blocks, first = job->blocks - 1 - task % job->blocks;
        first *= rows;
        NAME(attend)(job, head / shape->kv_heads, head % shape->kv_heads, first,
                     least(rows, all - first), space);
    }
    free(memory);
}

#undef Floats
#undef FloatsAt
#undef Ints
#undef PANEL
#undef BY_WIDTH
#undef SCORE
#undef ADD

#endif
