// See netlink.h. Answers come in order, so a batch is done when its last message is answered.
#include "netlink.h"

#include <algorithm>
#include <arpa/inet.h>
#include <cstring>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

namespace gantry::bridge {

namespace {
constexpr size_t align4(size_t n) { return (n + 3) & ~size_t{3}; }
} // namespace

void Batch::append(const void *data, size_t size) {
    if (size != 0) {
        const auto *p = static_cast<const uint8_t *>(data);
        bytes_.insert(bytes_.end(), p, p + size);
    }
    bytes_.resize(align4(bytes_.size()));
}

void Batch::finish() {
    if (starts_.empty()) return;
    const auto length = static_cast<uint32_t>(bytes_.size() - starts_.back());
    std::memcpy(&bytes_[starts_.back()], &length, sizeof length);
}

void Batch::begin(uint16_t type, uint16_t flags) {
    finish();
    starts_.push_back(bytes_.size());
    nlmsghdr header{};
    header.nlmsg_type = type;
    header.nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags);
    append(&header, sizeof header);
}

Batch &Batch::put(uint16_t type, const void *data, size_t size) {
    const nlattr a{static_cast<uint16_t>(NLA_HDRLEN + size), type};
    append(&a, sizeof a);
    append(data, size);
    return *this;
}

Batch &Batch::put(uint16_t type, std::string_view text) {
    const std::string copy(text);
    return put(type, copy.c_str(), copy.size() + 1);
}

size_t Batch::open(uint16_t type, const void *header, size_t size) {
    const size_t place = bytes_.size();
    put(type, header, size);
    return place;
}

void Batch::close(size_t place) {
    const auto length = static_cast<uint16_t>(bytes_.size() - place);
    std::memcpy(&bytes_[place], &length, sizeof length);
}

uint32_t Attribute::u32() const noexcept {
    uint32_t v = 0;
    std::memcpy(&v, data, std::min(size, sizeof v));
    return v;
}

std::string Attribute::text() const {
    return {reinterpret_cast<const char *>(data), strnlen(reinterpret_cast<const char *>(data), size)};
}

void for_each_attribute(const void *data, size_t size, const std::function<void(const Attribute &)> &each) {
    const auto *p = static_cast<const uint8_t *>(data);
    while (size >= sizeof(nlattr)) {
        nlattr a;
        std::memcpy(&a, p, sizeof a);
        if (a.nla_len < sizeof a || a.nla_len > size) return;
        each({static_cast<uint16_t>(a.nla_type & NLA_TYPE_MASK), p + NLA_HDRLEN,
              size_t{a.nla_len} - NLA_HDRLEN});
        const size_t step = std::min(align4(a.nla_len), size);
        p += step;
        size -= step;
    }
}

Fd Netlink::open_socket(int protocol) {
    Fd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol));
    if (!fd) throw Error::from_errno(errno, "open netlink socket");
    // Answers without a copy of the request: a failed big batch would overflow the receive buffer.
    const int one = 1;
    ::setsockopt(fd.get(), SOL_NETLINK, NETLINK_CAP_ACK, &one, sizeof one);
    const int buffer = 8 << 20; // a published range is one message for each port
    if (::setsockopt(fd.get(), SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof buffer) != 0)
        ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
    const timeval limit{10, 0}; // the kernel answers at once; never hang on a lost answer
    ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    sockaddr_nl address{};
    address.nl_family = AF_NETLINK;
    if (::bind(fd.get(), reinterpret_cast<sockaddr *>(&address), sizeof address) != 0)
        throw Error::from_errno(errno, "bind netlink socket");
    return fd;
}

Netlink::Netlink(int protocol) : socket_(open_socket(protocol)) {}

uint32_t Netlink::send(Batch &batch) {
    batch.finish();
    const uint32_t first = sequence_;
    for (const size_t start : batch.starts_) {
        const uint32_t s = sequence_++;
        std::memcpy(&batch.bytes_[start + offsetof(nlmsghdr, nlmsg_seq)], &s, sizeof s);
    }
    sockaddr_nl kernel{};
    kernel.nl_family = AF_NETLINK;
    ssize_t n;
    do {
        n = ::sendto(socket_.get(), batch.bytes_.data(), batch.bytes_.size(), 0,
                     reinterpret_cast<sockaddr *>(&kernel), sizeof kernel);
    } while (n < 0 && errno == EINTR);
    if (n < 0) throw Error::from_errno(errno, "send netlink request");
    return first;
}

void Netlink::receive(uint32_t first, uint32_t last, const std::function<bool(const nlmsghdr &)> &each) {
    alignas(nlmsghdr) uint8_t buffer[32768];
    for (;;) {
        const ssize_t n = ::recv(socket_.get(), buffer, sizeof buffer, 0);
        if (n < 0) {
            if (errno == EINTR) continue;
            throw Error::from_errno(errno, "receive netlink answer");
        }
        auto left = static_cast<size_t>(n);
        const uint8_t *p = buffer;
        while (left >= sizeof(nlmsghdr)) {
            const auto &m = *reinterpret_cast<const nlmsghdr *>(p);
            if (m.nlmsg_len < sizeof m || m.nlmsg_len > left) break;
            // Answers to a request that was given up earlier are skipped.
            if (m.nlmsg_seq >= first && m.nlmsg_seq <= last && each(m)) return;
            const size_t step = std::min<size_t>(align4(m.nlmsg_len), left);
            p += step;
            left -= step;
        }
    }
}

namespace {
int errno_of(const nlmsghdr &m) {
    nlmsgerr e{};
    std::memcpy(&e, NLMSG_DATA(&m), std::min<size_t>(sizeof e, m.nlmsg_len - NLMSG_HDRLEN));
    return -e.error;
}
} // namespace

std::vector<int> Netlink::run(Batch &batch) {
    for (const size_t start : batch.starts_) {
        auto *flags = &batch.bytes_[start + offsetof(nlmsghdr, nlmsg_flags)];
        uint16_t f;
        std::memcpy(&f, flags, sizeof f);
        f |= NLM_F_ACK;
        std::memcpy(flags, &f, sizeof f);
    }
    const size_t count = batch.starts_.size();
    std::vector<int> result(count, 0);
    if (count == 0) return result;
    const uint32_t first = send(batch);
    size_t answered = 0;
    receive(first, first + static_cast<uint32_t>(count) - 1, [&](const nlmsghdr &m) {
        if (m.nlmsg_type != NLMSG_ERROR) return false;
        result[m.nlmsg_seq - first] = errno_of(m);
        return ++answered == count;
    });
    return result;
}

void Netlink::run(Batch &batch, std::string_view doing) {
    for (const int e : run(batch))
        if (e != 0) throw Error::from_errno(e, std::string(doing));
}

int Netlink::ask(Batch &request, const std::function<void(uint16_t, const uint8_t *, size_t)> &each) {
    const uint32_t first = send(request);
    int result = 0;
    receive(first, first, [&](const nlmsghdr &m) {
        if (m.nlmsg_type == NLMSG_ERROR) {
            result = errno_of(m);
            return true;
        }
        if (m.nlmsg_type == NLMSG_DONE) return true;
        each(m.nlmsg_type, static_cast<const uint8_t *>(NLMSG_DATA(&m)), m.nlmsg_len - NLMSG_HDRLEN);
        return (m.nlmsg_flags & NLM_F_MULTI) == 0;
    });
    return result;
}

int Netlink::transact(Batch &batch) {
    Batch all;
    nfgenmsg header{AF_UNSPEC, NFNETLINK_V0, htons(NFNL_SUBSYS_NFTABLES)};
    all.message(NFNL_MSG_BATCH_BEGIN, 0, header);
    all.finish();
    batch.finish();
    const size_t shift = all.bytes_.size();
    all.bytes_.insert(all.bytes_.end(), batch.bytes_.begin(), batch.bytes_.end());
    for (const size_t s : batch.starts_)
        all.starts_.push_back(s + shift);
    // Only the last message asks for an answer; one that fails answers anyway, before the ack of the end.
    const size_t last = all.starts_.back() + offsetof(nlmsghdr, nlmsg_flags);
    uint16_t flags;
    std::memcpy(&flags, &all.bytes_[last], sizeof flags);
    flags |= NLM_F_ACK;
    std::memcpy(&all.bytes_[last], &flags, sizeof flags);
    all.starts_.push_back(all.bytes_.size());
    nlmsghdr end{};
    end.nlmsg_type = NFNL_MSG_BATCH_END;
    end.nlmsg_flags = NLM_F_REQUEST;
    all.append(&end, sizeof end);
    all.append(&header, sizeof header);
    const uint32_t first = send(all);
    const uint32_t count = static_cast<uint32_t>(all.starts_.size());
    int result = 0;
    receive(first, first + count - 1, [&](const nlmsghdr &m) {
        if (m.nlmsg_type != NLMSG_ERROR) return false;
        const int e = errno_of(m);
        if (e != 0 && result == 0) result = e;
        return e != 0 || m.nlmsg_seq == first + count - 2;
    });
    return result;
}

} // namespace gantry::bridge
