/* index_fork.c - what fork() leaves of an index in the child.
 *
 * The child has one thread.  Label maps are whole, since a fork waits for whoever
 * changes one; searches that were under way are forgotten, so that they do not hold up
 * the writer for ever; and where a write was under way in another thread, the child's
 * copy can be searched, but not changed (index_writer.c). */
#include "../base/vx_status.h"
#include "index.h"

static struct {
    vx_mutex mutex; /* guards everything here; held through a fork */
    vx_index *first;
    bool is_watching;
} indexes = {.mutex = VX_MUTEX_INIT};

static void before_fork(void)
{
    vx_mutex_lock(&indexes.mutex);
    for (vx_index *index = indexes.first; index != NULL; index = index->next)
        vx_rwlock_wrlock(&index->labels.lock);
}

static void in_parent(void)
{
    for (vx_index *index = indexes.first; index != NULL; index = index->next)
        vx_rwlock_wrunlock(&index->labels.lock);
    vx_mutex_unlock(&indexes.mutex);
}

static void in_child(void)
{
    for (vx_index *index = indexes.first; index != NULL; index = index->next) {
        vx_rwlock_init(&index->labels.lock);
        vx_writer_after_fork(&index->writer);
        vx_ctx_after_fork(&index->graph);
    }
    vx_mutex_init(&indexes.mutex);
}

bool vx_fork_watch(vx_index *index)
{
    vx_mutex_lock(&indexes.mutex);
    if (!indexes.is_watching)
        indexes.is_watching = vx_at_fork(before_fork, in_parent, in_child);
    const bool is_watched = indexes.is_watching;
    if (is_watched) {
        index->next = indexes.first;
        if (index->next != NULL)
            index->next->previous = index;
        indexes.first = index;
    }
    vx_mutex_unlock(&indexes.mutex);
    return is_watched;
}

void vx_fork_forget(vx_index *index)
{
    vx_mutex_lock(&indexes.mutex);
    if (index->previous != NULL || indexes.first == index) {
        *(index->previous != NULL ? &index->previous->next : &indexes.first) = index->next;
        if (index->next != NULL)
            index->next->previous = index->previous;
    }
    vx_mutex_unlock(&indexes.mutex);
}
