#include "core/base/fd.h"

#include <gantry/error.hpp>

#include <cerrno>
#include <fcntl.h>
#include <unistd.h>

namespace gantry {

void UniqueFd::reset(int fd) noexcept {
    if (fd_ >= 0) {
        const int saved = errno;
        ::close(fd_);
        errno = saved;
    }
    fd_ = fd;
}

UniqueFd UniqueFd::dup() const {
    UniqueFd copy(::fcntl(fd_, F_DUPFD_CLOEXEC, 3));
    if (!copy) throw Error::from_errno(errno, "duplicate file descriptor");
    return copy;
}

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
