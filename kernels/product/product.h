/* Matrix products in inference; see product.c. */
#ifndef VIMZOO_PRODUCT_H
#define VIMZOO_PRODUCT_H

#include "../selective_scan/task.h"

ARGUMENT_STRUCT(product, PRODUCT_FIELDS);

/* out = act(scale x weight^T + bias) + add. */
EXPORT void vimzoo_product_forward(const product_args *a);

#endif
