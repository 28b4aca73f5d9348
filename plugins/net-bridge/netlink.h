// Netlink without a library: one message is a byte vector, one batch is one sendmsg with one answer for
// each message. A published port costs a few microseconds this way; libnl and libnftables cost
// hundreds. A socket belongs to the namespace in which it was opened, for ever.
#pragma once

#include <gantry/fd.hpp>

#include <cstdint>
#include <functional>
#include <linux/netlink.h>
#include <string>
#include <string_view>
#include <vector>

namespace gantry::bridge {

using Fd = UniqueFd;

/// Consecutive netlink messages.
class Batch {
  public:
    /// Starts a message with its family header; NLM_F_REQUEST is implied.
    template <typename Header> Batch &message(uint16_t type, uint16_t flags, const Header &header) {
        begin(type, flags);
        append(&header, sizeof header);
        return *this;
    }
    Batch &put(uint16_t type, const void *data, size_t size);
    Batch &put(uint16_t type, std::string_view text); // zero-terminated
    Batch &put_u32(uint16_t type, uint32_t value) { return put(type, &value, sizeof value); }
    Batch &put_u16(uint16_t type, uint16_t value) { return put(type, &value, sizeof value); }
    Batch &put_u8(uint16_t type, uint8_t value) { return put(type, &value, sizeof value); }
    /// Opens a nested attribute, whose payload may begin with a fixed header; returns its place for close().
    size_t open(uint16_t type, const void *header = nullptr, size_t size = 0);
    void close(size_t place);

    size_t count() const noexcept { return starts_.size(); }
    bool empty() const noexcept { return starts_.empty(); }

  private:
    friend class Netlink;
    void begin(uint16_t type, uint16_t flags);
    void append(const void *data, size_t size);
    void finish();
    std::vector<uint8_t> bytes_;
    std::vector<size_t> starts_;
};

/// One attribute of an answer.
struct Attribute {
    uint16_t type = 0;
    const uint8_t *data = nullptr;
    size_t size = 0;
    uint32_t u32() const noexcept;
    std::string text() const;
};
/// Calls `each` for every attribute that lies wholly within the bytes.
void for_each_attribute(const void *data, size_t size, const std::function<void(const Attribute &)> &each);

/// Not thread-safe: one user at a time.
class Netlink {
  public:
    explicit Netlink(int protocol);
    explicit Netlink(Fd socket) : socket_(std::move(socket)) {}
    static Fd open_socket(int protocol); // throws Error

    /// Sends the batch, each message with NLM_F_ACK; gives one errno (0: done) for each message.
    std::vector<int> run(Batch &batch);
    /// The same; throws for the first message that failed: "<doing>: <errno>".
    void run(Batch &batch, std::string_view doing);
    /// One request; `each` gets every answer's payload (family header included). Returns its errno.
    int ask(Batch &request, const std::function<void(uint16_t type, const uint8_t *, size_t)> &each);
    /// An nftables transaction: `batch` between begin and end messages. Returns the first errno.
    int transact(Batch &batch);

  private:
    uint32_t send(Batch &batch);
    /// Calls `each` for every message of this sequence range until it returns true.
    void receive(uint32_t first, uint32_t last, const std::function<bool(const nlmsghdr &)> &each);
    Fd socket_;
    uint32_t sequence_ = 1;
};

} // namespace gantry::bridge
