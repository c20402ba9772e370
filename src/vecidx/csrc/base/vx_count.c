/* vx_count.c - see vx_count.h. */
#include "vx_count.h"

#ifdef VX_COUNT_WORK

_Static_assert(VX_N_WORK == VX_N_COUNTS, "one number for each count");

_Atomic uint64_t vx_counts[VX_N_COUNTS];

int vx_test_work(uint64_t out[VX_N_WORK])
{
    for (int i = 0; i < VX_N_WORK; i++)
        out[i] = atomic_exchange(&vx_counts[i], 0);
    return 1;
}

#else

int vx_test_work(uint64_t out[VX_N_WORK])
{
    for (int i = 0; i < VX_N_WORK; i++)
        out[i] = 0;
    return 0;
}

#endif
