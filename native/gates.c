/* Products of a matrix of bits with matrices of numbers, by the method of the four Russians.
 *
 * For every four gates (or samples) the 16 sums that their rows can make are tabulated over a strip
 * of columns; a row of the product then adds one entry of each table, where a matrix product
 * multiplies and adds four times.  No Python here: module.c wraps it, tests/native drives it.
 */

#if defined(__linux__)
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* for sched_getcpu */
#endif
#include <sched.h>
#endif
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "gates.h"

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

/* The 8 × 8 bits of a word, rows from its top byte down, transposed. */
static inline uint64_t transpose(uint64_t x) {
    uint64_t t = (x ^ (x >> 7)) & UINT64_C(0x00AA00AA00AA00AA);
    x ^= t ^ (t << 7);
    t = (x ^ (x >> 14)) & UINT64_C(0x0000CCCC0000CCCC);
    x ^= t ^ (t << 14);
    t = (x ^ (x >> 28)) & UINT64_C(0x00000000F0F0F0F0);
    return x ^ t ^ (t << 28);
}

static void words_of_samples(const job *j, int64_t task, void *scratch) {
    (void)scratch;
    int64_t stride = (j->n + 7) / 8;
    for (int64_t b = 0; b < stride; b++) {
        uint64_t words[8] = {0};
        for (int64_t k = 0; k < 8 && 64 * task + 8 * k < j->N; k++) {
            int64_t row = 64 * task + 8 * k;
            const uint8_t *at = j->bits + row * stride + b;
            uint64_t square = 0;
            for (int64_t q = 0; q < 8; q++)
                square = square << 8 | (row + q < j->N ? at[q * stride] : 0);
            square = transpose(square);
            for (int p = 0; p < 8; p++) words[p] |= (square >> (56 - 8 * p) & 255) << 8 * k;
        }
        for (int64_t p = 0; p < 8 && 8 * b + p < j->n; p++)
            j->gates[task * j->n + 8 * b + p] = words[p];
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
    int size, joined, aside, here, rounds;
    pthread_t maker;
#if defined(__linux__)
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

/* Sends the calling thread, number i, to another core than its maker's, and leaves it free to move:
 * a new thread can be put beside its maker, and share that core for some milliseconds. */
static void step_aside(const team *t, int i) {
#if defined(__linux__)
    int cores = CPU_COUNT(&t->cores), seen = 0, home = 0;
    if (cores < t->size || t->home < 0 || !CPU_ISSET(t->home, &t->cores)) return;
    for (int cpu = 0; cpu < t->home; cpu++) home += CPU_ISSET(cpu, &t->cores) ? 1 : 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &t->cores) && seen++ == (home + i) % cores) {
            cpu_set_t one;
            CPU_ZERO(&one);
            CPU_SET(cpu, &one);
            if (!sched_setaffinity(0, sizeof one, &one))
                sched_setaffinity(0, sizeof t->cores, &t->cores);
            return;
        }
#else
    (void)t;
    (void)i;
#endif
}

static void *member(void *argument) {
    team *t = argument;
    pthread_mutex_lock(&t->lock); /* held until it is known how many there are */
    char *scratch = t->scratch + t->scratch_size * (size_t)t->joined++;
    int aside = pthread_equal(pthread_self(), t->maker) ? 0 : ++t->aside;
    pthread_mutex_unlock(&t->lock);
    if (aside) step_aside(t, aside);
    for (int p = 0; p < 3; p++) {
        int64_t task;
        if (p && t->size > 1) meet(t);
        while ((task = __atomic_fetch_add(&t->next[p], 1, __ATOMIC_RELAXED)) < t->phases[p].tasks)
            t->phases[p].work(t->job, task, scratch);
    }
    return NULL;
}

static void run(team *t, int threads) {
    pthread_t others[MAX_THREADS];
    t->maker = pthread_self();
#if defined(__linux__)
    t->home = sched_getaffinity(0, sizeof t->cores, &t->cores) ? -1 : sched_getcpu();
#endif
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->all_here, NULL);
    pthread_mutex_lock(&t->lock);
    for (t->size = 1; t->size < threads; t->size++)
        if (pthread_create(&others[t->size], NULL, member, t)) break; /* with those there are */
    pthread_mutex_unlock(&t->lock);
    member(t);
    for (int i = 1; i < t->size; i++) pthread_join(others[i], NULL);
    pthread_cond_destroy(&t->all_here);
    pthread_mutex_destroy(&t->lock);
}

/* -- the products ------------------------------------------------------------------------------ */

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

static void *pages(size_t size) {
    return aligned_alloc(4096, (size + 4095) / 4096 * 4096 + 4096);
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
    t.scratch_size = (t.scratch_size + 4095) / 4096 * 4096;
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    if (threads > t.phases[1].tasks) threads = (int)t.phases[1].tasks;
    if (threads < 1) threads = 1;

    int64_t words = j.words * (kind == GATES_BACK ? n : N);
    j.gates = pages((size_t)words * 8);
    j.partial = terms_size ? pages((size_t)terms_size) : NULL;
    t.scratch = pages(t.scratch_size * (size_t)threads);
    int done = j.gates && t.scratch && (j.partial || !terms_size);
    if (done) run(&t, threads);
    free(j.gates);
    free(j.partial);
    free(t.scratch);
    return done ? GATES_DONE : GATES_NO_MEMORY;
}
