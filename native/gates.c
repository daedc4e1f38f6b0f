/* Products of a matrix of bits with matrices of numbers, by the method of the four Russians.
 *
 * For every four gates (or samples) the 16 sums that their rows can make are tabulated over a strip
 * of columns; a row of the product then adds one entry of each table, where a matrix product
 * multiplies and adds four times.  No Python here: module.c wraps it, tests/native drives it.
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* for sched_getcpu and pthread_attr_setaffinity_np */
#endif
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "gates.h"

/* So that the address sanitizer sees writes beyond a part of a larger block. */
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define UNTOUCHED(start, size)                 \
    (ASAN_UNPOISON_MEMORY_REGION(start, size), \
     ASAN_POISON_MEMORY_REGION((char *)(start) + (size), PAGE))
#else
#define UNTOUCHED(start, size) ((void)0)
#endif

enum {
    ROWS = 192,         /* rows whose accumulators pass through L1 together */
    RANGE = 2048,       /* rows a task visits with the tables it built */
    PANEL = 512,        /* gates whose tables fit L2 together */
    BACK_PANEL = 1024,  /* gates whose accumulators fit L2 together */
    FOLD = 64,          /* words of samples summed before they join the total */
    TASKS = 48,         /* worth having of them: few strips are split over samples */
    REDUCE = 8192,      /* entries of a result that one task sums */
    GATHER = 1024,      /* rows whose bits one task lays out */
    MAX_THREADS = 256,
    PAGE = 4096,
    KEPT = 16 << 20,    /* bytes of memory that are kept between calls, at most */
    SPINS = 20000 /* looks for the others, some tens of microseconds, before a thread sleeps */
};

typedef struct {
    /* Θ is N × n; X is N × c; `factor` is M, columns × n × c, or r, columns × N */
    int64_t N, n, c, columns;
    const uint8_t *bits;
    const void *factor, *X;
    void *out;
    /* the bits by words of 64: [word of gates][row], or [word of samples][gate] */
    uint64_t *gates;
    int64_t words, strips, ranges, panels, extent;
    /* results before they are summed: `terms` of them, `block_step` entries apart */
    void *partial;
    int64_t reduced, block, hop, block_step, terms;
} job;

typedef struct {
    void (*forward)(const job *, int64_t, void *);
    void (*backward)(const job *, int64_t, void *);
    void (*reduce)(const job *, int64_t, void *);
    int64_t strip, tables;
} engine;

/* Edges of nearly equal ranges: of the shapes alone, so that no result depends on threads. */
static int64_t range_edge(const job *j, int64_t i) { return j->extent * i / j->ranges; }

#define T float
#define NAME(x) x##_float_portable
#define TARGET
#define VECTOR 16
#define STRIP 128
#define TABLES 8 /* 16 KiB at a time */
#include "gates_kernel.h"
#define T double
#define NAME(x) x##_double_portable
#include "gates_kernel.h"
#undef TARGET
#undef VECTOR

#if defined(__x86_64__)
/* Vectors of 64 bytes were slower on a processor that has them. */
#define TARGET __attribute__((target("avx2")))
#define VECTOR 32
#define T float
#define NAME(x) x##_float_avx2
#include "gates_kernel.h"
#define T double
#define NAME(x) x##_double_avx2
#include "gates_kernel.h"
#endif

static const struct {
    const char *name;
    const engine *engines[2];
} ENGINES[] = {
#if defined(__x86_64__)
    {"avx2", {&engine_float_avx2, &engine_double_avx2}},
#endif
    {"portable", {&engine_float_portable, &engine_double_portable}},
};

static int usable(size_t i) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (i == 0) return __builtin_cpu_supports("avx2") != 0;
#endif
    return i < sizeof ENGINES / sizeof *ENGINES;
}

const char *gates_engine(int i) {
    for (size_t k = 0; k < sizeof ENGINES / sizeof *ENGINES; k++)
        if (usable(k) && i-- == 0) return ENGINES[k].name;
    return NULL;
}

/* -- the bits, by words ------------------------------------------------------------------------ */

static uint64_t load_word(const uint8_t *bytes, int64_t count) {
    uint64_t word = 0;
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    if (count >= 8) {
        memcpy(&word, bytes, 8);
        return word;
    }
#endif
    for (int64_t k = 0; k < count && k < 8; k++) word |= (uint64_t)bytes[k] << 8 * k;
    return word;
}

static void words_of_gates(const job *j, int64_t task, void *scratch) {
    (void)scratch;
    int64_t stride = (j->n + 7) / 8, stop = (task + 1) * GATHER < j->N ? (task + 1) * GATHER : j->N;
    for (int64_t g = 0; g < j->words; g++)
        for (int64_t i = task * GATHER; i < stop; i++)
            j->gates[g * j->N + i] = load_word(j->bits + i * stride + 8 * g, stride - 8 * g);
}

/* One step of the transpose of 64 × 64 bits: in every square of 2 j × 2 j, the two j × j squares off
 * the diagonal change places.  `low` has the lower j of every 2 j bits. */
static inline __attribute__((always_inline)) void swap_squares(uint64_t *a, int j, uint64_t low) {
    for (int square = 0; square < 64; square += 2 * j)
        for (int i = square; i < square + j; i++) {
            uint64_t t = (a[i] >> j ^ a[i + j]) & low;
            a[i] ^= t << j;
            a[i + j] ^= t;
        }
}

static void words_of_samples(const job *j, int64_t task, void *scratch) {
    (void)scratch;
    int64_t stride = (j->n + 7) / 8, rows = j->N - 64 * task < 64 ? j->N - 64 * task : 64;
    for (int64_t g = 0; g < j->n; g += 64) {
        /* in a word, gate or sample i is bit i ^ 7: the first is the high bit of the first byte */
        uint64_t square[64] = {0};
        for (int64_t i = 0; i < rows; i++)
            square[i ^ 7] = load_word(j->bits + (64 * task + i) * stride + g / 8, stride - g / 8);
        swap_squares(square, 32, UINT64_C(0x00000000FFFFFFFF));
        swap_squares(square, 16, UINT64_C(0x0000FFFF0000FFFF));
        swap_squares(square, 8, UINT64_C(0x00FF00FF00FF00FF));
        swap_squares(square, 4, UINT64_C(0x0F0F0F0F0F0F0F0F));
        swap_squares(square, 2, UINT64_C(0x3333333333333333));
        swap_squares(square, 1, UINT64_C(0x5555555555555555));
        for (int64_t i = 0; i < 64 && g + i < j->n; i++)
            j->gates[task * j->n + g + i] = square[i ^ 7];
    }
}

/* -- threads: made for one call, so that nothing is left to fork, to spin or to shut down ------- */

typedef struct {
    void (*work)(const job *, int64_t, void *);
    int64_t tasks;
} phase;

typedef struct {
    const job *job;
    phase phases[3];
    int64_t next[3];
    char *scratch;
    size_t scratch_size;
    pthread_mutex_t lock;
    pthread_cond_t all_here;
    int size, joined, here, rounds;
#if defined(__GLIBC__)
    cpu_set_t cores; /* those it may use */
    int home;        /* where its maker is */
#endif
} team;

static void meet(team *t) {
    pthread_mutex_lock(&t->lock);
    int round = t->rounds;
    if (++t->here == t->size) {
        t->here = 0;
        __atomic_store_n(&t->rounds, round + 1, __ATOMIC_RELEASE);
        pthread_cond_broadcast(&t->all_here);
        pthread_mutex_unlock(&t->lock);
        return;
    }
    pthread_mutex_unlock(&t->lock);
    for (int i = 0; i < SPINS; i++)
        if (__atomic_load_n(&t->rounds, __ATOMIC_ACQUIRE) != round) return;
    pthread_mutex_lock(&t->lock);
    while (round == t->rounds) pthread_cond_wait(&t->all_here, &t->lock);
    pthread_mutex_unlock(&t->lock);
}

/* Where thread number i begins: on another core than its maker's.  Left to the system it may be put
 * beside its maker, and not run before that one waits for it. */
static void place(const team *t, int threads, int i, pthread_attr_t *where) {
#if defined(__GLIBC__)
    int cores = CPU_COUNT(&t->cores), seen = 0, home = 0;
    if (cores < threads || t->home < 0 || !CPU_ISSET(t->home, &t->cores)) return;
    for (int cpu = 0; cpu < t->home; cpu++) home += CPU_ISSET(cpu, &t->cores) ? 1 : 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &t->cores) && seen++ == (home + i) % cores) {
            cpu_set_t one;
            CPU_ZERO(&one);
            CPU_SET(cpu, &one);
            pthread_attr_setaffinity_np(where, sizeof one, &one);
            return;
        }
#else
    (void)t, (void)threads, (void)i, (void)where;
#endif
}

static void *member(void *argument) {
    team *t = argument;
    pthread_mutex_lock(&t->lock); /* held until it is known how many there are */
    char *scratch = t->scratch + t->scratch_size * (size_t)t->joined++;
    pthread_mutex_unlock(&t->lock);
    for (int p = 0; p < 3; p++) {
        int64_t task;
        if (p && t->size > 1) meet(t);
        while ((task = __atomic_fetch_add(&t->next[p], 1, __ATOMIC_RELAXED)) < t->phases[p].tasks)
            t->phases[p].work(t->job, task, scratch);
    }
    return NULL;
}

static void *other(void *argument) {
#if defined(__GLIBC__)
    team *t = argument;
    if (t->home >= 0) sched_setaffinity(0, sizeof t->cores, &t->cores); /* free to move from here */
#endif
    return member(argument);
}

static void run(team *t, int threads) {
    pthread_t others[MAX_THREADS];
#if defined(__GLIBC__)
    t->home = -1;
    if (threads > 1 && !sched_getaffinity(0, sizeof t->cores, &t->cores)) t->home = sched_getcpu();
#endif
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->all_here, NULL);
    pthread_mutex_lock(&t->lock);
    for (t->size = 1; t->size < threads; t->size++) {
        pthread_attr_t where;
        if (pthread_attr_init(&where)) break;
        place(t, threads, t->size, &where);
        int failed = pthread_create(&others[t->size], &where, other, t);
        pthread_attr_destroy(&where);
        if (failed) break; /* with those there are */
    }
    pthread_mutex_unlock(&t->lock);
    member(t);
    for (int i = 1; i < t->size; i++) pthread_join(others[i], NULL);
    pthread_cond_destroy(&t->all_here);
    pthread_mutex_destroy(&t->lock);
}

/* -- the products ------------------------------------------------------------------------------ */

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

static size_t pages(size_t size) { return (size + PAGE - 1) / PAGE * PAGE; }

/* Memory that the last call to end has left for the next one, its size in its first page: to be
 * given fresh pages takes as long as a small product. */
static size_t *kept;

static size_t *take(size_t size) {
    size_t *block = __atomic_exchange_n(&kept, NULL, __ATOMIC_ACQ_REL);
    if (block && *block >= size) return block;
    free(block);
    block = aligned_alloc(PAGE, size);
    if (block) *block = size;
    return block;
}

/* `size` bytes, of whole pages, of what is left from `next` on; then a page that nobody touches. */
static void *part(char **next, size_t size) {
    char *start = *next;
    UNTOUCHED(start, size);
    *next = start + size + PAGE;
    return start;
}

static void leave(size_t *block) {
    free(*block > KEPT ? block : __atomic_exchange_n(&kept, block, __ATOMIC_ACQ_REL));
}

int gates_product(int kind, const char *name, int is_double, int threads, int64_t N, int64_t n,
                  int64_t c, int64_t columns, const uint8_t *bits, const void *factor,
                  const void *X, void *out) {
    const engine *e = NULL;
    for (size_t k = 0; k < sizeof ENGINES / sizeof *ENGINES && !e; k++)
        if (usable(k) && (!name || !strcmp(name, ENGINES[k].name)))
            e = ENGINES[k].engines[is_double ? 1 : 0];
    if (!e) return GATES_NO_ENGINE;
    int64_t size = is_double ? 8 : 4;
    if (N <= 0 || n <= 0 || c <= 0 || columns <= 0) {
        int64_t entries = kind == GATES_BACK ? columns * n * c : kind == GATES_DOT ? columns * N
                                                                                   : columns * N * c;
        if (entries > 0) memset(out, 0, (size_t)(entries * size));
        return GATES_DONE;
    }
    job j = {.N = N, .n = n, .c = c, .columns = columns, .bits = bits, .factor = factor, .X = X,
             .out = out, .panels = 1, .terms = 0};
    j.strips = ceil_div(c * size, e->strip);
    team t = {.job = &j};
    int64_t terms_size = 0;
    if (kind == GATES_BACK) {
        j.words = j.extent = ceil_div(N, 64);
        j.panels = ceil_div(n, BACK_PANEL);
        int64_t tasks = j.strips * j.panels * columns;
        j.ranges = ceil_div(TASKS, tasks);
        if (j.ranges > ceil_div(j.words, FOLD)) j.ranges = ceil_div(j.words, FOLD);
        if (j.ranges > 1) {
            j.terms = j.ranges;
            j.reduced = j.block = j.block_step = columns * n * c;
            terms_size = j.ranges * j.block_step * size;
        }
        t.phases[0] = (phase){words_of_samples, j.words};
        t.phases[1] = (phase){e->backward, tasks * j.ranges};
        t.scratch_size = (size_t)(e->strip * (e->tables * 16 + 2 * BACK_PANEL));
    } else {
        j.words = ceil_div(n, 64);
        j.extent = N;
        j.ranges = ceil_div(N, RANGE);
        if (kind == GATES_DOT) {
            j.terms = j.strips;
            j.reduced = columns * N;
            j.block = j.block_step = N;
            j.hop = j.strips * N;
            terms_size = columns * j.hop * size;
        }
        t.phases[0] = (phase){words_of_gates, ceil_div(N, GATHER)};
        t.phases[1] = (phase){e->forward, j.strips * j.ranges * columns};
        t.scratch_size = (size_t)(e->strip * (PANEL / 4 * 16 + RANGE + 1));
    }
    t.phases[2] = (phase){e->reduce, j.terms ? ceil_div(j.reduced, REDUCE) : 0};
    t.scratch_size = pages(t.scratch_size);
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    if (threads > t.phases[1].tasks) threads = (int)t.phases[1].tasks;
    if (threads < 1) threads = 1;

    size_t words = pages((size_t)(j.words * (kind == GATES_BACK ? n : N)) * 8);
    size_t terms = pages((size_t)terms_size);
    size_t scratch = t.scratch_size * (size_t)threads;
    size_t *block = take(words + terms + scratch + 4 * PAGE);
    if (!block) return GATES_NO_MEMORY;
    char *next = (char *)block + PAGE;
    j.gates = part(&next, words);
    j.partial = terms ? part(&next, terms) : NULL;
    t.scratch = part(&next, scratch);
    run(&t, threads);
    leave(block);
    return GATES_DONE;
}
