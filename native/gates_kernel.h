/* The inner loops, included once for each element type and instruction set.
 *
 * The includer defines  T  (float or double),  NAME(x)  (suffixed names),  TARGET  (function
 * attribute),  VECTOR  (bytes of a vector),  STRIP  (bytes of a strip of columns)
 * and  TABLES  (tables visited at a time: 8 or 16, so that TABLES * 16 * STRIP bytes stay in L1).
 */

typedef T NAME(vec) __attribute__((vector_size(VECTOR), may_alias));
#define V NAME(vec)
#define LANES ((int64_t)(STRIP / sizeof(T)))
#define PARTS (STRIP / VECTOR)
#define HALVES (16 / TABLES)          /* visits to one word of 64 gates */
#define ENTRY ((int64_t)(16 * LANES)) /* elements of one table */

/* Four rows, consecutive in `rows`, to the sums of their 16 subsets; the first row is bit 8. */
static TARGET inline void NAME(sums)(const T *rows, T *table) {
    const V *in = (const V *)rows;
    V *out = (V *)table;
    for (int v = 0; v < PARTS; v++) {
        V d = in[v], c = in[PARTS + v], b = in[2 * PARTS + v], a = in[3 * PARTS + v];
        V ba = b + a, ca = c + a, cb = c + b, cba = c + ba;
        out[0 * PARTS + v] = (V){0};
        out[1 * PARTS + v] = a;
        out[2 * PARTS + v] = b;
        out[3 * PARTS + v] = ba;
        out[4 * PARTS + v] = c;
        out[5 * PARTS + v] = ca;
        out[6 * PARTS + v] = cb;
        out[7 * PARTS + v] = cba;
        out[8 * PARTS + v] = d;
        out[9 * PARTS + v] = d + a;
        out[10 * PARTS + v] = d + b;
        out[11 * PARTS + v] = d + ba;
        out[12 * PARTS + v] = d + c;
        out[13 * PARTS + v] = d + ca;
        out[14 * PARTS + v] = d + cb;
        out[15 * PARTS + v] = d + cba;
    }
}

/* `count` tables of rows first, first + 1, ... of the m × c matrix `data`, each row `times` times
 * multiplied by its entry of `scale`; columns s to s + width; what lies outside is zero. */
static TARGET void NAME(build)(const T *data, const T *scale, int times, int64_t m, int64_t c,
                               int64_t s, int64_t width, int64_t first, int64_t count, T *tables) {
    T rows[4 * LANES] __attribute__((aligned(64)));
    for (int64_t t = 0; t < count; t++, tables += ENTRY) {
        int64_t row = first + 4 * t;
        if (row >= m || width < LANES) memset(rows, 0, sizeof rows);
        if (row >= m) {
            memset(tables, 0, 16 * STRIP);
            continue;
        }
        for (int64_t k = 0; k < 4; k++) {
            T *to = rows + k * LANES;
            if (row + k >= m) {
                memset(to, 0, STRIP);
                continue;
            }
            const T *from = data + (row + k) * c + s;
            if (width == LANES)
                memcpy(to, from, STRIP);
            else
                memcpy(to, from, (size_t)width * sizeof(T));
            for (int i = 0; i < times; i++)
                for (int64_t j = 0; j < LANES; j++) to[j] *= scale[row + k];
        }
        NAME(sums)(rows, tables);
    }
}

/* Add to each of `count` accumulators one entry of each of TABLES tables, as its word says.
 * Rows of `ahead` are fetched on the way: one strip a row, each on a page of its own. */
static TARGET inline __attribute__((always_inline)) void NAME(lookup)(
    const uint64_t *words, int half, int64_t count, const T *tables, T *sums, const char *ahead,
    int64_t stride) {
    for (int64_t i = 0; i < count; i++) {
        uint64_t word = words[i];
        if (HALVES == 2 && half) word >>= 32;
        if (ahead)
            for (int b = 0; b < STRIP; b += 64) __builtin_prefetch(ahead + i * stride + b);
        V *sum = (V *)(sums + i * LANES);
        V total[PARTS];
        for (int v = 0; v < PARTS; v++) total[v] = sum[v];
#pragma GCC unroll 16
        for (int t = 0; t < TABLES; t++) {
            /* the high half of each byte is the earlier table */
            int shift = 8 * (t / 2) + (t % 2 ? 0 : 4);
            uint64_t at = (word >> shift & 15) * STRIP;
            const V *entry = (const V *)((const char *)(tables + t * ENTRY) + at);
#pragma GCC unroll 8
            for (int v = 0; v < PARTS; v++) total[v] += entry[v];
        }
#pragma GCC unroll 8
        for (int v = 0; v < PARTS; v++) sum[v] = total[v];
    }
}

/* The scalar product of an accumulator with a strip of X. */
static TARGET inline T NAME(strip_dot)(const T *sums, const T *x, int64_t width) {
    T copy[LANES] __attribute__((aligned(64)));
    if (width < LANES) memset(copy, 0, sizeof copy);
    memcpy(copy, x, width < LANES ? (size_t)width * sizeof(T) : STRIP);
    V total = ((const V *)sums)[0] * ((const V *)copy)[0];
    for (int v = 1; v < PARTS; v++) total += ((const V *)sums)[v] * ((const V *)copy)[v];
    T lanes[VECTOR / sizeof(T)] __attribute__((aligned(64)));
    *(V *)lanes = total;
    for (unsigned w = VECTOR / sizeof(T) / 2; w; w /= 2)
        for (unsigned j = 0; j < w; j++) lanes[j] += lanes[j + w];
    return lanes[0];
}

/* Θ M, or the scalar products of its rows with those of X: one strip of columns for one range of
 * rows.  Tables of a panel of gates are built once (L2); rows pass in blocks whose accumulators
 * stay in L1. */
static TARGET void NAME(forward)(const job *j, int64_t task, void *scratch) {
    int64_t s = task % j->strips * LANES, rest = task / j->strips;
    int64_t range = rest % j->ranges, column = rest / j->ranges;
    int64_t start = range_edge(j, range), stop = range_edge(j, range + 1);
    int64_t width = j->c - s < LANES ? j->c - s : LANES;
    const T *M = (const T *)j->factor + column * j->n * j->c;
    T *tables = scratch, *sums = tables + (PANEL / 4) * ENTRY;
    for (int64_t panel = 0; panel < j->words; panel += PANEL / 64) {
        int64_t count = j->words - panel < PANEL / 64 ? j->words - panel : PANEL / 64;
        int last = panel + count == j->words;
        NAME(build)(M, j->scale, j->scale ? 2 : 0, j->n, j->c, s, width, panel * 64, count * 16,
                    tables);
        for (int64_t r = start; r < stop; r += ROWS) {
            int64_t rows = stop - r < ROWS ? stop - r : ROWS;
            T *sum = j->words > PANEL / 64 ? sums + (r - start) * LANES : sums;
            if (panel == 0) memset(sum, 0, (size_t)rows * STRIP);
            for (int64_t g = 0; g < count; g++)
                for (int half = 0; half < HALVES; half++) {
                    if ((panel + g) * 64 + half * 32 >= j->n) continue;
                    const uint64_t *words = j->gates + (panel + g) * j->N + r;
                    const T *at = tables + (g * 16 + half * TABLES) * ENTRY;
                    if (j->X && width == LANES && last && g == count - 1 && half == 0)
                        NAME(lookup)(words, half, rows, at, sum,
                                     (const char *)((const T *)j->X + r * j->c + s),
                                     j->c * (int64_t)sizeof(T));
                    else
                        NAME(lookup)(words, half, rows, at, sum, NULL, 0);
                }
            if (!last) continue;
            if (j->X) {
                T *out = (T *)j->partial + (column * j->strips + task % j->strips) * j->N;
                for (int64_t i = 0; i < rows; i++)
                    out[r + i] = NAME(strip_dot)(sum + i * LANES,
                                                 (const T *)j->X + (r + i) * j->c + s, width);
            } else
                for (int64_t i = 0; i < rows; i++)
                    memcpy((T *)j->out + (column * j->N + r + i) * j->c + s, sum + i * LANES,
                           (size_t)width * sizeof(T));
        }
    }
}

/* Θᵀ diag(r) X: one strip of columns for one panel of gates and one range of words of samples.
 * Sums are folded every FOLD words, so that rounding errors grow with N / FOLD, not with N. */
static TARGET void NAME(backward)(const job *j, int64_t task, void *scratch) {
    int64_t s = task % j->strips * LANES, rest = task / j->strips;
    int64_t range = rest % j->ranges, column;
    rest /= j->ranges;
    int64_t first = rest % j->panels * BACK_PANEL;
    column = rest / j->panels;
    int64_t gates = j->n - first < BACK_PANEL ? j->n - first : BACK_PANEL;
    int64_t start = range_edge(j, range), stop = range_edge(j, range + 1);
    int64_t width = j->c - s < LANES ? j->c - s : LANES;
    const T *scale = j->factor ? (const T *)j->factor + column * j->N : NULL;
    T *tables = scratch, *sums = tables + TABLES * ENTRY, *totals = sums + BACK_PANEL * LANES;
    memset(sums, 0, (size_t)gates * STRIP);
    int64_t folded = 0;
    for (int64_t g = start; g < stop; g++) {
        for (int half = 0; half < HALVES && g * 64 + half * 32 < j->N; half++) {
            NAME(build)((const T *)j->X, scale, scale ? 1 : 0, j->N, j->c, s, width,
                        g * 64 + half * 32, TABLES, tables);
            NAME(lookup)(j->gates + g * j->n + first, half, gates, tables, sums, NULL, 0);
        }
        if ((g + 1 - start) % FOLD == 0 || g + 1 == stop) {
            if (!folded && g + 1 == stop) break;
            if (!folded++)
                memcpy(totals, sums, (size_t)gates * STRIP);
            else
                for (int64_t i = 0; i < gates * LANES; i++) totals[i] += sums[i];
            memset(sums, 0, (size_t)gates * STRIP);
        }
    }
    const T *result = folded ? totals : sums;
    T *out = (T *)(j->partial ? j->partial : j->out) +
             ((j->partial ? range * j->columns : 0) + column) * j->n * j->c;
    for (int64_t i = 0; i < gates; i++)
        memcpy(out + (first + i) * j->c + s, result + i * LANES, (size_t)width * sizeof(T));
}

/* The sum of the partial results, in an order that depends on no thread. */
static TARGET void NAME(reduce)(const job *j, int64_t task, void *scratch) {
    (void)scratch;
    int64_t start = task * REDUCE, length = j->reduced - start < REDUCE ? j->reduced - start : REDUCE;
    for (int64_t at = start; at < start + length;) {
        int64_t block = at / j->block, end = (block + 1) * j->block;
        int64_t count = (end < start + length ? end : start + length) - at;
        const T *from = (const T *)j->partial + block * j->hop + at % j->block;
        T *out = (T *)j->out + at;
        for (int64_t i = 0; i < count; i++) out[i] = from[i];
        for (int64_t k = 1; k < j->terms; k++) {
            from += j->block_step;
            for (int64_t i = 0; i < count; i++) out[i] += from[i];
        }
        at += count;
    }
}

static const engine NAME(engine) = {NAME(forward), NAME(backward), NAME(reduce), STRIP, TABLES};

#undef V
#undef LANES
#undef PARTS
#undef HALVES
#undef ENTRY
#undef T
#undef NAME
