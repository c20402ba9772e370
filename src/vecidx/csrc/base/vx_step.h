/* vx_step.h - where tests may stop a writer: the steps of an update, by name. */
#ifndef VX_STEP_H
#define VX_STEP_H

#include <stdatomic.h>

#include "vx_base.h"

/* Told of each step by the thread that takes it; see vx_test_on_step. */
extern _Atomic(void (*)(vx_step step)) vx_step_fn;

VX_INLINE void vx_step_at(vx_step step)
{
    void (*const fn)(vx_step) = atomic_load_explicit(&vx_step_fn, memory_order_relaxed);
    if (VX_UNLIKELY(fn != NULL))
        fn(step);
}

#endif
