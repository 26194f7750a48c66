/* Parallel loops; see pool.c. */
#ifndef VIMZOO_POOL_H
#define VIMZOO_POOL_H

#include <stdint.h>

/* Part of a loop: the tasks [begin, end). */
typedef void (*loop_body)(const void *context, int64_t begin, int64_t end);

/* Runs the tasks [0, tasks) on up to `threads` threads, of which the calling one is the first. */
void vimzoo_parallel(int64_t threads, int64_t tasks, loop_body body, const void *context);

/* A runtime's way to call part(loop, 0), ... part(loop, parts - 1) on its own threads. */
typedef void (*loop_part)(void *loop, int64_t part);
typedef void (*loop_runner)(void *runtime, int64_t parts, loop_part part, void *loop);

/* An allocation failed in this thread or in one that worked for it, so what was computed since means nothing. An operator
 * returns it; it stays set until the operator's caller calls vimzoo_forget_shortage. */
extern __thread int memory_short;

#endif
