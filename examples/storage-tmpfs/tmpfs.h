/* A storage driver in plain C: layers live in memory, for throw-away builds and tests. The engine's
 * directory for things that do not outlive a reboot gets a tmpfs of its own, sized by the option `size`, and
 * overlayfs stacks the layers in it. Nothing is copied, nothing reaches a disk, and a reboot takes it all. */
#ifndef STORAGE_TMPFS_H
#define STORAGE_TMPFS_H

#include <gantry/storage.h>

struct gantry_driver {
    char *path; /* of the tmpfs */
    int root;   /* the same, opened */
    unsigned long serial;
    const char *overlay_options[4];
    uint32_t overlay_option_count;
};

/* tree.c */

/* Removes `name` below `at` with everything in it. 0, or an errno. */
int remove_tree(int at, const char *name);
/* Disk and inodes of the tree, hard links counted once. `strip`: removes whiteouts, which hide nothing in a
 * layer without parents and would be seen. 0, an errno, or a negated status when the call was given up. */
int measure_tree(int dir, const gantry_call *call, int strip, gantry_usage *out);

/* report.c */

/* Tells the caller once and returns `status`; `error` 0 if no system call failed. */
gantry_status report(const gantry_call *call, gantry_status status, int error, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* The same for a failed system call: the class follows from `error`. */
gantry_status report_errno(const gantry_call *call, int error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* GANTRY_CANCELLED or GANTRY_DEADLINE once the caller has given up; not reported. */
gantry_status given_up(const gantry_call *call);

#endif
