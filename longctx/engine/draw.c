/* The next tokens of a step on the CPU: one call for all rows, one pass over each row's logits.

   What a row draws is what candidates.py, penalties.py and noise.py say, in the same order of
   operations; they draw where this library is not, and for the rows that it leaves to them. A row's
   token depends on that row alone.

   The pass keeps the largest of every comb: DEEP numbers that lie ABREAST apart, so that no vector
   is ever reduced. A bound that enough groups of combs reach gives the candidates, some dozens of
   150,000, which are penalised, sorted, filtered and drawn from. While what is kept of them is not
   certainly what filters over the whole row would keep, the bound is lowered.

   Products and sums are not contracted (setup.py says so to the compiler), as numpy has them.

   levels.h includes the file once more for each instruction set. */

#ifndef LANES

#include <float.h>

#include "common.h" /* of attention/native */

#define ABREAST 16 /* combs of a chunk */
#define DEEP 32
#define CHUNK (ABREAST * DEEP)
#define MOST 4096   /* candidates of a row; a row that has more is left to the caller */
#define WIDEST 1024 /* how many are asked for at most */
#define PER_COUNT 3 /* groups of combs for each that is asked for: at least, and below twice as many */
#define GROUPS (2 * PER_COUNT * WIDEST + ABREAST)

/* Stand for a token where there is none, as in sampling.py. */
enum { NOT_FINITE = -1, LEFT = -2 };

/* As drawing.py packs it. */
typedef struct {
    const float *logits;
    const uint8_t *seen; /* of each token: whether the repetition penalty counts it; or null */
    const float *cost;   /* of each token: what is subtracted; or null */
    uint64_t start;      /* what the random numbers follow from, with the position */
    int64_t position;
    int64_t count; /* candidates to ask for at first; 0: the largest logit is the answer */
    double repetition; /* less 1, not negative */
    double temperature, top_k, top_p, min_p; /* top_k, top_p: infinite where all stay */
} Row;

typedef struct {
    const Row *rows;
    int64_t count, vocabulary;
    int64_t *tokens;
    int64_t next;
} Job;

/* A thread's own numbers for one row. */
typedef struct {
    uint64_t keys[MOST];
    double weights[MOST];
    float groups[GROUPS];
    float combs[];
} Space;

/* Of a float32 an integer that grows with it; 0 and -0 are equal. */
static int32_t rising(float number) {
    int32_t bits;
    number += 0.0f;
    memcpy(&bits, &number, 4);
    return bits ^ ((bits >> 31) & INT32_MAX);
}

static float risen(int32_t key) {
    int32_t bits = key ^ ((key >> 31) & INT32_MAX);
    float number;
    memcpy(&number, &bits, 4);
    return number;
}

/* What sorts a candidate: the larger value first, of equals the lower id. */
static uint64_t key_of(float value, int64_t id) {
    return (uint64_t)(uint32_t)~(rising(value) ^ INT32_MIN) << 32 | (uint64_t)id;
}

static float value_of(uint64_t key) { return risen((int32_t)~(key >> 32) ^ INT32_MIN); }
static int64_t id_of(uint64_t key) { return (int64_t)(key & UINT32_MAX); }

/* From the least to the largest (Shell 1959, with the gaps of Ciura 2001). */
static void sort(uint64_t *keys, int64_t count) {
    static const int64_t gaps[] = {1750, 701, 301, 132, 57, 23, 10, 4, 1};
    for (size_t each = 0; each < sizeof gaps / sizeof *gaps; each++)
        for (int64_t gap = gaps[each], from = gap; from < count; from++) {
            uint64_t key = keys[from];
            int64_t to = from;
            for (; to >= gap && keys[to - gap] > key; to -= gap) keys[to] = keys[to - gap];
            keys[to] = key;
        }
}

/* A number that `count` of these reach, and few more; -inf where fewer are more than that. */
static float bound_of(const float *numbers, int64_t size, int64_t count) {
    int64_t low = rising(-FLT_MAX), high = rising(FLT_MAX), reached = 0;
    for (int64_t each = 0; each < size; each++) reached += numbers[each] >= -FLT_MAX;
    if (reached < count) return -INFINITY;
    reached = INT64_MAX;
    while (high - low > 1 && reached > count + count / 4) {
        int64_t middle = low + (high - low) / 2;
        float least = risen((int32_t)middle);
        int32_t found = 0;
        for (int64_t each = 0; each < size; each++) found += numbers[each] >= least;
        if (found >= count)
            low = middle, reached = found;
        else
            high = middle;
    }
    return risen((int32_t)low);
}

/* noise.py: between 0 and 1, by row, position and token. */
#define GOLDEN 0x9E3779B97F4A7C15u
static uint64_t mixed(uint64_t word) {
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9u;
    word = (word ^ word >> 27) * 0x94D049BB133111EBu;
    return word ^ word >> 31;
}

static double uniform(uint64_t key, int64_t id) {
    uint64_t word = mixed(((uint64_t)id + 1) * GOLDEN + key);
    return ((double)(int64_t)(word >> 12) + 0.5) * 0x1p-52;
}

/* The candidates' values less their penalties; the tables were asked for when they were found. */
static void penalise(const Row *row, uint64_t *keys, int64_t count) {
    float factor = (float)row->repetition + 1.0f;
    if (!row->seen && !row->cost) return;
    for (int64_t each = 0; each < count; each++) {
        int64_t id = id_of(keys[each]);
        float value = value_of(keys[each]);
        if (row->seen && row->seen[id]) {
            float less = value / factor, more = value * factor;
            value = less < more ? less : more;
        }
        keys[each] = key_of(row->cost ? value - row->cost[id] : value, id);
    }
}

/* The token among sorted candidates; LEFT where others may have to be kept too. */
static int64_t drawn(const Row *row, Space *space, int64_t count, float bound) {
    if (!count) return 0; /* everything is forbidden: as candidates.py, which looks at nobody */
    const uint64_t *keys = space->keys;
    double *weights = space->weights, whole = 0, before = 0;
    double first = value_of(keys[0]), temperature = row->temperature;
    int64_t limit = row->top_k < (double)count ? (int64_t)row->top_k : count, kept = 0;
    for (int64_t each = 0; each < limit; each++) {
        weights[each] = exp(((double)value_of(keys[each]) - first) / temperature);
        if (!(weights[each] > 0)) limit = each;
        else whole += weights[each];
    }
    for (; kept < limit && weights[kept] >= row->min_p; before += weights[kept++])
        if (kept && !(before < row->top_p * whole)) break;
    /* Of what top_k leaves top_p takes its share: all of it must be known. */
    int64_t certain = isinf(row->top_k) ? kept : limit;
    if (certain && !(value_of(keys[certain - 1]) > bound)) return LEFT;
    if (isinf(row->top_k) && exp(((double)bound - first) / temperature) >= row->min_p) return LEFT;
    uint64_t key = mixed(row->start + ((uint64_t)row->position + 1) * GOLDEN);
    int64_t best = 0;
    double most = -1;
    for (int64_t each = 0; each < kept; each++) {
        double score = weights[each] / -log(uniform(key, id_of(keys[each])));
        if (score > most) most = score, best = each;
    }
    return id_of(keys[best]);
}

#define BODY "draw.c"
#include "levels.h"

EXPORT int longctx_widest(void) { return WIDEST; }

/* tokens: of each row its token, NOT_FINITE where its logits are not or all are -inf, LEFT where the
   caller must draw. parallel: GOMP_parallel or null. */
EXPORT void longctx_draw(const void *rows, int64_t count, int64_t vocabulary, int64_t *tokens,
                         int level, void *parallel, int threads) {
    Job job = {rows, count, vocabulary, tokens, 0};
    for (int64_t row = 0; row < count; row++) tokens[row] = LEFT; /* where no thread gets memory */
    share(AT_LEVEL(work, level), &job, count, parallel, threads);
}

#else /* one instruction set */

/* Lane by lane the largest of `count` vectors, ABREAST apart; `bad` where one is no number. */
TARGET ALWAYS Floats NAME(tallest)(const float *from, int64_t count, Ints *bad) {
    Floats best = (Floats){0} - INFINITY, other = best;
    int64_t each = 0;
    for (; each + 2 <= count; each += 2, from += 2 * ABREAST) {
        Floats x = *(const FloatsAt *)from, y = *(const FloatsAt *)(from + ABREAST);
        *bad |= (Ints)(x != x) | (Ints)(y != y);
        best = NAME(larger)(x, best);
        other = NAME(larger)(y, other);
    }
    if (each < count) best = NAME(larger)(*(const FloatsAt *)from, best);
    return NAME(larger)(best, other);
}

/* The largest of every comb, chunk by chunk; whether all are numbers. */
TARGET static int NAME(comb)(const float *logits, int64_t vocabulary, float *combs) {
    Ints bad = {0};
    int64_t at = 0;
    for (; at + CHUNK <= vocabulary; at += CHUNK, combs += ABREAST)
        for (int lane = 0; lane < ABREAST; lane += LANES)
            *(FloatsAt *)(combs + lane) = NAME(tallest)(logits + at + lane, DEEP, &bad);
    int broken = 0;
    if (at < vocabulary) {
        for (int lane = 0; lane < ABREAST; lane++) combs[lane] = -INFINITY;
        for (int64_t id = at; id < vocabulary; id++) {
            float *best = combs + (id - at) % ABREAST;
            *best = logits[id] > *best ? logits[id] : *best;
            broken |= logits[id] != logits[id];
        }
    }
    for (int lane = 0; lane < LANES; lane++) broken |= bad[lane];
    return !broken;
}

/* Lane by lane the largest of `size` chunks' combs at a time; how many these are. */
TARGET static int64_t NAME(group)(const float *combs, int64_t chunks, int64_t size, float *groups) {
    Ints unused = {0};
    int64_t found = 0;
    for (int64_t first = 0; first < chunks; first += size, found += ABREAST) {
        int64_t count = least(size, chunks - first);
        for (int lane = 0; lane < ABREAST; lane += LANES)
            *(FloatsAt *)(groups + found + lane) =
                NAME(tallest)(combs + first * ABREAST + lane, count, &unused);
    }
    return found;
}

/* Bit by bit, which of ABREAST numbers are at least `least`. */
TARGET ALWAYS uint32_t NAME(reaching)(const float *from, float least) {
#if LANES == 16
    return _mm512_cmp_ps_mask(_mm512_loadu_ps(from), _mm512_set1_ps(least), _CMP_GE_OQ);
#elif LANES == 8
    __m256 bound = _mm256_set1_ps(least);
    uint32_t low = (uint32_t)_mm256_movemask_ps(
        _mm256_cmp_ps(_mm256_loadu_ps(from), bound, _CMP_GE_OQ));
    return low | (uint32_t)_mm256_movemask_ps(
                     _mm256_cmp_ps(_mm256_loadu_ps(from + 8), bound, _CMP_GE_OQ)) << 8;
#else
    uint32_t bits = 0;
    for (int lane = 0; lane < ABREAST; lane++) bits |= (uint32_t)(from[lane] >= least) << lane;
    return bits;
#endif
}

/* Into `keys` what reaches the bound; how many these are, or -1 for more than MOST. With no room for
   keys: the lowest id of them. */
TARGET static int64_t NAME(collect)(const Row *row, int64_t vocabulary, const float *combs,
                                    float bound, uint64_t *keys) {
    int64_t count = 0, lowest = vocabulary;
    for (int64_t first = 0; first < vocabulary; first += CHUNK, combs += ABREAST) {
        int64_t stop = least(first + CHUNK, vocabulary);
        for (uint32_t lanes = NAME(reaching)(combs, bound); lanes; lanes &= lanes - 1)
            for (int64_t id = first + __builtin_ctz(lanes); id < stop; id += ABREAST) {
                if (!(row->logits[id] >= bound)) continue;
                if (!keys) {
                    lowest = least(id, lowest);
                    break;
                }
                if (count == MOST) return -1;
                keys[count++] = key_of(row->logits[id], id);
                if (row->seen) __builtin_prefetch(row->seen + id);
                if (row->cost) __builtin_prefetch(row->cost + id);
            }
    }
    return keys ? count : lowest;
}

TARGET static int64_t NAME(draw)(const Row *row, int64_t vocabulary, Space *space) {
    int64_t chunks = (vocabulary + CHUNK - 1) / CHUNK;
    if (!NAME(comb)(row->logits, vocabulary, space->combs)) return NOT_FINITE;
    NAME(group)(space->combs, chunks, chunks, space->groups);
    float largest = space->groups[0];
    for (int lane = 1; lane < ABREAST; lane++)
        largest = space->groups[lane] > largest ? space->groups[lane] : largest;
    if (isinf(largest)) return NOT_FINITE;
    if (!row->count) return NAME(collect)(row, vocabulary, space->combs, largest, 0);
    for (int64_t count = row->count; count <= WIDEST; count *= 4) {
        int64_t size = chunks * ABREAST / (PER_COUNT * count);
        size = size < 1 ? 1 : size;
        int64_t groups = NAME(group)(space->combs, chunks, size, space->groups);
        float bound = bound_of(space->groups, groups, count);
        float least = isinf(bound) ? -FLT_MAX : bound; /* -inf is no candidate */
        int64_t found = NAME(collect)(row, vocabulary, space->combs, least, space->keys);
        if (found < 0) break;
        penalise(row, space->keys, found);
        sort(space->keys, found);
        int64_t token = drawn(row, space, found, bound);
        if (token != LEFT) return token;
    }
    return LEFT;
}

/* What a thread does: the next row until there is none. */
TARGET static void NAME(work)(void *argument) {
    Job *job = argument;
    size_t chunks = (size_t)(job->vocabulary + CHUNK - 1) / CHUNK;
    Space *space = malloc(sizeof(Space) + chunks * ABREAST * sizeof(float));
    if (!space) return; /* the others do what is left */
    int64_t row;
    while ((row = taken(&job->next)) < job->count)
        job->tokens[row] = NAME(draw)(job->rows + row, job->vocabulary, space);
    free(space);
}

#endif
