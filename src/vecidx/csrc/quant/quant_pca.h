/* quant_pca.h - principal directions of a sample. */
#ifndef QUANT_PCA_H
#define QUANT_PCA_H

#include "../base/vx_base.h"

/* The k orthonormal directions along which n rows (n x dim, of mean zero) spread most,
 * nearly: k x dim into `out`, the widest first.  k <= dim.  The same bytes for any
 * number of threads.  VX_E_NOMEM, VX_E_INTERRUPTED. */
vx_status vx_pca(const float *rows, uint32_t n, uint32_t dim, uint32_t k, const vx_run *run,
                 float *out, vx_error *err);

#endif
