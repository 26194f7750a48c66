/* The threads of the kernels: OpenMP's, which torch has too, or a pool of our own.
 *
 * In the pool the caller of a loop takes part in it and waits for what others have begun, never for a thread that has not:
 * where another process has the core, such a thread may not run for many milliseconds.
 *
 * A loop is cut into ranges, a few for each thread. Every thread begins at its own share and then looks for ranges that nobody
 * has taken; so on an idle machine neighbouring loops find their data in the caches where they left them.
 */
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "pool.h"

enum { MOST_THREADS = 256, RANGES_EACH = 4, STACK_BYTES = 8 << 20, LOOKS = 10000 };

__thread int memory_short;

__attribute__((visibility("default"))) void vimzoo_forget_shortage(void) { memory_short = 0; }

#ifdef _OPENMP
static int pool;
#else
static int pool = 1;
#endif

/* A caller writes it while no loop runs; threads then write `taken`, `unfinished` and `failed`. */
static struct {
    loop_body body;
    const void *context;
    int64_t tasks, ranges, threads;
    int64_t number;                              /* of the loop; odd while it is written */
    int64_t taken[MOST_THREADS * RANGES_EACH];   /* by range: the last loop of which it was taken */
    int64_t unfinished;                          /* ranges */
    int failed;                                  /* memory was short in a range */
} loop;

static int busy;                      /* a loop runs */
static int64_t workers, sleeping;     /* threads of the pool; those that wait for `wake` */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;

#define GET(field) __atomic_load_n(&(field), __ATOMIC_SEQ_CST)
#define SET(field, value) __atomic_store_n(&(field), value, __ATOMIC_SEQ_CST)
#define ADD(field, value) __atomic_add_fetch(&(field), value, __ATOMIC_SEQ_CST)

static void rest(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Whether the range was free in loop `number`. */
static int take(int64_t range, int64_t number) {
    int64_t last = GET(loop.taken[range]);
    return last < number &&
           __atomic_compare_exchange_n(&loop.taken[range], &last, number, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* Takes part in loop `number`, whose fields are these, as its thread `self`. */
static void take_part(int64_t self, int64_t number, loop_body body, const void *context, int64_t tasks, int64_t ranges,
                      int64_t threads) {
    for (int64_t i = 0, range = ranges * self / threads; i < ranges; i++, range = range + 1 == ranges ? 0 : range + 1)
        if (take(range, number)) {
            body(context, tasks * range / ranges, tasks * (range + 1) / ranges);
            if (memory_short) SET(loop.failed, 1);
            if (self) memory_short = 0;
            ADD(loop.unfinished, -1);
        }
}

static void *work(void *self_) {
    const int64_t self = (int64_t)(intptr_t)self_;
    for (int64_t done = 0;;) {
        for (int looks = 0; GET(loop.number) <= done && looks < LOOKS; looks++) rest();
        if (GET(loop.number) <= done) {
            pthread_mutex_lock(&lock);
            ADD(sleeping, 1);
            while (GET(loop.number) <= done) pthread_cond_wait(&wake, &lock);
            ADD(sleeping, -1);
            pthread_mutex_unlock(&lock);
        }
        const int64_t number = GET(loop.number);
        if (number & 1) continue;
        const loop_body body = GET(loop.body);
        const void *context = GET(loop.context);
        const int64_t tasks = GET(loop.tasks), ranges = GET(loop.ranges), threads = GET(loop.threads);
        if (GET(loop.number) != number) continue; /* another loop has begun: the fields may be of both */
        if (self < threads) take_part(self, number, body, context, tasks, ranges, threads);
        done = number;
    }
    return NULL;
}

/* In a forked process, which has none of the threads. */
static void forget(void) {
    workers = sleeping = busy = 0;
    pthread_mutex_init(&lock, NULL);
    pthread_cond_init(&wake, NULL);
}

static void start_workers(int64_t wanted) {
    static int known;
    if (!known) known = !pthread_atfork(NULL, NULL, forget);
    pthread_attr_t attributes;
    if (workers >= wanted || pthread_attr_init(&attributes)) return;
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    for (pthread_t thread; workers < wanted; workers++)
        if (pthread_create(&thread, &attributes, work, (void *)(intptr_t)(workers + 1))) break;
    pthread_attr_destroy(&attributes);
}

/* The share of one of `threads`; shares that are one task larger come first, as parts of fewer channels do. */
static void share(int64_t threads, int64_t tasks, int64_t i, loop_body body, const void *context) {
    body(context, (tasks * i + threads - 1) / threads, (tasks * (i + 1) + threads - 1) / threads);
}

static __thread struct {
    loop_runner run;
    void *runtime;
} borrowed;

/* From now on the loops of this thread run on a runtime's threads; on ours again if `run` is NULL. */
__attribute__((visibility("default"))) void vimzoo_borrow_threads(loop_runner run, void *runtime) {
    borrowed.run = run, borrowed.runtime = runtime;
}

typedef struct {
    int64_t threads, tasks;
    loop_body body;
    const void *context;
    int failed;
} borrowing;

static void borrowed_part(void *loop_, int64_t part) {
    borrowing *l = loop_;
    share(l->threads, l->tasks, part, l->body, l->context);
    if (memory_short) SET(l->failed, 1);
    memory_short = 0;
}

void vimzoo_parallel(int64_t threads, int64_t tasks, loop_body body, const void *context) {
    threads = threads < MOST_THREADS ? threads : MOST_THREADS;
    threads = threads < tasks ? threads : tasks;
    if (borrowed.run && threads > 1) {
        borrowing l = {threads, tasks, body, context, memory_short};
        borrowed.run(borrowed.runtime, threads, borrowed_part, &l);
        memory_short = l.failed;
        return;
    }
#ifdef _OPENMP
    if (!GET(pool)) {
        int failed = 0;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(| : failed)
        for (int64_t i = 0; i < threads; i++) {
            share(threads, tasks, i, body, context);
            failed |= memory_short;
            if (i) memory_short = 0;
        }
        memory_short |= failed;
        return;
    }
#endif
    if (threads <= 1 || __atomic_exchange_n(&busy, 1, __ATOMIC_SEQ_CST)) { /* one loop at a time */
        if (tasks > 0) body(context, 0, tasks);
        return;
    }
    start_workers(threads - 1);
    const int64_t ranges = tasks < threads * RANGES_EACH ? tasks : threads * RANGES_EACH, number = GET(loop.number) + 2;
    SET(loop.number, number - 1);
    SET(loop.body, body);
    SET(loop.context, context);
    SET(loop.tasks, tasks);
    SET(loop.ranges, ranges);
    SET(loop.threads, threads);
    SET(loop.unfinished, ranges);
    SET(loop.failed, 0);
    SET(loop.number, number);
    if (GET(sleeping)) {
        pthread_mutex_lock(&lock);
        pthread_cond_broadcast(&wake);
        pthread_mutex_unlock(&lock);
    }
    take_part(0, number, body, context, tasks, ranges, threads);
    for (int looks = 0; GET(loop.unfinished); looks++) {
        if (looks < LOOKS) rest();
        else sched_yield();
    }
    memory_short |= GET(loop.failed);
    SET(busy, 0);
}

/* Whether loops run in the pool from now on; without OpenMP they always do. */
__attribute__((visibility("default"))) int vimzoo_use_pool(int wanted) {
#ifdef _OPENMP
    SET(pool, wanted);
#else
    (void)wanted;
#endif
    return pool;
}
