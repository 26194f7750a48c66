/* Matrix products in inference; see product.c. */
#ifndef VIMZOO_PRODUCT_H
#define VIMZOO_PRODUCT_H

#include "../selective_scan/task.h"

ARGUMENT_STRUCT(product, PRODUCT_FIELDS);

/* out = act(scale x weight^T + bias) + add. */
EXPORT int vimzoo_product_forward(const product_args *a);

/* The same with a weight of 8 or 4 bits, which the fields of quantized_linear describe at `weight`; NULL: as above. The
 * rows of out and add have no gaps. */
void vimzoo_product_with(const product_args *a, const char *weight);

#endif
