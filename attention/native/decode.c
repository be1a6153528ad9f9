/* Decode attention on the CPU: all rows of one query of a step over all their keys, in one call.

   A row's keys lie in segments, read where they are, in float32 or bfloat16, or as int8 with a
   bfloat16 scale behind each (int8_keys.py), and widened in registers. Each segment has its own
   rotation of the query (Dual Chunk Attention, arXiv 2402.17463); one online softmax (arXiv
   1805.02867) goes over all of them, so nothing is merged by part. The query heads of a key head go
   together: a key is read once from memory.

   What a row's numbers are depends on that row alone, to the last bit: keys are taken in tiles and
   splits that start at multiples of TILE and SPLIT of the row's positions, wherever its segments end
   and however many threads and other rows there are. Splits are the tasks of the threads; whoever
   ends a row's last one combines them in order (flash-decoding). Rows that read the same keys have
   their tasks one behind the other, so that the keys come from the cache but for the first.

   What is computed lies in decode_level.h, here is what is handed in. */

#include "common.h"

#define TILE 64    /* keys of a step of the online softmax */
#define PITCH 68   /* of a head's weights: scores are written four at a time */
#define SPLIT 512  /* keys of a task; a multiple of TILE */

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

#define BODY "decode_level.h"
#include "levels.h"

EXPORT int longctx_split(void) { return SPLIT; }

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
    share(AT_LEVEL(work, level), &job, step->tasks, parallel, threads);
    return job.next < step->tasks;
}
