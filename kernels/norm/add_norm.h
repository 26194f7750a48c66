/* stream = x + residual and its norm; see add_norm.c. */
#ifndef VIMZOO_ADD_NORM_H
#define VIMZOO_ADD_NORM_H

#include "../selective_scan/task.h"

ARGUMENT_STRUCT(add_norm, ADD_NORM_FIELDS);

EXPORT int vimzoo_add_norm_forward(const add_norm_args *a);

#endif
