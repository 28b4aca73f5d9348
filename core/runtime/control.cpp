// See control.h. A packet that is cut or has no message counts as the end of the connection.
#include "core/runtime/control.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <poll.h>
#include <sys/socket.h>

namespace gantry {

void send_packet(int fd, uint32_t command, uint32_t a, uint32_t b, const std::string &text,
                 const std::vector<int> &fds) {
    plan::Message message{};
    message.command = command, message.a = a, message.b = b, message.length = uint32_t(text.size());
    iovec parts[2] = {{&message, sizeof message}, {const_cast<char *>(text.data()), text.size()}};
    msghdr header{};
    header.msg_iov = parts, header.msg_iovlen = text.empty() ? 1 : 2;
    alignas(cmsghdr) char space[CMSG_SPACE(4 * sizeof(int))] = {};
    if (!fds.empty()) {
        header.msg_control = space, header.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
        cmsghdr *control = CMSG_FIRSTHDR(&header);
        control->cmsg_level = SOL_SOCKET, control->cmsg_type = SCM_RIGHTS;
        control->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
        memcpy(CMSG_DATA(control), fds.data(), fds.size() * sizeof(int));
    }
    if (sendmsg(fd, &header, MSG_NOSIGNAL) < 0) throw Error::from_errno(errno, "talk to shim");
}

bool receive_packet(int fd, Packet &packet, int timeout_ms) {
    pollfd wait{fd, POLLIN, 0};
    int ready;
    do
        ready = poll(&wait, 1, timeout_ms);
    while (ready < 0 && errno == EINTR);
    if (ready == 0) throw Error(ErrorClass::kDeadline, "wait for shim: no answer");
    char text[plan::kMaxText + 1];
    iovec parts[2] = {{&packet.message, sizeof packet.message}, {text, plan::kMaxText}};
    msghdr header{};
    header.msg_iov = parts, header.msg_iovlen = 2;
    alignas(cmsghdr) char space[CMSG_SPACE(8 * sizeof(int))];
    header.msg_control = space, header.msg_controllen = sizeof space;
    ssize_t n;
    do
        n = recvmsg(fd, &header, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n <= 0) return false;
    for (cmsghdr *c = CMSG_FIRSTHDR(&header); c; c = CMSG_NXTHDR(&header, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int got;
            memcpy(&got, CMSG_DATA(c) + i * sizeof(int), sizeof got);
            packet.fds.emplace_back(got);
        }
    }
    if (size_t(n) < sizeof packet.message) return false;
    packet.text.assign(text, std::min<size_t>(packet.message.length, size_t(n) - sizeof packet.message));
    return true;
}

sockaddr_un control_address(int dir) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/ctl.sock", dir);
    return address;
}

} // namespace gantry
