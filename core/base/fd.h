// Owning file descriptor and the few syscalls around it that everybody needs.
#pragma once

#include <string>
#include <string_view>
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
    void reset(int fd = -1) noexcept;
    /// A second descriptor for the same file, close-on-exec. Throws Error.
    UniqueFd dup() const;

  private:
    int fd_ = -1;
};

/// Writes all bytes, over EINTR and short writes. Throws Error("write <what>: ...").
void write_all(int fd, std::string_view bytes, std::string_view what);
/// Reads to the end of file, at most `limit` bytes; more is Error(kInvalidArgument).
std::string read_all(int fd, size_t limit, std::string_view what);

} // namespace gantry
