/* One token of each sequence through a decoder of the Llama kind, as a list of operations that all threads run in step.

   Products read their weights once for all rows and in the order in which they lie in memory, so that their time is that
   of reading. A row's numbers are added up in the same order however many rows and threads there are: a text does not
   depend on its company. native_program.py writes the lists. */

#include <math.h>
#include <sched.h>
#include <stdint.h>
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__AVX2__)
#include <immintrin.h>
#endif
#ifdef _OPENMP
extern int omp_get_thread_num(void), omp_get_num_threads(void); /* of the OpenMP that PyTorch has loaded */
#endif

#if defined(__AVX512F__)
#define LANES 16
#else
#define LANES 8
#endif
#define AHEAD 8192 /* bytes of a weight that are on their way to the cache while those before them are multiplied */
#define MANY 8         /* outputs at once, of one row */
#define OUTS 4         /* outputs at once, of several rows */
#define ROWS_AT_ONCE 4
#define SPINS 2000  /* looks at a barrier, some 40 microseconds, before a thread sleeps there */
#define DEEP 8      /* rows of a transposed factor that are added to the outputs at once */
#define TOKENS 64   /* of a text that attention reads at once */
#define WIDEST 512  /* features of an attention head */

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

enum { NORM, SCALE, FLOATS, BYTES, TURNED, ROTATE, ATTEND, GATE };

typedef struct {
    int32_t kind, sync, rows, n, m, add, layer;
    float least;            /* NORM: what is added to the sum of squares */
    int64_t x_step, y_step; /* from a row to the next */
    const float *x;         /* (rows, n) */
    float *y;               /* (rows, m) */
    const void *w;          /* (m, n), TURNED: (n, m) */
    const float *a, *b;     /* bias and steps of rows; keys and values of the new tokens */
    const int32_t *ranks;   /* TURNED: of each row, descending */
} Op;

typedef struct {
    float *const *keys, *const *values; /* of each layer: (heads, room, features) of this text at `offset` */
    int64_t offset, head_step, position;
} Text;

typedef struct {
    int32_t heads, kv_heads, features;
    float scale;
    const float *cos, *sin; /* (positions, features); sines with the sign of the half they are added to */
} Shape;

typedef struct {
    int32_t arrived, round, asleep;
} Barrier;

/* A thread that waits for one that has lost its core sleeps, so that the other is moved to the core that is free. */
static void sleep_until_round_is_over(Barrier *barrier, int32_t round) {
#if defined(__linux__)
    __atomic_add_fetch(&barrier->asleep, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&barrier->round, __ATOMIC_SEQ_CST) == round)
        syscall(SYS_futex, &barrier->round, FUTEX_WAIT_PRIVATE, round, 0, 0, 0);
    __atomic_sub_fetch(&barrier->asleep, 1, __ATOMIC_SEQ_CST);
#else
    while (__atomic_load_n(&barrier->round, __ATOMIC_ACQUIRE) == round) sched_yield();
#endif
}

static void meet(Barrier *barrier, int threads) {
    if (threads == 1) return;
    int32_t round = __atomic_load_n(&barrier->round, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&barrier->arrived, 1, __ATOMIC_ACQ_REL) == threads) {
        __atomic_store_n(&barrier->arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&barrier->round, round + 1, __ATOMIC_SEQ_CST);
#if defined(__linux__)
        if (__atomic_load_n(&barrier->asleep, __ATOMIC_SEQ_CST))
            syscall(SYS_futex, &barrier->round, FUTEX_WAKE_PRIVATE, INT32_MAX, 0, 0, 0);
#endif
        return;
    }
    for (int spins = 0; __atomic_load_n(&barrier->round, __ATOMIC_ACQUIRE) == round; spins++) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
        if (spins == SPINS) sleep_until_round_is_over(barrier, round);
    }
}

/* The part [*from, *to) of `count` things that a thread does, in multiples of `unit`. */
static void part(long count, long unit, int thread, int threads, long *from, long *to) {
    long units = (count + unit - 1) / unit;
    *from = units * thread / threads * unit;
    *to = units * (thread + 1) / threads * unit;
    if (*to > count) *to = count;
}

static inline float total(vec v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#endif
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) v[i] += v[i + half];
    return v[0];
}

static inline vec load_bytes(const int8_t *w) {
#if defined(__AVX512F__)
    return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)w)));
#elif defined(__AVX2__)
    return (vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)w)));
#else
    vec v;
    for (int i = 0; i < LANES; i++) v[i] = w[i];
    return v;
#endif
}

static inline vec load(const void *w, long i, int is_bytes) {
    return is_bytes ? load_bytes((const int8_t *)w + i) : *(const vec *)((const float *)w + i);
}

static inline float one(const void *w, long i, int is_bytes) {
    return is_bytes ? (float)((const int8_t *)w)[i] : ((const float *)w)[i];
}

/* Outputs o to o + OUT of rows r to r + ROWS; both are constants where this is used. */
static inline __attribute__((always_inline)) void dots(const Op *op, long o, long r, int OUT, int ROWS, int is_bytes) {
    long n = op->n, i = 0;
    const void *w[MANY];
    const float *x[ROWS_AT_ONCE];
    vec sums[MANY][ROWS_AT_ONCE];
    for (int j = 0; j < OUT; j++) w[j] = (const char *)op->w + (o + j) * n * (is_bytes ? 1 : 4);
    for (int k = 0; k < ROWS; k++) x[k] = op->x + (r + k) * op->x_step;
    for (int j = 0; j < OUT; j++)
        for (int k = 0; k < ROWS; k++) sums[j][k] = (vec){0};
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < OUT; j++) {
            if (!is_bytes || i % 64 == 0) __builtin_prefetch((const char *)w[j] + i * (is_bytes ? 1 : 4) + AHEAD, 0, 2);
            vec weights = load(w[j], i, is_bytes);
            for (int k = 0; k < ROWS; k++) sums[j][k] += weights * *(const vec *)(x[k] + i);
        }
    for (int j = 0; j < OUT; j++)
        for (int k = 0; k < ROWS; k++) {
            float sum = total(sums[j][k]);
            for (long rest = i; rest < n; rest++) sum += one(w[j], rest, is_bytes) * x[k][rest];
            float *y = op->y + (r + k) * op->y_step + o + j;
            if (is_bytes) sum *= op->b[o + j];
            if (op->a) sum += op->a[o + j];
            *y = op->add ? *y + sum : sum;
        }
}

/* Outputs o to o + OUT of all rows. */
static inline __attribute__((always_inline)) void all_dots(const Op *op, long o, int OUT, int is_bytes) {
    long r = 0;
    for (; r + ROWS_AT_ONCE <= op->rows; r += ROWS_AT_ONCE) dots(op, o, r, OUT, ROWS_AT_ONCE, is_bytes);
    for (; r + 2 <= op->rows; r += 2) dots(op, o, r, OUT, 2, is_bytes);
    if (r < op->rows) dots(op, o, r, OUT, 1, is_bytes);
}

static inline __attribute__((always_inline)) void products(const Op *op, int thread, int threads, int is_bytes) {
    long o, to;
    part(op->m, MANY, thread, threads, &o, &to);
    if (op->rows == 1)
        for (; o + MANY <= to; o += MANY) dots(op, o, 0, MANY, 1, is_bytes);
    for (; o + OUTS <= to; o += OUTS) all_dots(op, o, OUTS, is_bytes);
    for (; o < to; o++) all_dots(op, o, 1, is_bytes);
}

/* y += x W for rows r to `last` and `deep` rows of W from i on; a constant where this is used. */
static inline __attribute__((always_inline)) void add_turned(
    const Op *op, long i, long r, long last, long from, long to, int deep) {
    const float *w = (const float *)op->w + i * op->m, *x = op->x + i;
    long o = from;
    for (; o + LANES <= to; o += LANES) {
        vec weights[DEEP];
        for (int j = 0; j < deep; j++) weights[j] = *(const vec *)(w + j * op->m + o);
        for (int j = 0; j < deep; j++) __builtin_prefetch(w + (j + deep) * op->m + o, 0, 2);
        for (long k = r; k < last; k++) {
            vec sum = *(vec *)(op->y + k * op->y_step + o);
            for (int j = 0; j < deep; j++) sum += weights[j] * x[k * op->x_step + j];
            *(vec *)(op->y + k * op->y_step + o) = sum;
        }
    }
    for (; o < to; o++)
        for (long k = r; k < last; k++)
            for (int j = 0; j < deep; j++)
                op->y[k * op->y_step + o] = fmaf(w[j * op->m + o], x[k * op->x_step + j], op->y[k * op->y_step + o]);
}

/* y (+)= x W + bias of a factor that lies transposed, every row up to its own rank. */
static void turned(const Op *op, int thread, int threads) {
    long from, to, live = op->rows;
    part(op->m, LANES, thread, threads, &from, &to);
    for (long r = 0; r < op->rows; r++)
        for (long o = from; o < to; o++) {
            float start = op->a ? op->a[o] : 0, *y = op->y + r * op->y_step + o;
            *y = op->add ? *y + start : start;
        }
    for (long i = 0; live; i += DEEP) {
        for (; live && op->ranks[live - 1] < i + DEEP; live--)
            for (long j = i; j < op->ranks[live - 1]; j++) add_turned(op, j, live - 1, live, from, to, 1);
        if (live) add_turned(op, i, 0, live, from, to, DEEP);
    }
}

static void norm(const Op *op, int thread, int threads) {
    for (long r = thread; r < op->rows; r += threads) {
        const float *x = op->x + r * op->x_step, *w = op->w;
        float *y = op->y + r * op->y_step, squares = 0;
        vec sums = {0};
        long i = 0;
        for (; i + LANES <= op->n; i += LANES) sums += *(const vec *)(x + i) * *(const vec *)(x + i);
        for (; i < op->n; i++) squares += x[i] * x[i];
        float by = 1 / sqrtf(total(sums) + squares + op->least);
        for (i = 0; i < op->n; i++) y[i] = x[i] * by * w[i];
    }
}

static void scale(const Op *op, int thread, int threads) {
    long from, to;
    part(op->n, LANES, thread, threads, &from, &to);
    for (long r = 0; r < op->rows; r++)
        for (long i = from; i < to; i++) op->y[r * op->y_step + i] = op->x[r * op->x_step + i] * op->a[i];
}

static void rotate(const float *x, float *y, const Shape *shape, long position) {
    const float *cos = shape->cos + position * shape->features, *sin = shape->sin + position * shape->features;
    long half = shape->features / 2;
    for (long i = 0; i < half; i++) {
        float low = x[i], high = x[i + half];
        y[i] = low * cos[i] + high * sin[i];
        y[i + half] = high * cos[i + half] + low * sin[i + half];
    }
}

/* Queries at their place; keys, too, and values, behind those of their text. */
static void rotate_all(const Op *op, const Shape *shape, const Text *texts, int thread, int threads) {
    long d = shape->features, each = shape->heads + 2 * shape->kv_heads, all_heads = op->rows * each;
    for (long unit = thread; unit < all_heads; unit += threads) {
        long r = unit / each, head = unit % each;
        const Text *text = texts + r;
        if (head < shape->heads) {
            float *q = op->y + r * op->y_step + head * d;
            rotate(q, q, shape, text->position);
            continue;
        }
        head -= shape->heads;
        int is_value = head >= shape->kv_heads;
        if (is_value) head -= shape->kv_heads;
        const float *from = (is_value ? op->b : op->a) + r * shape->kv_heads * d + head * d;
        float *to = (is_value ? text->values : text->keys)[op->layer] + text->offset + head * text->head_step + text->position * d;
        if (!is_value) rotate(from, to, shape, text->position);
        else for (long i = 0; i < d; i++) to[i] = from[i];
    }
}

/* e^x for x <= 0, to 2 in 10^7. */
static inline float exponential(float x) {
    float n = floorf(x * 1.44269504f + 0.5f), f;
    if (n < -126) return 0;
    f = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * f + 1.3981999507e-3f, p = p * f + 8.3334519073e-3f, p = p * f + 4.1665795894e-2f;
    p = p * f + 1.6666665459e-1f, p = p * f + 5.0000001201e-1f, p = p * f * f + f + 1;
    union { int32_t i; float f; } power = {((int32_t)n + 127) << 23};
    return p * power.f;
}

static inline float dot(const float *x, const float *y, long n) {
    vec sums = {0};
    long i = 0;
    for (; i + LANES <= n; i += LANES) sums += *(const vec *)(x + i) * *(const vec *)(y + i);
    float sum = total(sums);
    for (; i < n; i++) sum += x[i] * y[i];
    return sum;
}

/* Softmax over a text a few tokens at a time, what came before weighed down as larger scores come. */
static void attend(const Op *op, const Shape *shape, const Text *texts, int thread, int threads) {
    long d = shape->features, groups = shape->heads / shape->kv_heads;
    for (long unit = thread; unit < op->rows * shape->heads; unit += threads) {
        long r = unit / shape->heads, head = unit % shape->heads;
        const Text *text = texts + r;
        long at = text->offset + head / groups * text->head_step, length = text->position + 1;
        const float *keys = text->keys[op->layer] + at, *values = text->values[op->layer] + at;
        const float *q = op->x + r * op->x_step + head * d;
        float mixed[WIDEST] = {0}, scores[TOKENS], most = -INFINITY, weight = 0;
        for (long start = 0; start < length; start += TOKENS) {
            long count = length - start < TOKENS ? length - start : TOKENS;
            float before = most;
            for (long t = 0; t < count; t++) {
                scores[t] = shape->scale * dot(q, keys + (start + t) * d, d);
                if (scores[t] > most) most = scores[t];
            }
            float kept = start ? exponential(before - most) : 0;
            weight *= kept;
            for (long i = 0; i < d; i++) mixed[i] *= kept;
            for (long t = 0; t < count; t++) scores[t] = exponential(scores[t] - most);
            for (long t = 0; t < count; t++) {
                weight += scores[t];
                for (long i = 0; i < d; i++) mixed[i] += scores[t] * values[(start + t) * d + i];
            }
        }
        float *y = op->y + r * op->y_step + head * d;
        for (long i = 0; i < d; i++) y[i] = mixed[i] / weight;
    }
}

/* silu(x) · w */
static void gate(const Op *op, int thread, int threads) {
    long from, to;
    part(op->n, LANES, thread, threads, &from, &to);
    for (long r = 0; r < op->rows; r++) {
        const float *x = op->x + r * op->x_step, *w = (const float *)op->w + r * op->x_step;
        float *y = op->y + r * op->y_step;
        for (long i = from; i < to; i++) {
            float e = exponential(-fabsf(x[i]));
            y[i] = x[i] * (x[i] < 0 ? e : 1) / (1 + e) * w[i];
        }
    }
}

static void run(const Op *ops, long count, const Shape *shape, const Text *texts, Barrier *barrier, int thread, int threads) {
    for (const Op *op = ops; op < ops + count; op++) {
        switch (op->kind) {
        case NORM: norm(op, thread, threads); break;
        case SCALE: scale(op, thread, threads); break;
        case FLOATS: products(op, thread, threads, 0); break;
        case BYTES: products(op, thread, threads, 1); break;
        case TURNED: turned(op, thread, threads); break;
        case ROTATE: rotate_all(op, shape, texts, thread, threads); break;
        case ATTEND: attend(op, shape, texts, thread, threads); break;
        case GATE: gate(op, thread, threads); break;
        }
        if (op->sync) meet(barrier, threads);
    }
}

void acip_decode(const Op *ops, int64_t count, const Shape *shape, const Text *texts, int32_t threads) {
    Barrier barrier = {0, 0};
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
    run(ops, count, shape, texts, &barrier, omp_get_thread_num(), omp_get_num_threads());
#else
    run(ops, count, shape, texts, &barrier, 0, 1);
#endif
}
