/* Attention of a block of queries on the CPU: what a prompt's chunk needs, in one call.

   The query heads of a key head are one run of rows, query by query. A task is a block of them: its
   queries are packed once, then keys go by in blocks of KEYS from key 0 on, packed by columns, and
   one online softmax (arXiv 1805.02867) goes over the blocks. Logits and sums are two products of
   the same shape, ROWS rows by WIDE vectors, whose results stay in registers. Keys behind the last
   one that a tile of rows sees are not computed. bfloat16 and rows of int8 (int8_keys.py) are
   widened as they are packed: all arithmetic is float32.

   What a row's numbers are depends on its query and the keys that it sees, to the last bit: blocks
   of keys start at multiples of KEYS, and no sum goes across rows.

   What is computed lies in prefill_level.h, here is what is handed in. */

#include "common.h"

#define KEYS 128 /* of a step of the online softmax */
#define ROWS 6   /* of a product in registers */
#define SLOTS 16 /* of a tile's numbers by row: ROWS, and vectors are whole */
#define LN2 0.6931471805599453

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

/* How many keys a row sees. */
static int64_t seen(const Shape *shape, int64_t row) {
    if (!shape->causal) return shape->keys;
    return shape->keys - shape->queries + row / (shape->heads / shape->kv_heads) + 1;
}

#define BODY "prefill_level.h"
#include "levels.h"

/* parallel: GOMP_parallel or null. Returns 0, or 1 where no thread got memory. */
EXPORT int longctx_prefill(const Shape *shape, const void *query, const void *key, const void *value,
                           void *out, float *lse, double scale, int level, void *parallel,
                           int threads) {
    int64_t rows = shape->queries * (shape->heads / shape->kv_heads);
    int64_t blocks = (rows + shape->rows - 1) / shape->rows;
    int64_t tasks = shape->batch * shape->kv_heads * blocks;
    Job job = {shape, query, key, value, out, lse, (float)(scale * LOG2E), blocks, tasks, 0};
    share(AT_LEVEL(work, level), &job, tasks, parallel, threads);
    return job.next < tasks;
}
