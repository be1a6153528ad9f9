/* Linear layers of bytes on the CPU: what int8.py says, in the same order of operations.

       y_ro = x_scale_r * w_scale_o * sum_i (256 h_ri + l_ri) w_oi + bias_o

   Few rows, as of a step that decodes, are bound by the memory that the weights come from: a call
   reads them once, and rounds and scales besides. The weights are oneDNN's own, in the layout that
   it multiplies many rows with, so there is one copy of them; int8_native.py knows which layout that
   is. Of many rows only rounding and scaling are done here. Sums of whole numbers have no order, so
   all ways give the same bits.

   Products and sums are not contracted (setup.py says so to the compiler), as torch has them.

   Shape legend: R rows, I inputs, O outputs, P inputs filled up. */

#include "common.h"

#define UNROLL _Pragma("GCC unroll 16")

#define ZERO 128            /* the byte that stands for 0 */
#define LARGEST (127 * 256) /* whole number of a row's largest */
#define TINY 1e-30f         /* of a scale: rows of zeros stay zeros */
#define NEAREST 12582912.f  /* 1.5 * 2^23: added and taken off, it leaves the nearest whole number */
#define BLOCK 64            /* outputs, and inputs, of a block of BLOCKED weights */
#define SUMS 4096           /* of BY_INPUT weights, that stay near while the inputs go by */
#define MOST_ROWS 8         /* of BY_INPUT weights */
#define AT_ONCE 8           /* inputs that are added to them at a time */

enum { PLAIN, WITH_AVX2, WITH_VNNI }; /* levels */

/* BLOCKED: [O / BLOCK][P / 4][BLOCK][4], both filled up with zeros to whole blocks.
   BY_INPUT: [I][O]. */
enum { BLOCKED, BY_INPUT };

/* In this order, as int8_native.py packs them. */
typedef struct {
    int64_t inputs, outputs, layout;
    const int8_t *weights;
    const float *scale_O;
    const int32_t *zero_O; /* ZERO times the sum of an output's weights */
    const float *bias_O;   /* or null */
} Layer;

typedef struct Job Job;
typedef void (*Part)(const Job *, int64_t first, int64_t stop);

/* One call. */
struct Job {
    const Layer *layer;
    int64_t rows, inputs, outputs, type;
    const char *x;    /* [R, I] */
    char *out;        /* [R, O] */
    uint8_t *high, *low; /* [R, P] */
    int64_t pitch;    /* P */
    float *scale_R;
    const float *high_RO, *bias_O;
    float *low_RO;             /* many rows: their products, by scale_O */
    Part part;                 /* does [first, stop) of count; size at a time */
    int64_t count, size, next;
};

/* One row as bytes, and its scale. Where this is no finite number all bytes stand for 0: what is
   computed of them is no finite number either. */
ALWAYS float round_row(const char *restrict x, int64_t type, int64_t inputs, int64_t pitch,
                       uint8_t *restrict high, uint8_t *restrict low) {
    float most[16] = {0}, largest = TINY;
    int32_t broken[16] = {0}, any = 0;
    int64_t i = 0;
    for (; i + 16 <= inputs; i += 16)
        for (int lane = 0; lane < 16; lane++) {
            float size = fabsf(number(x, i + lane, type));
            broken[lane] |= size != size;
            most[lane] = size > most[lane] ? size : most[lane];
        }
    for (; i < inputs; i++) {
        float size = fabsf(number(x, i, type));
        any |= size != size;
        largest = size > largest ? size : largest;
    }
    for (int lane = 0; lane < 16; lane++) {
        any |= broken[lane];
        largest = most[lane] > largest ? most[lane] : largest;
    }
    float scale = any ? NAN : largest * (float)(1.0 / LARGEST);
    int64_t count = any || isinf(scale) ? 0 : inputs;
    for (i = 0; i < count; i++) {
        int32_t whole = (int32_t)(number(x, i, type) / scale + NEAREST - NEAREST);
        int32_t upper = (whole + 128) >> 8;
        high[i] = (uint8_t)(upper + ZERO);
        low[i] = (uint8_t)(whole - 256 * upper + ZERO);
    }
    memset(high + count, ZERO, (size_t)(pitch - count));
    memset(low + count, ZERO, (size_t)(pitch - count));
    return scale;
}

/* A row's outputs from both its products, into the second. */
ALWAYS void finish_row(const float *restrict high_O, float *restrict low_O, float scale,
                       const float *restrict bias_O, int64_t count) {
    for (int64_t o = 0; o < count; o++) low_O[o] = (low_O[o] + 256 * high_O[o]) * scale;
    for (int64_t o = 0; bias_O && o < count; o++) low_O[o] += bias_O[o];
}

ALWAYS void write_row(const float *restrict from, char *restrict out, int64_t type, int64_t first,
                      int64_t count) {
    for (int64_t o = 0; o < count; o++) put(out, type, first + o, from[o]);
}

/* Outputs [first, first + count) of a row, BLOCK at most, from sums of whole numbers; `zero`: 1
   where ZERO is in them. */
ALWAYS void finish_sums(const Job *job, int64_t row, int64_t first, int64_t count,
                        const int32_t *restrict high_o, const int32_t *restrict low_o, int zero) {
    const int32_t *zero_o = job->layer->zero_O + first;
    const float *scale_o = job->layer->scale_O + first;
    float upper[BLOCK], lower[BLOCK];
    for (int64_t o = 0; o < count; o++) {
        int32_t less = zero ? zero_o[o] : 0;
        upper[o] = (float)(high_o[o] - less) * scale_o[o];
        lower[o] = (float)(low_o[o] - less) * scale_o[o];
    }
    finish_row(upper, lower, job->scale_R[row], job->bias_O ? job->bias_O + first : 0, count);
    char *out = job->out + row * job->outputs * type_bytes[job->type];
    if (job->type == F32)
        write_row(lower, out, F32, first, count);
    else
        write_row(lower, out, BF16, first, count);
}

ALWAYS void round_rows(const Job *job, int64_t first, int64_t stop) {
    int64_t size = type_bytes[job->type];
    for (int64_t row = first; row < stop; row++) {
        const char *x = job->x + row * job->inputs * size;
        uint8_t *high = job->high + row * job->pitch, *low = job->low + row * job->pitch;
        job->scale_R[row] = job->type == F32
                                ? round_row(x, F32, job->inputs, job->pitch, high, low)
                                : round_row(x, BF16, job->inputs, job->pitch, high, low);
    }
}

ALWAYS void finish_rows(const Job *job, int64_t first, int64_t stop) {
    for (int64_t row = first; row < stop; row++) {
        float *low = job->low_RO + row * job->outputs;
        const float *high = job->high_RO + row * job->outputs;
        finish_row(high, low, job->scale_R[row], job->bias_O, job->outputs);
        if (job->out) write_row(low, job->out + 2 * row * job->outputs, BF16, 0, job->outputs);
    }
}

static void round_plain(const Job *job, int64_t a, int64_t b) { round_rows(job, a, b); }
static void finish_plain(const Job *job, int64_t a, int64_t b) { finish_rows(job, a, b); }

#ifdef X86
#define AVX2 __attribute__((target("avx2,fma")))
#define VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))

AVX2 static void round_avx2(const Job *job, int64_t a, int64_t b) { round_rows(job, a, b); }
AVX2 static void finish_avx2(const Job *job, int64_t a, int64_t b) { finish_rows(job, a, b); }
VNNI static void round_vnni(const Job *job, int64_t a, int64_t b) { round_rows(job, a, b); }
VNNI static void finish_vnni(const Job *job, int64_t a, int64_t b) { finish_rows(job, a, b); }

/* `count` rows, from `row` on, over one block of outputs. */
VNNI ALWAYS void multiply_rows(const Job *job, int64_t row, int count, const int8_t *weights,
                               int64_t first) {
    const uint8_t *bytes[6];
    __m512i sums[6][4];
    UNROLL for (int r = 0; r < 2 * count; r++) {
        bytes[r] = r < count ? job->high + (row + r) * job->pitch
                             : job->low + (row + r - count) * job->pitch;
        UNROLL for (int c = 0; c < 4; c++) sums[r][c] = _mm512_setzero_si512();
    }
    for (int64_t i = 0; i < job->inputs; i += 4, weights += 4 * BLOCK) {
        __m512i column[4];
        UNROLL for (int c = 0; c < 4; c++) column[c] = _mm512_loadu_si512(weights + BLOCK * c);
        UNROLL for (int r = 0; r < 2 * count; r++) {
            int32_t four;
            memcpy(&four, bytes[r] + i, 4);
            __m512i x = _mm512_set1_epi32(four);
            UNROLL for (int c = 0; c < 4; c++) sums[r][c] = _mm512_dpbusd_epi32(sums[r][c], x, column[c]);
        }
    }
    UNROLL for (int r = 0; r < count; r++) {
        int32_t high[BLOCK], low[BLOCK];
        UNROLL for (int c = 0; c < 4; c++) {
            _mm512_storeu_si512(high + 16 * c, sums[r][c]);
            _mm512_storeu_si512(low + 16 * c, sums[count + r][c]);
        }
        finish_sums(job, row + r, first, least(BLOCK, job->outputs - first), high, low, 1);
    }
}

VNNI static void multiply_blocked(const Job *job, int64_t block, int64_t stop) {
    for (; block < stop; block++) {
        const int8_t *weights = job->layer->weights + block * BLOCK * job->pitch;
        int64_t row = 0, first = block * BLOCK;
        for (; row + 3 <= job->rows; row += 3) multiply_rows(job, row, 3, weights, first);
        if (row + 2 == job->rows) multiply_rows(job, row, 2, weights, first);
        if (row + 1 == job->rows) multiply_rows(job, row, 1, weights, first);
    }
}

/* Two inputs' weights of 16 outputs, output by output, in 16 bits. */
AVX2 ALWAYS void pair_up(const int8_t *one, const int8_t *other, __m256i pairs[2]) {
    __m128i a = _mm_loadu_si128((const void *)one), b = _mm_loadu_si128((const void *)other);
    pairs[0] = _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(a, b));
    pairs[1] = _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(a, b));
}

/* Outputs of a tile of BY_INPUT weights. */
static int64_t tile_of(int64_t rows) { return SUMS / (2 * rows) / BLOCK * BLOCK; }

/* Adds AT_ONCE inputs' products with `count` outputs to the sums of every row's halves, each
   `tile` long. */
AVX2 static void add_inputs(const Job *job, int64_t input, int64_t first, int64_t count,
                            int32_t *sums, int64_t tile) {
    const int8_t *weights[AT_ONCE];
    int16_t x[2 * MOST_ROWS][AT_ONCE];
    int64_t halves = 2 * job->rows, ahead = input + 2 * AT_ONCE <= job->inputs;
    for (int i = 0; i < AT_ONCE; i++) /* behind the last input x is 0 */
        weights[i] =
            job->layer->weights + least(input + i, job->inputs - 1) * job->outputs + first;
    for (int64_t r = 0; r < halves; r++) {
        const uint8_t *bytes = r < job->rows ? job->high + r * job->pitch
                                             : job->low + (r - job->rows) * job->pitch;
        for (int i = 0; i < AT_ONCE; i++) x[r][i] = (int16_t)(bytes[input + i] - ZERO);
    }
    int64_t whole = count / 16 * 16;
    for (int64_t o = 0; o < whole; o += 16) {
        __m256i pairs[AT_ONCE / 2][2];
        for (int i = 0; ahead && o % LINE == 0 && i < AT_ONCE; i++)
            __builtin_prefetch(weights[i] + AT_ONCE * job->outputs + o);
        for (int i = 0; i < AT_ONCE / 2; i++)
            pair_up(weights[2 * i] + o, weights[2 * i + 1] + o, pairs[i]);
        for (int64_t r = 0; r < halves; r++) {
            __m256i *at = (void *)(sums + r * tile + o);
            __m256i lower = _mm256_loadu_si256(at), upper = _mm256_loadu_si256(at + 1);
            for (int i = 0; i < AT_ONCE / 2; i++) {
                int32_t two;
                memcpy(&two, x[r] + 2 * i, 4);
                __m256i both = _mm256_set1_epi32(two);
                lower = _mm256_add_epi32(lower, _mm256_madd_epi16(pairs[i][0], both));
                upper = _mm256_add_epi32(upper, _mm256_madd_epi16(pairs[i][1], both));
            }
            _mm256_storeu_si256(at, lower);
            _mm256_storeu_si256(at + 1, upper);
        }
    }
    for (int64_t r = 0; r < halves; r++)
        for (int64_t o = whole; o < count; o++)
            for (int i = 0; i < AT_ONCE; i++) sums[r * tile + o] += x[r][i] * weights[i][o];
}

AVX2 static void multiply_by_input(const Job *job, int64_t at, int64_t stop) {
    int32_t sums[SUMS];
    int64_t tile = tile_of(job->rows);
    for (; at < stop; at++) {
        int64_t first = at * tile, count = least(tile, job->outputs - first);
        memset(sums, 0, sizeof(sums));
        for (int64_t input = 0; input < job->inputs; input += AT_ONCE)
            add_inputs(job, input, first, count, sums, tile);
        for (int64_t row = 0; row < job->rows; row++)
            for (int64_t o = 0; o < count; o += BLOCK)
                finish_sums(job, row, first + o, least(BLOCK, count - o), sums + row * tile + o,
                            sums + (job->rows + row) * tile + o, 0);
    }
}
#endif

/* What may be asked for at most; AVX-512 without VNNI is no more than AVX2 here. */
EXPORT int longctx_level(void) {
#ifdef X86
    if (level_here() == WITH_VNNI && !__builtin_cpu_supports("avx512vnni")) return WITH_AVX2;
#endif
    return level_here();
}

/* How many rows longctx_multiply takes; 0 where it does not read this layout. */
EXPORT int64_t longctx_most_rows(int64_t layout, int level) {
    if (layout == BLOCKED) return level >= WITH_VNNI ? INT64_MAX : 0;
    return level >= WITH_AVX2 ? MOST_ROWS : 0;
}

#ifdef X86
#define BEST(name, level) \
    ((level) >= WITH_VNNI ? name##_vnni : (level) == WITH_AVX2 ? name##_avx2 : name##_plain)
#else
#define BEST(name, level) name##_plain
#endif

/* What a thread does: the next task until there is none. */
static void work(void *argument) {
    Job *job = argument;
    int64_t at;
    while ((at = __atomic_fetch_add(&job->next, job->size, __ATOMIC_RELAXED)) < job->count)
        job->part(job, at, least(at + job->size, job->count));
}

static void run(Job *job, Part part, int64_t count, void *parallel, int threads) {
    int64_t tasks = 4 * (int64_t)threads;
    job->part = part;
    job->count = count;
    job->size = (count + tasks - 1) / tasks;
    job->next = 0;
    share(work, job, count, parallel, threads);
}

/* x: [R, I] to bytes of both halves, [R, I] each, and scales [R]. */
EXPORT void longctx_round(const void *x, int64_t type, int64_t rows, int64_t inputs, void *high,
                          void *low, float *scale_R, int level, void *parallel, int threads) {
    Job job = {.rows = rows, .inputs = inputs, .type = type, .x = x, .high = high, .low = low,
               .pitch = inputs, .scale_R = scale_R};
    run(&job, BEST(round, level), rows, parallel, threads);
}

/* Products of both halves by the outputs' scales, [R, O] each, to what they make together: in place
   of the second, and in bfloat16 to out where there is one. */
EXPORT void longctx_finish(const float *high_RO, float *low_RO, const float *scale_R,
                           const float *bias_O, void *out, int64_t rows, int64_t outputs, int level,
                           void *parallel, int threads) {
    Job job = {.rows = rows, .outputs = outputs, .out = out, .scale_R = (float *)scale_R,
               .high_RO = high_RO, .low_RO = low_RO, .bias_O = bias_O};
    run(&job, BEST(finish, level), rows, parallel, threads);
}

/* x [R, I] to out [R, O], R at most longctx_most_rows(). Not 0: there is no memory. */
EXPORT int longctx_multiply(const void *layer_at, const void *x, void *out, int64_t type,
                            int64_t rows, int level, void *parallel, int threads) {
    const Layer *layer = layer_at;
    int64_t pitch = (layer->inputs + BLOCK - 1) / BLOCK * BLOCK;
    uint8_t *bytes = malloc((size_t)(rows * (2 * pitch + (int64_t)sizeof(float))));
    if (!bytes) return 1;
    Job job = {.layer = layer, .rows = rows, .inputs = layer->inputs, .outputs = layer->outputs,
               .type = type, .x = x, .out = out, .high = bytes, .low = bytes + rows * pitch,
               .pitch = pitch, .scale_R = (float *)(bytes + 2 * rows * pitch),
               .bias_O = layer->bias_O};
    BEST(round, level)(&job, 0, rows);
#ifdef X86
    int64_t step = layer->layout == BLOCKED ? BLOCK : tile_of(rows);
    run(&job, layer->layout == BLOCKED ? multiply_blocked : multiply_by_input,
        (layer->outputs + step - 1) / step, parallel, threads);
#endif
    free(bytes);
    return 0;
}
