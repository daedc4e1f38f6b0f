/* The loops of packed.c, included once for each element type.
 *
 * The includer defines  T  (float or double),  NAME(x)  (suffixed names),  TARGET  (function
 * attribute) and  VECTOR  (bytes of a vector).  Sums of 4 × 3 vectors stay in registers: enough to
 * hide how long an addition takes, and twelve multiplications to seven loads.
 */

typedef T NAME(packed_vec) __attribute__((vector_size(VECTOR)));
typedef T NAME(packed_loose) __attribute__((vector_size(VECTOR), aligned(1), may_alias));
#define V NAME(packed_vec)
#define LOOSE NAME(packed_loose)
#define AT(p) (*(const LOOSE *)(p))
#define LANES ((int64_t)(VECTOR / sizeof(T)))
#define WIDE (4 * LANES) /* columns of a tile that are visited together */
#define WIDTH ((int64_t)(TILE_ROW / sizeof(T)))

/* The product of a vector of a tile, number r of four, with up to three vectors. */
#define MULTIPLY(r, u)                       \
    do {                                     \
        V it = (u);                          \
        a[r] += it * x;                      \
        if (columns > 1) b[r] += it * y;     \
        if (columns > 2) d[r] += it * z;     \
    } while (0)

/* sums[row][vector] += T X, by lanes: `columns` vectors of c, rows of X being `ld` apart. */
static TARGET inline __attribute__((always_inline)) void
NAME(times)(const T *tile, int64_t stride, int64_t width, const T *X, int64_t ld, V *sums,
            int64_t c, int columns) {
    int64_t one = columns > 1 ? ld : 0, two = columns > 2 ? 2 * ld : 0;
    for (int64_t i = 0; i < PACKED_HEIGHT; i += 4) {
        const T *row = tile + i * stride;
        V a[4] = {{0}}, b[4] = {{0}}, d[4] = {{0}};
        for (int64_t j = 0; j < width; j += LANES) {
            V x = AT(X + j), y = AT(X + one + j), z = AT(X + two + j);
            MULTIPLY(0, AT(row + j));
            MULTIPLY(1, AT(row + stride + j));
            MULTIPLY(2, AT(row + 2 * stride + j));
            MULTIPLY(3, AT(row + 3 * stride + j));
        }
        for (int r = 0; r < 4; r++) {
            V *to = sums + (i + r) * c;
            to[0] += a[r];
            if (columns > 1) to[1] += b[r];
            if (columns > 2) to[2] += d[r];
        }
    }
}

/* Y[vector][column] += Tᵀ X */
static TARGET inline __attribute__((always_inline)) void
NAME(back)(const T *tile, int64_t stride, int64_t width, const T *X, T *Y, int64_t ld,
           int columns) {
    int64_t one = columns > 1 ? ld : 0, two = columns > 2 ? 2 * ld : 0;
    for (int64_t j = 0; j < width; j += WIDE) {
        const T *row = tile + j;
        V a[4] = {{0}}, b[4] = {{0}}, d[4] = {{0}};
        for (int64_t i = 0; i < PACKED_HEIGHT; i++, row += stride) {
            T x = X[i], y = X[one + i], z = X[two + i];
            MULTIPLY(0, AT(row));
            MULTIPLY(1, AT(row + LANES));
            MULTIPLY(2, AT(row + 2 * LANES));
            MULTIPLY(3, AT(row + 3 * LANES));
        }
        for (int r = 0; r < 4; r++) {
            T *to = Y + j + r * LANES;
            *(LOOSE *)to += a[r];
            if (columns > 1) *(LOOSE *)(to + one) += b[r];
            if (columns > 2) *(LOOSE *)(to + two) += d[r];
        }
    }
}

/* Both products of a tile at row i and column j, whose first `mine` columns are the diagonal's. */
static TARGET void NAME(both)(const T *tile, int64_t stride, int64_t width, int64_t mine,
                              const T *X, T *Y, int64_t ld, int64_t i, int64_t j, V *sums,
                              int64_t c) {
#define BOTH(columns)                                                                      \
    do {                                                                                   \
        NAME(times)(tile, stride, width, X + k * ld + j, ld, sums + k, c, columns);        \
        NAME(back)(tile + mine, stride, width - mine, X + k * ld + i, Y + k * ld + j + mine, \
                   ld, columns);                                                           \
    } while (0)
    int64_t k = 0;
    for (; k + 3 <= c; k += 3) BOTH(3);
    if (c - k == 2) BOTH(2);
    if (c - k == 1) BOTH(1);
#undef BOTH
}

static TARGET void NAME(product)(int64_t n, int64_t c, int64_t first, int64_t stop,
                                 int64_t shares, const T *data, const T *X, T *Y, void *scratch) {
    int64_t ld = (n + PACKED_HEIGHT - 1) / PACKED_HEIGHT * PACKED_HEIGHT, all = 0, t = 0;
    for (int64_t i = 0; i < n; i += PACKED_HEIGHT) all += (n - i + WIDTH - 1) / WIDTH;
    first = all * first / shares;
    stop = all * stop / shares;
    V *sums = scratch;
    T *laid = (T *)(sums + PACKED_HEIGHT * c);
    const T *strip = data;
    for (int64_t i = 0; i < n && t < stop; i += PACKED_HEIGHT) {
        int64_t rows = n - i < PACKED_HEIGHT ? n - i : PACKED_HEIGHT, stride = n - i;
        int64_t tiles = (stride + WIDTH - 1) / WIDTH;
        if (t + tiles > first) {
            memset(sums, 0, (size_t)(PACKED_HEIGHT * c) * sizeof(V));
            for (int64_t k = t > first ? 0 : first - t; k < tiles && t + k < stop; k++) {
                const T *tile = strip + k * WIDTH;
                int64_t some = stride - k * WIDTH < WIDTH ? stride - k * WIDTH : WIDTH;
                int64_t width = (some + WIDE - 1) / WIDE * WIDE, hop = stride;
                int ragged = some < width || rows < PACKED_HEIGHT;
                if (ragged) memset(laid, 0, (size_t)(PACKED_HEIGHT * WIDTH) * sizeof(T));
                if (ragged || c > PLAIN) {
                    for (int64_t r = 0; r < rows; r++)
                        memcpy(laid + r * WIDTH, tile + r * stride, (size_t)some * sizeof(T));
                    tile = laid;
                    hop = WIDTH;
                }
                int64_t mine = k ? 0 : width < PACKED_HEIGHT ? width : PACKED_HEIGHT;
                NAME(both)(tile, hop, width, mine, X, Y, ld, i, i + k * WIDTH, sums, c);
            }
            for (int64_t q = 0; q < c; q++)
                for (int64_t r = 0; r < rows; r++)
                    for (int64_t l = 0; l < LANES; l++) Y[q * ld + i + r] += sums[r * c + q][l];
        }
        t += tiles;
        strip += rows * stride;
    }
}

#undef MULTIPLY
#undef WIDTH
#undef WIDE
#undef LANES
#undef AT
#undef LOOSE
#undef V
#undef T
#undef NAME
