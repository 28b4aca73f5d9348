/* Trees that a container made: nothing is followed, and no path is built, because they nest deeper than any
 * path may be long. */
#include "tmpfs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { kMaxDepth = 64 }; /* of a removal: each level holds a descriptor and a stack frame */

static int dots(const char *name) {
    return name[0] == '.' && (name[1] == 0 || (name[1] == '.' && name[2] == 0));
}

static DIR *open_stream(int at, const char *name) {
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *stream = fd < 0 ? NULL : fdopendir(fd);
    if (!stream && fd >= 0) close(fd);
    return stream;
}

struct removal {
    int top;
    unsigned long moved; /* directories from the depth that now lie at the top */
};

/* tmpfs keeps the position of a stream valid while entries go. */
static int remove_below(struct removal *all, DIR *stream, int depth) {
    const int dir = dirfd(stream);
    struct dirent *entry;
    int error = 0;
    while (error == 0 && (errno = 0, entry = readdir(stream))) {
        DIR *below;
        if (dots(entry->d_name) || unlinkat(dir, entry->d_name, 0) == 0 || errno == ENOENT) continue;
        if (errno != EISDIR) return errno;
        if (unlinkat(dir, entry->d_name, AT_REMOVEDIR) == 0) continue;
        if (depth >= kMaxDepth) {
            char up[32];
            do
                snprintf(up, sizeof up, "up.%lu", ++all->moved);
            while (renameat2(dir, entry->d_name, all->top, up, RENAME_NOREPLACE) != 0 && errno == EEXIST);
            continue;
        }
        below = open_stream(dir, entry->d_name);
        if (!below) return errno;
        error = remove_below(all, below, depth + 1);
        closedir(below);
        if (error == 0 && unlinkat(dir, entry->d_name, AT_REMOVEDIR) != 0 && errno != ENOENT) error = errno;
    }
    return error ? error : errno;
}

int remove_tree(int at, const char *name) {
    struct removal all = {-1, 0};
    unsigned long before;
    int error;
    DIR *stream = open_stream(at, name);
    if (!stream) {
        if (errno == ENOENT) return 0;
        return errno == ENOTDIR || errno == ELOOP ? (unlinkat(at, name, 0) == 0 ? 0 : errno) : errno;
    }
    all.top = dirfd(stream);
    do {
        before = all.moved;
        rewinddir(stream);
        error = remove_below(&all, stream, 0);
    } while (error == 0 && all.moved != before);
    closedir(stream);
    if (error == 0 && unlinkat(at, name, AT_REMOVEDIR) != 0 && errno != ENOENT) error = errno;
    return error;
}

/* Inodes with several names, by open addressing. */
struct seen {
    ino_t *slots;
    size_t capacity, used;
};

/* 1: new, 0: seen before, -1: out of memory. */
static int see(struct seen *set, ino_t inode) {
    size_t i, old = set->capacity;
    if (2 * set->used >= old) {
        struct seen larger = {calloc(old ? 2 * old : 64, sizeof(ino_t)), old ? 2 * old : 64, 0};
        if (!larger.slots) return -1;
        for (i = 0; i < old; ++i)
            if (set->slots[i]) see(&larger, set->slots[i]);
        free(set->slots);
        *set = larger;
    }
    for (i = (size_t)(inode * 0x9e3779b97f4a7c15u) & (set->capacity - 1); set->slots[i];
         i = (i + 1) & (set->capacity - 1))
        if (set->slots[i] == inode) return 0;
    set->slots[i] = inode;
    ++set->used;
    return 1;
}

/* A directory on the way down: the names of its directories that are still to be visited. One descriptor is
 * open at a time, and ".." leads back; the inode tells when a container moved the tree meanwhile. */
struct level {
    struct level *up;
    ino_t inode;
    char *names, *end;
};

/* Counts the entries of `dir` and pushes its directories. 0 or an errno. */
static int enter(int dir, struct level **top, int strip, gantry_usage *out, struct seen *links) {
    struct dirent *entry;
    struct stat st;
    size_t size = 0, room = 0;
    int error = 0;
    struct level *level = calloc(1, sizeof *level);
    DIR *stream = level ? open_stream(dir, ".") : NULL;
    if (!stream || fstat(dir, &st) != 0) {
        error = errno;
        if (stream) closedir(stream);
        free(level);
        return error;
    }
    level->inode = st.st_ino;
    while (error == 0 && (errno = 0, entry = readdir(stream))) {
        if (dots(entry->d_name)) continue;
        if (fstatat(dir, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0) {
            if (errno != ENOENT) error = errno; /* an active layer changes while it is measured */
            continue;
        }
        if (strip && S_ISCHR(st.st_mode) && st.st_rdev == 0) {
            if (unlinkat(dir, entry->d_name, 0) != 0) error = errno;
            continue;
        }
        if (!S_ISDIR(st.st_mode) && st.st_nlink > 1) {
            const int fresh = see(links, st.st_ino);
            if (fresh < 0) error = ENOMEM;
            if (fresh <= 0) continue;
        }
        out->bytes += (uint64_t)st.st_blocks * 512;
        ++out->inodes;
        if (S_ISDIR(st.st_mode)) {
            const size_t length = strlen(entry->d_name) + 1;
            if (size + length > room) {
                char *larger = realloc(level->names, room = 2 * room + length + 256);
                if (!larger) {
                    error = ENOMEM;
                    continue;
                }
                level->names = larger;
            }
            memcpy(level->names + size, entry->d_name, length);
            size += length;
        }
    }
    if (error == 0) error = errno;
    closedir(stream);
    level->end = level->names + size; /* names are taken from the end */
    level->up = *top;
    *top = level;
    return error;
}

static const char *next_name(struct level *level) {
    if (level->end == level->names) return NULL;
    --level->end;
    while (level->end > level->names && level->end[-1] != 0)
        --level->end;
    return level->end;
}

int measure_tree(int dir, const gantry_call *call, int strip, gantry_usage *out) {
    struct seen links = {NULL, 0, 0};
    struct level *top = NULL;
    int here = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), error;
    if (here < 0) return errno;
    out->bytes = 0;
    out->inodes = 0;
    error = enter(here, &top, strip, out, &links);
    while (error == 0) {
        struct stat st;
        const char *name = next_name(top);
        const gantry_status over = given_up(call);
        int next;
        if (over != GANTRY_OK) {
            error = -over;
            break;
        }
        if (!name && !top->up) break;
        next = openat(here, name ? name : "..", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (next < 0) {
            if (!name || errno != ENOENT) error = errno;
            continue;
        }
        close(here);
        here = next;
        if (name) {
            error = enter(here, &top, strip, out, &links);
        } else {
            struct level *done = top;
            top = done->up;
            free(done->names);
            free(done);
            if (fstat(here, &st) != 0 || st.st_ino != top->inode) error = EAGAIN;
        }
    }
    close(here);
    while (top) {
        struct level *done = top;
        top = done->up;
        free(done->names);
        free(done);
    }
    free(links.slots);
    return error;
}
