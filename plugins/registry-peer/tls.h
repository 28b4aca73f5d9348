// TLS 1.3 with an external pre-shared key and a Diffie-Hellman exchange: both sides prove that they know the
// site's secret, and what was recorded stays secret even if it is learnt later. No certificates, no tickets,
// no early data.
#pragma once

#include <gantry/fd.hpp>

#include <cstdint>
#include <memory>
#include <string>

namespace gantry::peer {

/// How long to wait, and for what to stop waiting.
struct Patience {
    int64_t until_ns = 0; // CLOCK_MONOTONIC; 0: for ever
    int stop_fd = -1;     // readable: stop, with kCancelled
};

/// Waits until the socket is ready for `events` (poll). kDeadline, kCancelled.
void await(int fd, short events, const Patience &patience, const char *doing);

/// Both roles of one key. Thread-safe.
class TlsKey {
  public:
    explicit TlsKey(std::string key); // 32 bytes
    ~TlsKey();
    TlsKey(const TlsKey &) = delete;
    TlsKey &operator=(const TlsKey &) = delete;
    struct Impl;
    Impl &impl() const noexcept { return *impl_; }

  private:
    std::unique_ptr<Impl> impl_;
};

/// A connection of which the other end has proved the key. Not thread-safe. Failures are kUnavailable, but
/// for kPermissionDenied when a handshake fails (it has another secret), kDeadline and kCancelled.
class TlsStream {
  public:
    enum class Role { kServer, kClient };
    /// Takes a connected, non-blocking socket and shakes hands.
    TlsStream(const TlsKey &key, UniqueFd socket, Role role, const Patience &patience);
    ~TlsStream();
    TlsStream(TlsStream &&) noexcept;

    /// 0: the other end closed the connection in order.
    size_t read(void *buffer, size_t size, const Patience &patience);
    void write(const void *data, size_t size, const Patience &patience);

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

} // namespace gantry::peer
