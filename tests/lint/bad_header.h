/* A header that breaks every rule of headers.py once; compiled by nobody. */
struct gantry_unsized {
    int32_t value; /* BAD size */
};

/* [frozen] */
struct gantry_fixed {
    int32_t value;
};

struct gantry_pointers {
    uint32_t struct_size;
    const char *unowned;        /* BAD owner */
    const char *named;          /* [borrowed] */
    const char *const *strange; /* [shared]: no mark of the list. BAD owner */
};

struct gantry_descriptors {
    uint32_t struct_size;
    int32_t fd;       /* BAD fd */
    int32_t netns_fd; /* [fd borrowed] without CLOEXEC. BAD fd */
    int32_t good_fd;  /* [fd taken, CLOEXEC] */
};

typedef struct gantry_table {
    uint32_t struct_size;
    void (*untagged)(void *ctx); /* BAD thread */

    /* [any] */
    void (*tagged)(void *ctx);
    void (*inherits_nothing)(void *ctx); /* BAD thread */

    /* [init] is no tag of the list */
    void (*invented)(void *ctx); /* BAD thread */

    /* [any; serialised by mood] */
    void (*moody)(void *ctx); /* BAD thread */

    /* [main] [any] */
    void (*both)(void *ctx); /* BAD thread */

    /* [main] */
    gantry_status (*make)(gantry_driver **out); /* BAD owner */

    /* [main] *out is a [handle] */
    gantry_status (*create)(gantry_driver **out);
} gantry_table;
