#include "rtnetlink.h"

#include <arpa/inet.h>
#include <cstdio>
#include <cstring>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>
#include <sys/socket.h>
#include <thread>

namespace {

using Bytes = std::vector<uint8_t>;

void append(Bytes &out, const void *data, size_t size) {
    out.resize((out.size() + 3) & ~size_t{3});
    const auto *bytes = static_cast<const uint8_t *>(data);
    out.insert(out.end(), bytes, bytes + size);
}
template <typename Header> Bytes message(uint16_t type, uint16_t flags, const Header &header) {
    nlmsghdr head{};
    head.nlmsg_type = type;
    head.nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags);
    Bytes out;
    append(out, &head, sizeof head);
    append(out, &header, sizeof header);
    return out;
}
void put(Bytes &out, unsigned type, const void *data, size_t size) {
    const rtattr head{static_cast<unsigned short>(RTA_LENGTH(size)), static_cast<unsigned short>(type)};
    append(out, &head, sizeof head);
    append(out, data, size);
}
void put(Bytes &out, unsigned type, uint32_t value) { put(out, type, &value, sizeof value); }
void put(Bytes &out, unsigned type, const std::string &text) {
    put(out, type, text.c_str(), text.size() + 1);
}
/// An attribute of attributes; close it with its place.
size_t open(Bytes &out, unsigned type) {
    put(out, type, nullptr, 0);
    return out.size() - sizeof(rtattr);
}
void close(Bytes &out, size_t place) {
    const auto size = static_cast<unsigned short>(out.size() - place);
    std::memcpy(out.data() + place, &size, sizeof size);
}

} // namespace

Rtnetlink::Rtnetlink(int netns_fd) {
    int error = 0;
    const auto make = [&] {
        if (netns_fd >= 0 && ::setns(netns_fd, CLONE_NEWNET) != 0) {
            error = errno;
            return;
        }
        socket_.reset(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
        if (!socket_) error = errno;
    };
    if (netns_fd >= 0)
        std::thread(make).join(); // setns moves the calling thread, and there is no sure way back
    else
        make();
    if (error != 0) throw gantry::Error::from_errno(error, "open a netlink socket");
    const timeval limit{5, 0}; // the kernel answers at once; whatever happens, a call must end
    ::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
}

int Rtnetlink::ask(Bytes request, Bytes *answer) {
    auto *head = reinterpret_cast<nlmsghdr *>(request.data());
    head->nlmsg_len = static_cast<uint32_t>(request.size());
    head->nlmsg_seq = ++sequence_;
    if (!answer) head->nlmsg_flags |= NLM_F_ACK;
    if (::send(socket_.get(), request.data(), request.size(), 0) < 0) return errno;
    Bytes buffer(64 << 10);
    for (;;) {
        const ssize_t n = ::recv(socket_.get(), buffer.data(), buffer.size(), 0);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return errno;
        auto left = static_cast<unsigned>(n);
        for (auto *m = reinterpret_cast<nlmsghdr *>(buffer.data()); NLMSG_OK(m, left);
             m = NLMSG_NEXT(m, left)) {
            if (m->nlmsg_seq != sequence_) continue;
            if (m->nlmsg_type == NLMSG_ERROR) return -static_cast<nlmsgerr *>(NLMSG_DATA(m))->error;
            if (answer) {
                const auto *bytes = reinterpret_cast<const uint8_t *>(m);
                answer->assign(bytes, bytes + m->nlmsg_len);
                return 0;
            }
        }
    }
}

Rtnetlink::Link Rtnetlink::find(const std::string &name) {
    Bytes request = message(RTM_GETLINK, 0, ifinfomsg{}), answer;
    put(request, IFLA_IFNAME, name);
    const int error = ask(std::move(request), &answer);
    if (error == ENODEV) return {};
    if (error != 0) throw gantry::Error::from_errno(error, "look for link " + name);
    auto *head = reinterpret_cast<nlmsghdr *>(answer.data());
    auto *info = static_cast<ifinfomsg *>(NLMSG_DATA(head));
    Link out;
    out.index = info->ifi_index;
    auto left = static_cast<unsigned>(IFLA_PAYLOAD(head));
    for (auto *a = IFLA_RTA(info); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
        if (a->rta_type == IFLA_MTU && RTA_PAYLOAD(a) >= sizeof out.mtu)
            std::memcpy(&out.mtu, RTA_DATA(a), sizeof out.mtu);
        if (a->rta_type == IFLA_ADDRESS && RTA_PAYLOAD(a) == 6) {
            const auto *b = static_cast<const uint8_t *>(RTA_DATA(a));
            char text[18];
            std::snprintf(text, sizeof text, "%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], b[4],
                          b[5]);
            out.mac = text;
        }
        // Only what every kernel has; later ones append to the struct.
        uint64_t n[8];
        if (a->rta_type != IFLA_STATS64 || RTA_PAYLOAD(a) < sizeof n) continue;
        std::memcpy(n, RTA_DATA(a), sizeof n);
        out.stats = {n[2], n[0], n[4], n[6], n[3], n[1], n[5], n[7]};
    }
    return out;
}

int Rtnetlink::add_macvlan(int parent, int netns_fd, const std::string &name,
                           const std::array<uint8_t, 6> &mac) {
    Bytes request = message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, ifinfomsg{});
    put(request, IFLA_IFNAME, name);
    put(request, IFLA_ADDRESS, mac.data(), mac.size());
    put(request, IFLA_LINK, static_cast<uint32_t>(parent));
    put(request, IFLA_NET_NS_FD, static_cast<uint32_t>(netns_fd));
    const size_t info = open(request, IFLA_LINKINFO);
    put(request, IFLA_INFO_KIND, std::string("macvlan"));
    const size_t data = open(request, IFLA_INFO_DATA);
    put(request, IFLA_MACVLAN_MODE, static_cast<uint32_t>(MACVLAN_MODE_BRIDGE));
    close(request, data);
    close(request, info);
    return ask(std::move(request));
}

void Rtnetlink::set_up(int link, const std::string &doing) {
    ifinfomsg info{};
    info.ifi_index = link;
    info.ifi_flags = info.ifi_change = IFF_UP;
    if (const int error = ask(message(RTM_NEWLINK, 0, info)))
        throw gantry::Error::from_errno(error, doing + ": bring the link up");
}

void Rtnetlink::add_address(int link, uint32_t address, unsigned prefix, const std::string &doing) {
    ifaddrmsg info{};
    info.ifa_family = AF_INET;
    info.ifa_prefixlen = static_cast<unsigned char>(prefix);
    info.ifa_index = static_cast<unsigned>(link);
    Bytes request = message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, info);
    put(request, IFA_LOCAL, htonl(address));
    put(request, IFA_ADDRESS, htonl(address));
    if (const int error = ask(std::move(request)))
        throw gantry::Error::from_errno(error, doing + ": set the address");
}

void Rtnetlink::add_default_route(int link, uint32_t gateway, const std::string &doing) {
    rtmsg info{};
    info.rtm_family = AF_INET;
    info.rtm_table = RT_TABLE_MAIN;
    info.rtm_protocol = RTPROT_STATIC;
    info.rtm_scope = RT_SCOPE_UNIVERSE;
    info.rtm_type = RTN_UNICAST;
    Bytes request = message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, info);
    put(request, RTA_GATEWAY, htonl(gateway));
    put(request, RTA_OIF, static_cast<uint32_t>(link));
    if (const int error = ask(std::move(request)))
        throw gantry::Error::from_errno(error, doing + ": set the default route");
}

void Rtnetlink::remove(int link, const std::string &doing) {
    ifinfomsg info{};
    info.ifi_index = link;
    const int error = ask(message(RTM_DELLINK, 0, info));
    if (error != 0 && error != ENODEV) throw gantry::Error::from_errno(error, doing + ": remove the link");
}
