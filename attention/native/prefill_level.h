/* prefill.c in one instruction set: packing, the two products, weights, and what a thread does.
   levels.h includes it. */

#if LANES == 16
#define WIDE 4
#else
#define WIDE 2
#endif
#define PANEL (WIDE * LANES) /* keys of a product */

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

/* Of a row of int8 the numbers that it stands for. */
TARGET ALWAYS Floats NAME(scaled)(const char *from, int64_t at, int type, float scale) {
    Floats x = NAME(widened)(from, at, type);
    return type == I8 ? x * scale : x;
}

/* `count` keys by columns; whole vectors of them, zeros behind the last one. */
TARGET ALWAYS void NAME(pack_keys)(const char *keys, int64_t slot, int64_t count, int64_t dim,
                                   int type, float *into) {
    for (int64_t j = 0; j < count; j += LANES) {
        float *panel = into + j / PANEL * PANEL * dim + j % PANEL;
        int64_t d = 0, some = least(LANES, count - j);
        float scales[LANES];
        for (int i = 0; i < some; i++)
            scales[i] = type == I8 ? scale_behind(keys + (j + i) * slot + dim) : 1;
        for (; d + LANES <= dim; d += LANES) {
            Floats x[LANES];
            for (int i = 0; i < LANES; i++)
                x[i] = i < some ? NAME(scaled)(keys, (j + i) * slot + d, type, scales[i])
                                : (Floats){0};
            NAME(turn)(x);
            for (int i = 0; i < LANES; i++) NAME(store)(panel + (d + i) * PANEL, x[i]);
        }
        for (; d < dim; d++)
            for (int i = 0; i < LANES; i++)
                panel[d * PANEL + i] =
                    i < some ? number(keys, (j + i) * slot + d, type) * scales[i] : 0;
    }
}

TARGET ALWAYS void NAME(pack_values)(const char *values, int64_t slot, int64_t count, int64_t dim,
                                     int type, float *into) {
    int64_t space = padded(dim);
    for (int64_t j = 0; j < count; j++, into += space) {
        int64_t d = 0;
        float scale = type == I8 ? scale_behind(values + j * slot + dim) : 1;
        for (; d + LANES <= dim; d += LANES)
            NAME(store)(into + d, NAME(scaled)(values, j * slot + d, type, scale));
        for (; d < space; d++) into[d] = d < dim ? number(values, j * slot + d, type) * scale : 0;
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
                row < count ? number(query, at + d, shape->query_type) * job->scale : 0;
    }
}

#define BY_TYPE(type, call) \
    switch (type) { \
    case F32: call(F32); break; \
    case BF16: call(BF16); break; \
    default: call(I8); \
    }
#define PACK_KEYS(type) NAME(pack_keys)(from, shape->key_slot, count, dim, type, space.keys)
#define PACK_VALUES(type) NAME(pack_values)(from, shape->value_slot, count, dim, type, space.values)
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
        BY_TYPE(shape->key_type, PACK_KEYS)
        from = value + start * shape->value_slot * type_bytes[shape->value_type];
        const float *values = in_place ? (const float *)from : space.values;
        int64_t pitch = in_place ? shape->value_slot : wide_dim;
        if (!in_place) BY_TYPE(shape->value_type, PACK_VALUES)
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
        float factor = total == 0 ? 0 : (float)(1 / total);
        int64_t to = ((batch * shape->queries + at) * shape->heads + head) * dim;
        for (int64_t d = 0; d < dim; d++)
            put(job->out, shape->out_type, to + d, space.sums[row * wide_dim + d] * factor);
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
    while ((task = taken(&job->next)) < job->tasks) {
        int64_t head = task / job->blocks, first = job->blocks - 1 - task % job->blocks;
        first *= rows;
        NAME(attend)(job, head / shape->kv_heads, head % shape->kv_heads, first,
                     least(rows, all - first), space);
    }
    free(memory);
}

#undef WIDE
#undef PANEL
#undef BY_WIDTH
#undef SCORE
#undef ADD
#undef BY_TYPE
#undef PACK_KEYS
#undef PACK_VALUES
