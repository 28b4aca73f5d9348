// What the parts of the shim share. C-style C++: static storage, no heap, no exceptions; every error
// ends in a text for the user.
#pragma once

#include "core/runtime/plan.h"

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fcntl.h>
#include <sys/types.h>
#include <unistd.h>

namespace gantry::shim {

/// Text built in place and silently cut at the end.
template <size_t N> struct TextBuffer {
    char bytes[N];
    size_t size = 0;
    TextBuffer() { bytes[0] = 0; }
    TextBuffer &add(const char *text, size_t n) {
        if (n > N - 1 - size) n = N - 1 - size;
        memcpy(bytes + size, text, n);
        size += n;
        bytes[size] = 0;
        return *this;
    }
    TextBuffer &add(const char *text) { return add(text, strlen(text)); }
    TextBuffer &number(uint64_t value, unsigned width = 1) {
        char digits[20];
        unsigned n = 0;
        do
            digits[19 - n++] = char('0' + value % 10);
        while (value /= 10);
        while (n < width && n < 20)
            digits[19 - n++] = '0';
        return add(digits + 20 - n, n);
    }
    const char *c() const { return bytes; }
};
using Path = TextBuffer<4096>;
using Text = TextBuffer<plan::kMaxText>;

/// gantry_status values that the shim reports.
enum Class : uint32_t {
    kClassNotFound = 1,
    kClassInvalid = 4,
    kClassUnsupported = 5,
    kClassDenied = 7,
    kClassInternal = 12
};

inline const char *error_text(int error) {
    const char *text = strerrordesc_np(error);
    return text ? text : "unknown error";
}
/// runc's wording is lower case ("no such file or directory"), and clients match on it.
inline void add_error(Text &text, int error) {
    size_t at = text.size;
    text.add(error_text(error));
    if (text.bytes[at] >= 'A' && text.bytes[at] <= 'Z') text.bytes[at] = char(text.bytes[at] + 32);
}

bool send_message(int fd, const plan::Message &message, const char *text, const int *fds, int count);
/// Returns bytes received, 0 at the end, -1 on error; at most 8 descriptors, the rest of `fds` is -1.
ssize_t receive_message(int fd, plan::Message &message, char *text, int fds[8], int flags);
bool write_file(const char *path, const char *value, size_t length, int flags = O_WRONLY | O_CLOEXEC);

// child.cpp: runs in the new process and never returns
struct ChildArgs {
    const char *prepare; // plan with namespaces and cgroups
    int control;         // to the supervisor
    int target_pidfd;    // exec: namespaces to join
    bool placed;         // in its cgroup of version 2 already
};
[[noreturn]] void child_main(const ChildArgs &args);
/// Reports to the supervisor and ends the child.
[[noreturn]] void child_fail(uint32_t error_class, int error, const char *what, const char *object = nullptr);

// mounts.cpp: in the child, after the namespaces exist
void make_root(const char *plan, const char *root_path);
void enter_root(const char *plan);
int mount_rootfs(const char *plan, const char *root_path); // O_PATH descriptor of the root

// log.cpp
void log_open(const char *path, uint64_t max_size, uint32_t max_files);
void log_write(int stream, const char *data, size_t size);
void log_finish();

// init.cpp
[[noreturn]] void run_init(pid_t child);
/// This program as a container's first process, put there for an external runtime.
[[noreturn]] void init_main(char **command);

} // namespace gantry::shim
