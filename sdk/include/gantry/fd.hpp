// The one owner of a file descriptor: of the core, of the plugins and of anybody who writes one.
#pragma once

#include <gantry/error.hpp>

#include <cerrno>
#include <fcntl.h>
#include <unistd.h>
#include <utility>

namespace gantry {

/// Owns one file descriptor; -1 is "none". Movable, closes on destruction, keeps errno.
class UniqueFd {
  public:
    UniqueFd() noexcept = default;
    explicit UniqueFd(int fd) noexcept : fd_(fd) {}
    UniqueFd(UniqueFd &&other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    UniqueFd &operator=(UniqueFd &&other) noexcept {
        if (this != &other) reset(std::exchange(other.fd_, -1));
        return *this;
    }
    UniqueFd(const UniqueFd &) = delete;
    UniqueFd &operator=(const UniqueFd &) = delete;
    ~UniqueFd() { reset(); }

    int get() const noexcept { return fd_; }
    explicit operator bool() const noexcept { return fd_ >= 0; }
    int release() noexcept { return std::exchange(fd_, -1); }
    void reset(int fd = -1) noexcept {
        if (fd_ >= 0) {
            const int saved = errno;
            ::close(fd_);
            errno = saved;
        }
        fd_ = fd;
    }
    /// A second descriptor for the same file, close-on-exec. Throws Error.
    UniqueFd dup() const {
        UniqueFd copy(::fcntl(fd_, F_DUPFD_CLOEXEC, 3));
        if (!copy) throw Error::from_errno(errno, "duplicate file descriptor");
        return copy;
    }

  private:
    int fd_ = -1;
};

} // namespace gantry
