/* hnsw_ctx.c - see hnsw_ctx.h. */
#include "hnsw_ctx.h"

#include <string.h>

#include "../base/vx_alloc.h"
#include "../base/vx_pool.h"
#include "../base/vx_sync.h"

static vx_ctx *take_free(vx_graph *graph)
{
    vx_ctx *ctx = atomic_load_explicit(&graph->contexts, memory_order_acquire);
    for (; ctx != NULL; ctx = ctx->next)
        if (!atomic_load_explicit(&ctx->busy, memory_order_relaxed) &&
            !atomic_exchange_explicit(&ctx->busy, true, memory_order_acquire))
            return ctx;

    ctx = vx_zalloc(1, sizeof *ctx);
    if (ctx == NULL)
        return NULL;
    /* Sizes that depend on parameters only are taken here, once.  One row's worth
     * beyond VX_TOUCHED, and four more that a group of four may write. */
    const size_t floats = vx_round_up(graph->form.query_floats, VX_LINE); /* if rows are bytes */
    ctx->query = vx_zalloc(floats, sizeof *ctx->query);
    ctx->row = vx_zalloc(graph->form.row_bytes, 1);
    ctx->touched = vx_alloc(VX_TOUCHED + VX_MAX_ROW_LINKS + 4, sizeof *ctx->touched);
    ctx->dists = vx_alloc(VX_MAX_ROW_LINKS + 4, sizeof *ctx->dists);
    if (ctx->query == NULL || ctx->row == NULL || ctx->touched == NULL || ctx->dists == NULL) {
        vx_free(ctx->query);
        vx_free(ctx->row);
        vx_free(ctx->touched);
        vx_free(ctx->dists);
        vx_free(ctx);
        return NULL;
    }
    atomic_init(&ctx->bytes, sizeof *ctx + floats * sizeof *ctx->query +
                                 graph->form.row_bytes +
                                 (VX_TOUCHED + 2 * VX_MAX_ROW_LINKS) * sizeof *ctx->touched);
    atomic_init(&ctx->busy, true);
    ctx->next = atomic_load(&graph->contexts);
    while (!atomic_compare_exchange_weak(&graph->contexts, &ctx->next, ctx)) {
    }
    return ctx;
}

/* The reader says its epoch first and loads what it will use after; the writer
 * changes that first and looks at the epochs after, all sequentially consistent.
 * So either the writer sees the reader, or the reader the change. */
static void enter_epoch(vx_graph *graph, vx_ctx *ctx, vx_view **out_view)
{
    const uint64_t now = atomic_load_explicit(&graph->epoch, memory_order_acquire);
    atomic_store_explicit(&ctx->epoch, now, memory_order_seq_cst);
    *out_view = atomic_load_explicit(&graph->view, memory_order_seq_cst);
}

vx_ctx *vx_ctx_take(vx_graph *graph, vx_view **out_view)
{
    vx_ctx *ctx = take_free(graph);
    if (ctx != NULL) {
        ctx->thread = vx_this_thread();
        ctx->from = VX_NO_ENTRY;
        ctx->hidden = VX_NO_SLOT;
        enter_epoch(graph, ctx, out_view);
    }
    return ctx;
}

void vx_ctx_renew(vx_graph *graph, vx_ctx *ctx, vx_view **out_view)
{
    enter_epoch(graph, ctx, out_view);
}

void vx_ctx_release(vx_ctx *ctx)
{
    if (ctx == NULL)
        return;
    ctx->thread = NULL;
    atomic_store_explicit(&ctx->epoch, 0, memory_order_release);
    atomic_store_explicit(&ctx->busy, ctx->is_spent, memory_order_release);
}

/* A call of this thread's may have forked, in a tick, and still use its contexts; but
 * its helpers are gone, and what they left in them is no state for another walk. */
void vx_ctx_after_fork(vx_graph *graph)
{
    vx_ctx *kept = NULL, *next;
    for (vx_ctx *ctx = atomic_load(&graph->contexts); ctx != NULL; ctx = next) {
        next = ctx->next;
        const bool is_busy = atomic_load(&ctx->busy);
        if (is_busy && !ctx->is_spent && ctx->thread != vx_this_thread())
            continue;
        ctx->is_spent = is_busy;
        ctx->next = kept;
        kept = ctx;
    }
    atomic_store(&graph->contexts, kept);
}

uint64_t vx_epoch_next(vx_graph *graph)
{
    return atomic_fetch_add_explicit(&graph->epoch, 1, memory_order_seq_cst) + 1;
}

bool vx_epoch_passed(const vx_graph *graph, uint64_t epoch)
{
    const vx_ctx *ctx = atomic_load_explicit(&graph->contexts, memory_order_seq_cst);
    for (; ctx != NULL; ctx = ctx->next) {
        const uint64_t since = atomic_load_explicit(&ctx->epoch, memory_order_seq_cst);
        if (since != 0 && since < epoch)
            return false;
    }
    return true;
}

#define WAIT_NS 20000000u
#define SPIN_NS 200000u /* most searches end within this: shorter than any sleep */

bool vx_epoch_wait(const vx_graph *graph, uint64_t epoch)
{
    const uint64_t begin = vx_now_ns();
    while (!vx_epoch_passed(graph, epoch)) {
        const uint64_t waited = vx_now_ns() - begin;
        if (waited > WAIT_NS)
            return false;
        if (waited > SPIN_NS)
            vx_sleep_ms(1);
    }
    return true;
}

bool vx_asker_asked(void *arg)
{
    vx_asker *asker = arg;
    if (asker->run == NULL || asker->run->tick == NULL || !vx_tick_is_due(asker->last_tick))
        return false;
    const bool stop = asker->run->tick(asker->run->tick_arg, asker->done, asker->total) != 0;
    asker->last_tick = vx_now_ns();
    return stop;
}

bool vx_ctx_fit(vx_ctx *ctx, const vx_view *view, size_t n, size_t ef)
{
    if (n > ctx->visited_rows) {
        /* As far as the view reaches, within reason, so that growth by small
         * adds does not allocate each time. */
        size_t rows = n + n / 2 + 1024;
        if (rows > view->capacity && view->capacity >= n)
            rows = view->capacity;
        uint64_t *visited = vx_zalloc(rows / 64 + 1, sizeof *visited);
        if (visited == NULL)
            return false;
        atomic_fetch_add_explicit(&ctx->bytes, (rows - ctx->visited_rows) / 8, memory_order_relaxed);
        vx_free(ctx->visited);
        ctx->visited = visited;
        ctx->visited_rows = rows;
        ctx->n_touched = 0;
    }
    if (ef > ctx->pool_room) {
        const size_t room = ef < 256 ? 256 : ef + ef / 4;
        vx_key *pool = vx_alloc(room + 1, sizeof *pool);
        if (pool == NULL)
            return false;
        atomic_fetch_add_explicit(&ctx->bytes, (room - ctx->pool_room) * sizeof *pool,
                                  memory_order_relaxed);
        vx_free(ctx->pool);
        ctx->pool = pool;
        ctx->pool_room = room;
    }
    const size_t code_bytes = view->codec != NULL ? vx_codec_query_bytes(view->codec) : 0;
    if (code_bytes > ctx->code_room) {
        vx_free(ctx->code);
        vx_free(ctx->rank_code);
        vx_free(ctx->gate);
        ctx->code = vx_alloc(code_bytes, 1);
        ctx->rank_code = vx_alloc(VX_RANK_COORDS, 1);
        ctx->gate = vx_alloc(1, sizeof *ctx->gate);
        if (ctx->code == NULL || ctx->rank_code == NULL || ctx->gate == NULL) {
            ctx->code_room = 0;
            return false;
        }
        if (ctx->code_room == 0)
            atomic_fetch_add_explicit(
                &ctx->bytes, code_bytes + VX_RANK_COORDS + sizeof *ctx->gate,
                memory_order_relaxed);
        ctx->code_room = code_bytes;
    }
    ctx->n_pool = 0;
    return true;
}

void vx_ctx_forget(vx_ctx *ctx)
{
    if (ctx->n_touched > VX_TOUCHED)
        memset(ctx->visited, 0, (ctx->visited_rows / 64 + 1) * sizeof *ctx->visited);
    else
        for (size_t i = 0; i < ctx->n_touched; i++)
            ctx->visited[ctx->touched[i] >> 6] = 0;
    ctx->n_touched = 0;
}

void vx_ctx_free_all(vx_graph *graph)
{
    vx_ctx *ctx = atomic_load(&graph->contexts);
    while (ctx != NULL) {
        vx_ctx *next = ctx->next;
        vx_free(ctx->query);
        vx_free(ctx->row);
        vx_free(ctx->code);
        vx_free(ctx->rank_code);
        vx_free(ctx->gate);
        vx_free(ctx->visited);
        vx_free(ctx->touched);
        vx_free(ctx->pool);
        vx_free(ctx->dists);
        vx_free(ctx);
        ctx = next;
    }
    atomic_store(&graph->contexts, NULL);
}

size_t vx_ctx_bytes(const vx_graph *graph)
{
    size_t bytes = 0;
    const vx_ctx *ctx = atomic_load(&graph->contexts);
    for (; ctx != NULL; ctx = ctx->next)
        bytes += atomic_load_explicit(&ctx->bytes, memory_order_relaxed);
    return bytes;
}
