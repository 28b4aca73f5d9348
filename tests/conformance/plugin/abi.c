/* The ABI headers compile alone as C11 and keep the released layout. */
#include <gantry/registry.h>

#include <gantry/network.h>
#include <gantry/storage.h>

#define OFFSET(type, field, at) _Static_assert(offsetof(struct type, field) == (at), #type "." #field);
#define SIZE(type, size) _Static_assert(sizeof(struct type) >= (size), #type);
#include "abi_1_0.inc"
#include "abi_1_1.inc"

_Static_assert(GANTRY_ENDPOINT_LINE_SIZE_1_0 == 48 && GANTRY_REGISTRY_V1_SIZE_1_0 == 72, "sizes of 1.0 are fixed");

_Static_assert(GANTRY_INTERNAL == 12 && GANTRY_DATA_LOSS == 9, "status classes are fixed");
_Static_assert(GANTRY_TYPE_MAP == 9 && GANTRY_KIND_REGISTRY == 3, "types and kinds are fixed");
