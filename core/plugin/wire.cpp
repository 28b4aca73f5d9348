#include "core/plugin/wire.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

namespace gantry::wire {
namespace {

constexpr int kDepthLimit = 16;
constexpr size_t kFdLimit = 4;

struct Arena {
    std::deque<std::string> strings;
    std::deque<std::vector<gantry_value>> values;
    std::deque<std::vector<const char *>> keys;
    gantry_value root{};
};

gantry_value decode_into(Decoder &in, Arena &arena, int depth) {
    if (depth > kDepthLimit) throw Decoder::torn();
    gantry_value value{};
    in(value.type);
    switch (value.type) {
    case GANTRY_TYPE_BOOL: in(value.as.b); return value;
    case GANTRY_TYPE_INT:
    case GANTRY_TYPE_DURATION:
    case GANTRY_TYPE_SIZE: in(value.as.i); return value;
    case GANTRY_TYPE_FLOAT: in(value.as.f); return value;
    case GANTRY_TYPE_STRING:
        value.as.s = arena.strings.emplace_back(in.view(kBytesLimit)).c_str();
        return value;
    case GANTRY_TYPE_LIST:
    case GANTRY_TYPE_TABLE:
    case GANTRY_TYPE_MAP: break;
    default: throw Decoder::torn();
    }
    in(value.count);
    if (value.count > kFrameLimit / 8) throw Decoder::torn();
    std::vector<gantry_value> items;
    std::vector<const char *> keys;
    for (uint32_t i = 0; i < value.count; ++i) {
        if (value.type != GANTRY_TYPE_LIST)
            keys.push_back(arena.strings.emplace_back(in.view(kTextLimit)).c_str());
        items.push_back(decode_into(in, arena, depth + 1));
    }
    value.items = arena.values.emplace_back(std::move(items)).data();
    if (value.type != GANTRY_TYPE_LIST) value.keys = arena.keys.emplace_back(std::move(keys)).data();
    return value;
}

/// Waits until the socket is ready for `events`.
void await(int fd, short events, int64_t deadline_ns, const char *doing) {
    for (;;) {
        const int64_t left = deadline_ns ? deadline_ns - Call::now_ns() : 0;
        if (deadline_ns && left <= 0)
            throw Error(ErrorClass::kDeadline, std::string(doing) + ": the time given is over");
        pollfd p{fd, events, 0};
        const int n = ::poll(
            &p, 1, deadline_ns ? static_cast<int>(std::min<int64_t>(left / 1000000 + 1, 1 << 30)) : -1);
        if (n > 0) return;
        if (n < 0 && errno != EINTR) throw Error::from_errno(errno, doing);
    }
}

[[noreturn]] void gone() {
    throw Error(ErrorClass::kUnavailable, "talk to the plugin's process: it has ended");
}

} // namespace

void encode(Encoder &out, const gantry_value &value) {
    out(value.type);
    switch (value.type) {
    case GANTRY_TYPE_BOOL: out(value.as.b); return;
    case GANTRY_TYPE_INT:
    case GANTRY_TYPE_DURATION:
    case GANTRY_TYPE_SIZE: out(value.as.i); return;
    case GANTRY_TYPE_FLOAT: out(value.as.f); return;
    case GANTRY_TYPE_STRING: out(std::string_view(value.as.s)); return;
    case GANTRY_TYPE_LIST:
    case GANTRY_TYPE_TABLE:
    case GANTRY_TYPE_MAP: break;
    }
    out(value.count);
    for (uint32_t i = 0; i < value.count; ++i) {
        if (value.type != GANTRY_TYPE_LIST) out(std::string_view(value.keys[i]));
        encode(out, value.items[i]);
    }
}

std::shared_ptr<const gantry_value> decode_value(Decoder &in) {
    auto arena = std::make_shared<Arena>();
    arena->root = decode_into(in, *arena, 0);
    return {arena, &arena->root};
}

void encode(Encoder &out, const Error &error) {
    out(error.status());
    out(error.errno_value());
    // Cut here, not refused there.
    out(std::string_view(error.message()).substr(0, 8192));
    out(std::string_view(error.hint()).substr(0, 2048));
}

Error decode_error(Decoder &in) {
    const auto status = in.get<int32_t>(), error = in.get<int32_t>();
    auto message = in.get<std::string>(), hint = in.get<std::string>();
    in.end();
    if (status <= GANTRY_OK || status > GANTRY_INTERNAL) throw Decoder::torn();
    return {static_cast<ErrorClass>(status), std::move(message), std::move(hint), error};
}

std::pair<UniqueFd, UniqueFd> Channel::pair() {
    int fds[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0)
        throw Error::from_errno(errno, "make a channel to a plugin's process");
    return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

void Channel::send(Kind kind, std::string_view body, int64_t deadline_ns, const std::vector<int> &fds) {
    if (body.size() > kFrameLimit || fds.size() > kFdLimit)
        throw Error(ErrorClass::kInvalidArgument, "send message to a plugin's process: larger than 8 MiB");
    const std::array<uint32_t, 2> header{static_cast<uint32_t>(kind), static_cast<uint32_t>(body.size())};
    iovec parts[2] = {{const_cast<uint32_t *>(header.data()), sizeof header},
                      {const_cast<char *>(body.data()), body.size()}};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kFdLimit)] = {};
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = 2;
    if (!fds.empty()) { // they come with the header's first byte
        message.msg_control = control;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
        cmsghdr *c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
        std::memcpy(CMSG_DATA(c), fds.data(), sizeof(int) * fds.size());
    }
    while (message.msg_iovlen > 0) {
        const ssize_t n = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0) {
            if (errno == EAGAIN)
                await(socket_.get(), POLLOUT, deadline_ns, "send message to a plugin's process");
            else if (errno == EPIPE || errno == ECONNRESET)
                gone();
            else if (errno != EINTR)
                throw Error::from_errno(errno, "send message to a plugin's process");
            continue;
        }
        message.msg_control = nullptr;
        message.msg_controllen = 0;
        size_t sent = static_cast<size_t>(n);
        while (message.msg_iovlen > 0 && sent >= message.msg_iov->iov_len) {
            sent -= message.msg_iov->iov_len;
            ++message.msg_iov;
            --message.msg_iovlen;
        }
        if (message.msg_iovlen > 0) {
            message.msg_iov->iov_base = static_cast<char *>(message.msg_iov->iov_base) + sent;
            message.msg_iov->iov_len -= sent;
        }
    }
}

Frame Channel::receive(int64_t deadline_ns) {
    Frame frame;
    std::array<uint32_t, 2> header{};
    // True when there was something to read.
    const auto read_some = [&](char *to, size_t size) -> size_t {
        iovec part{to, size};
        alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kFdLimit)];
        msghdr message{};
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        message.msg_control = control;
        message.msg_controllen = sizeof control;
        const ssize_t n = ::recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
        if (n < 0) {
            if (errno == EAGAIN)
                await(socket_.get(), POLLIN, deadline_ns, "await message of a plugin's process");
            else if (errno == ECONNRESET)
                gone();
            else if (errno != EINTR)
                throw Error::from_errno(errno, "read message of a plugin's process");
            return 0;
        }
        if (n == 0) gone();
        for (cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
            if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
            const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            for (size_t i = 0; i < count; ++i) {
                int fd = -1;
                std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
                frame.fds.emplace_back(fd);
            }
        }
        return static_cast<size_t>(n);
    };
    for (size_t have = 0; have < sizeof header;)
        have += read_some(reinterpret_cast<char *>(header.data()) + have, sizeof header - have);
    if (header[0] == 0 || header[0] > static_cast<uint32_t>(Kind::kBlobOpen) || header[1] > kFrameLimit ||
        frame.fds.size() > kFdLimit)
        throw Decoder::torn();
    frame.kind = static_cast<Kind>(header[0]);
    // Grown as it comes: a length alone shall cost no memory.
    while (frame.body.size() < header[1]) {
        const size_t have = frame.body.size();
        frame.body.resize(std::min<size_t>(header[1], have + (256u << 10)));
        size_t got = have;
        while (got < frame.body.size())
            got += read_some(frame.body.data() + got, frame.body.size() - got);
    }
    return frame;
}

} // namespace gantry::wire
