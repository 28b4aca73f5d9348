#include "core/base/fd.h"

#include <gantry/error.hpp>

#include <cerrno>
#include <unistd.h>

namespace gantry {

void write_all(int fd, std::string_view bytes, std::string_view what) {
    while (!bytes.empty()) {
        const ssize_t n = ::write(fd, bytes.data(), bytes.size());
        if (n < 0) {
            if (errno == EINTR) continue;
            throw Error::from_errno(errno, "write " + std::string(what));
        }
        bytes.remove_prefix(static_cast<size_t>(n));
    }
}

std::string read_all(int fd, size_t limit, std::string_view what) {
    std::string out;
    char buffer[16384];
    for (;;) {
        const ssize_t n = ::read(fd, buffer, sizeof buffer);
        if (n < 0) {
            if (errno == EINTR) continue;
            throw Error::from_errno(errno, "read " + std::string(what));
        }
        if (n == 0) return out;
        if (out.size() + static_cast<size_t>(n) > limit)
            throw Error(ErrorClass::kInvalidArgument,
                        "read " + std::string(what) + ": larger than " + std::to_string(limit) + " bytes");
        out.append(buffer, static_cast<size_t>(n));
    }
}

} // namespace gantry
