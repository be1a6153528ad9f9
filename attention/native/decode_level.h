/* decode.c in one instruction set: logits, weights, sums, and what a thread does. levels.h includes
   it. */

/* Queries of a key head that are taken at once, at most: four keys' sums of each are registers. */
#if LANES == 16
#define HEADS 7
#else
#define HEADS 2
#endif

/* Fewer numbers than a vector has, and zeros. */
TARGET static __attribute__((noinline)) void NAME(some)(const char *from, int64_t at, int64_t count,
                                                        int type, float *out) {
    for (int64_t lane = 0; lane < LANES; lane++)
        out[lane] = lane < count ? number(from, at + lane, type) : 0;
}

/* A vector of `dim` numbers from `at` on. */
TARGET ALWAYS Floats NAME(numbers)(const char *from, int64_t at, int64_t dim, int type) {
    if (__builtin_expect(at + LANES <= dim, 1)) return NAME(widened)(from, at, type);
    float out[LANES];
    NAME(some)(from, at, dim - at, type, out);
    return NAME(floats)(out);
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
            NAME(store)(sums + h * space + d + x * LANES, sum[h][x]);
}

/* How many queries of a group go together: as few times as can be, alike. */
TARGET ALWAYS int64_t NAME(together)(int64_t group) {
    int64_t parts = (group + HEADS - 1) / HEADS;
    return (group + parts - 1) / parts;
}

/* A compiler keeps the sums in registers where it knows how many there are. */
#if HEADS == 7
#define BY_HEADS(call, heads) \
    switch (heads) { \
    case 1: call(1); break; \
    case 2: call(2); break; \
    case 3: call(3); break; \
    case 4: call(4); break; \
    case 5: call(5); break; \
    case 6: call(6); break; \
    default: call(7); \
    }
#else
#define BY_HEADS(call, heads) \
    if ((heads) == 1) { call(1); } else { call(2); }
#endif
#define BY_TYPE(call, heads) \
    if (type == F32) { \
        BY_HEADS(call##_F32, heads) \
    } else if (type == BF16) { \
        BY_HEADS(call##_BF16, heads) \
    } else { \
        BY_HEADS(call##_I8, heads) \
    }

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
    int64_t space = padded(dim), at_once = NAME(together)(group);
    for (int64_t j = 0; j < count; j += 4) {
        const char *key[4], *next[4];
        for (int i = 0; i < 4; i++) {
            int64_t at = least(j + i, count - 1);
            key[i] = keys + at * pitch;
            next[i] = ahead + at * ahead_pitch;
        }
        for (int64_t h = 0; h < group; h += at_once) {
            int64_t now = least(at_once, group - h);
            BY_TYPE(SCORE, now)
        }
        if (type == I8) {
            Four scales;
            for (int i = 0; i < 4; i++) scales[i] = scale_behind(key[i] + dim);
            for (int64_t h = 0; h < group; h++) *(FourAt *)(into + h * PITCH + j) *= scales;
        }
    }
}

#define ADD(type, heads, wide) \
    NAME(add_heads)(values, pitch, count, type, ahead, ahead ? h / at_once : count, every, \
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
    int64_t space = padded(dim), at_once = NAME(together)(group), d = 0;
    int64_t every = (group + at_once - 1) / at_once;
    if (type == I8) { /* the weights are read here for the last time */
        float scales[TILE];
        for (int64_t j = 0; j < count; j++) scales[j] = scale_behind(values + j * pitch + dim);
        for (int64_t h = 0; h < group; h++)
            for (int64_t j = 0; j < count; j++) weights[h * PITCH + j] *= scales[j];
    }
    for (; d + 4 * LANES <= dim; d += 4 * LANES)
        for (int64_t h = 0; h < group; h += at_once) {
            int64_t now = least(at_once, group - h);
            BY_TYPE(ADD, now)
        }
    for (; d < dim; d += LANES)
        for (int64_t h = 0; h < group; h += at_once) {
            int64_t now = least(at_once, group - h);
            BY_TYPE(ADD_ONE, now)
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
        NAME(store)(weights + j, w);
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
    int64_t start = split * SPLIT, stop = least(start + SPLIT, row->keys);
    float scale = job->scale * (float)LOG2E;
    scale *= ((const float *)step->scales)[row - (const Row *)step->row_table];
    int64_t from = first_segment(segments, row->count, start), turned = -2;
    for (int64_t at = 0; at < group * pitch; at++) space.sum[at] = 0;
    for (int64_t head = 0; head < group; head++) {
        space.most[head] = -__builtin_inff();
        space.total[head] = 0;
    }
    for (int64_t tile = start; tile < stop; tile += TILE) {
        int64_t end = least(tile + TILE, stop);
        while (from < row->count && segments[from].stop <= tile) from++;
        for (int pass = 0; pass < 2; pass++) { /* logits, then values */
            for (int64_t s = from; s < row->count && segments[s].start < end; s++) {
                const Segment *segment = segments + s;
                const Stack *stack = (const Stack *)step->stacks + segment->stack;
                int64_t low = segment->start > tile ? segment->start : tile;
                int64_t high = least(segment->stop, end);
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
    while ((task = taken(&job->next)) < step->tasks) {
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

#undef HEADS
#undef BY_HEADS
#undef BY_TYPE
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
