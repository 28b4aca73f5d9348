#include "network_bench.h"

#include "core/base/files.h"

#include <algorithm>
#include <arpa/inet.h>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

namespace gantry::kit {

namespace {

void bring_up(int socket, const char *link, const char *address) {
    ifreq ask{};
    strncpy(ask.ifr_name, link, IFNAMSIZ - 1);
    if (address) {
        auto *to = reinterpret_cast<sockaddr_in *>(&ask.ifr_addr);
        to->sin_family = AF_INET;
        inet_pton(AF_INET, address, &to->sin_addr);
        if (ioctl(socket, SIOCSIFADDR, &ask) != 0) throw Error::from_errno(errno, "set address of the host");
        inet_pton(AF_INET, "255.255.255.0", &to->sin_addr);
        if (ioctl(socket, SIOCSIFNETMASK, &ask) != 0)
            throw Error::from_errno(errno, "set netmask of the host");
    }
    if (ioctl(socket, SIOCGIFFLAGS, &ask) != 0) throw Error::from_errno(errno, "read flags of a link");
    ask.ifr_flags |= IFF_UP;
    if (ioctl(socket, SIOCSIFFLAGS, &ask) != 0) throw Error::from_errno(errno, "bring a link up");
}

std::string text_of(const sockaddr *address) {
    char text[INET6_ADDRSTRLEN] = "";
    if (address->sa_family == AF_INET)
        inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in *>(address)->sin_addr, text, sizeof text);
    else
        inet_ntop(AF_INET6, &reinterpret_cast<const sockaddr_in6 *>(address)->sin6_addr, text, sizeof text);
    return text;
}

} // namespace

const Subject &on_own_host(const Subject &subject) {
    static const bool there = [] {
        if (unshare(CLONE_NEWNET) != 0)
            throw Skipped(std::string("no network namespace can be made: ") + strerror(errno));
        // Of the new namespace; the case has a mount namespace of its own.
        mount("sysfs", "/sys", "sysfs", 0, nullptr);
        const UniqueFd any(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        bring_up(any.get(), "lo", nullptr);
        if (ioctl(any.get(), SIOCBRADDBR, "out0") != 0) throw Error::from_errno(errno, "make a link");
        bring_up(any.get(), "out0", "192.0.2.1");
        return true;
    }();
    (void)there;
    return subject;
}

UniqueFd new_network_namespace() {
    UniqueFd out;
    int error = 0;
    std::thread([&] {
        if (unshare(CLONE_NEWNET) == 0)
            out.reset(open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
        else
            error = errno;
    }).join();
    if (!out) throw Error::from_errno(error, "make network namespace");
    return out;
}

void inside(int netns, const std::function<void()> &work) {
    std::exception_ptr failure;
    std::thread([&] {
        try {
            if (setns(netns, CLONE_NEWNET) != 0) throw Error::from_errno(errno, "enter network namespace");
            work();
        } catch (...) {
            failure = std::current_exception();
        }
    }).join();
    if (failure) std::rethrow_exception(failure);
}

std::string network_state() {
    std::set<std::string> lines;
    ifaddrs *list = nullptr;
    if (getifaddrs(&list) != 0) throw Error::from_errno(errno, "list links");
    for (const ifaddrs *one = list; one; one = one->ifa_next) {
        std::string line =
            std::string("link ") + one->ifa_name + ((one->ifa_flags & IFF_UP) ? " up" : " down");
        if (one->ifa_addr && (one->ifa_addr->sa_family == AF_INET || one->ifa_addr->sa_family == AF_INET6)) {
            line = std::string("address ") + text_of(one->ifa_addr) + " on " + one->ifa_name;
            if (line.find("fe80::") != line.npos) continue; // the kernel's own, some time after "up"
        }
        lines.insert(line);
    }
    freeifaddrs(list);
    bool found = false;
    std::string routes = read_file_if("/proc/thread-self/net/route", found);
    routes.erase(0, std::min(routes.find('\n'), routes.size() - 1) + 1);
    for (size_t at = 0; at < routes.size();) {
        const size_t end = std::min(routes.find('\n', at), routes.size());
        char link[32] = "";
        unsigned to = 0, via = 0;
        if (sscanf(routes.substr(at, end - at).c_str(), "%31s %x %x", link, &to, &via) == 3) {
            const in_addr a{to}, b{via};
            char x[INET_ADDRSTRLEN], y[INET_ADDRSTRLEN];
            inet_ntop(AF_INET, &a, x, sizeof x);
            inet_ntop(AF_INET, &b, y, sizeof y);
            lines.insert(std::string("route ") + x + " via " + y + " on " + link);
        }
        at = end + 1;
    }
    std::string out;
    for (const std::string &line : lines)
        out += line + "\n";
    return out;
}

gantry_network_caps NetworkBench::caps() {
    gantry_network_caps out{};
    out.struct_size = sizeof out;
    const RecordedCall call;
    call.require_ok(table<gantry_network_v1>().caps(driver(), call.raw(), &out), "caps");
    return out;
}

gantry_status NetworkBench::create_network(const RecordedCall &call, const NetworkSpec &spec,
                                           std::vector<Subnet> &out) {
    const detail::NetworkSpecToC raw(spec);
    gantry_subnet_sink sink{sizeof sink, 0, &out,
                            [](void *ctx, const gantry_subnet *subnet) -> gantry_status {
                                if (!subnet || subnet->struct_size < sizeof *subnet || !subnet->cidr ||
                                    !subnet->gateway || !subnet->range)
                                    return GANTRY_INTERNAL;
                                static_cast<std::vector<Subnet> *>(ctx)->push_back(detail::from_c(*subnet));
                                return GANTRY_OK;
                            }};
    return table<gantry_network_v1>().create_network(driver(), call.raw(), &raw.raw, &sink);
}

gantry_status NetworkBench::remove_network(const RecordedCall &call, const NetworkSpec &spec) {
    const detail::NetworkSpecToC raw(spec);
    return table<gantry_network_v1>().remove_network(driver(), call.raw(), &raw.raw);
}

gantry_status NetworkBench::attach(const RecordedCall &call, const EndpointSpec &spec, EndpointInfo &out) {
    const detail::EndpointSpecToC raw(spec);
    struct Answer {
        EndpointInfo info;
        int count = 0;
    } answer;
    gantry_endpoint_sink sink{
        sizeof sink, 0, &answer, [](void *ctx, const gantry_endpoint_info *info) -> gantry_status {
            if (!info || info->struct_size < sizeof *info || !info->ipv4 || !info->ipv4_gateway ||
                !info->ipv6 || !info->ipv6_gateway || !info->mac || !info->host_interface)
                return GANTRY_INTERNAL;
            auto &a = *static_cast<Answer *>(ctx);
            a.info = detail::from_c(*info);
            ++a.count;
            return GANTRY_OK;
        }};
    const gantry_status status = table<gantry_network_v1>().attach(driver(), call.raw(), &raw.raw, &sink);
    require(status != GANTRY_OK || answer.count == 1,
            "attach: the endpoint was settled " + std::to_string(answer.count) + " times");
    out = answer.info;
    return status;
}

gantry_status NetworkBench::detach(const RecordedCall &call, const EndpointSpec &spec) {
    const detail::EndpointSpecToC raw(spec);
    return table<gantry_network_v1>().detach(driver(), call.raw(), &raw.raw);
}

gantry_status NetworkBench::publish(const RecordedCall &call, const Container &container,
                                    const std::vector<PortBinding> &ports, std::vector<PortBinding> &out) {
    std::vector<gantry_port> raw;
    for (const PortBinding &port : ports)
        raw.push_back(detail::to_c(port));
    const gantry_endpoint_info info = detail::to_c(container.state.info);
    gantry_port_sink sink{sizeof sink, 0, &out, [](void *ctx, const gantry_port *port) -> gantry_status {
                              if (!port || port->struct_size < sizeof *port || !port->host_ip)
                                  return GANTRY_INTERNAL;
                              static_cast<std::vector<PortBinding> *>(ctx)->push_back(detail::from_c(*port));
                              return GANTRY_OK;
                          }};
    return table<gantry_network_v1>().publish(driver(), call.raw(), container.state.spec.id.c_str(), &info,
                                              raw.data(), static_cast<uint32_t>(raw.size()), &sink);
}

gantry_status NetworkBench::restore(const RecordedCall &call, const std::vector<NetworkSpec> &networks,
                                    const std::vector<const Container *> &containers) {
    std::deque<detail::NetworkSpecToC> specs;
    std::vector<const gantry_network_spec *> network_list;
    for (const NetworkSpec &one : networks)
        network_list.push_back(&specs.emplace_back(one).raw);
    struct One {
        detail::EndpointSpecToC spec;
        gantry_endpoint_info info;
        std::vector<gantry_port> ports;
        gantry_endpoint_state raw{};
        explicit One(const EndpointState &from) : spec(from.spec), info(detail::to_c(from.info)) {
            for (const PortBinding &port : from.ports)
                ports.push_back(detail::to_c(port));
            raw.struct_size = sizeof raw;
            raw.port_count = static_cast<uint32_t>(ports.size());
            raw.spec = &spec.raw;
            raw.info = &info;
            raw.ports = ports.data();
        }
    };
    std::deque<One> states;
    std::vector<const gantry_endpoint_state *> endpoint_list;
    for (const Container *one : containers)
        endpoint_list.push_back(&states.emplace_back(one->state).raw);
    gantry_network_state state{};
    state.struct_size = sizeof state;
    state.network_count = static_cast<uint32_t>(network_list.size());
    state.networks = network_list.data();
    state.endpoints = endpoint_list.data();
    state.endpoint_count = static_cast<uint32_t>(endpoint_list.size());
    return table<gantry_network_v1>().restore(driver(), call.raw(), &state);
}

gantry_status NetworkBench::stats(const RecordedCall &call, const EndpointSpec &spec, NetworkStats &out) {
    const detail::EndpointSpecToC raw(spec);
    gantry_network_stats s{};
    s.struct_size = sizeof s;
    const gantry_status status = table<gantry_network_v1>().stats(driver(), call.raw(), &raw.raw, &s);
    out = {s.rx_bytes, s.rx_packets, s.rx_errors, s.rx_dropped,
           s.tx_bytes, s.tx_packets, s.tx_errors, s.tx_dropped};
    return status;
}

gantry_status NetworkBench::clean(const RecordedCall &call) {
    return table<gantry_network_v1>().clean(driver(), call.raw());
}

void NetworkBench::make() {
    const RecordedCall call;
    std::vector<Subnet> settled;
    call.require_ok(create_network(call, network, settled), "create_network");
    require(!settled.empty(), "create_network: no subnet was settled");
    network.subnets = settled;
}

Container NetworkBench::join(int n) {
    Container out;
    out.state.spec = endpoint_spec(*this, n, out.netns.get());
    const RecordedCall call;
    call.require_ok(attach(call, out.state.spec, out.state.info), "attach");
    return out;
}

void NetworkBench::part(const Container &container) {
    const RecordedCall call;
    call.require_ok(detach(call, container.state.spec), "detach");
}

void NetworkBench::settle(Container &container, const std::vector<PortBinding> &ports) {
    const RecordedCall call;
    container.state.ports.clear();
    call.require_ok(publish(call, container, ports, container.state.ports), "publish");
}

void NetworkBench::recover(const std::vector<const Container *> &containers) {
    const RecordedCall call;
    call.require_ok(restore(call, {network}, containers), "restore");
}

EndpointSpec endpoint_spec(const NetworkBench &bench, int n, int netns) {
    EndpointSpec spec;
    const std::string number = std::to_string(1000 + n);
    spec.id = number + std::string(60, 'e'); // ids differ early: drivers name links after them
    spec.network_id = bench.network.id;
    spec.netns_fd = netns;
    spec.hostname = "c" + number;
    return spec;
}

PortBinding published(uint16_t host, uint16_t container, const std::string &ip) {
    PortBinding port;
    port.host_ip = ip;
    port.host_port = port.host_port_end = host;
    port.container_port = container;
    return port;
}

UniqueFd listen_in(int netns, uint16_t port) {
    UniqueFd out;
    inside(netns, [&] {
        out.reset(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_in at{};
        at.sin_family = AF_INET;
        at.sin_port = htons(port);
        if (bind(out.get(), reinterpret_cast<sockaddr *>(&at), sizeof at) != 0 || listen(out.get(), 16) != 0)
            throw Error::from_errno(errno, "listen in a container");
    });
    return out;
}

bool reaches(const std::string &address, uint16_t port, const UniqueFd &server) {
    const UniqueFd client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(port);
    inet_pton(AF_INET, address.c_str(), &to.sin_addr);
    if (connect(client.get(), reinterpret_cast<sockaddr *>(&to), sizeof to) < 0 && errno != EINPROGRESS)
        return false;
    // The far end knows when it came through; a refusal shows at this end.
    pollfd both[2] = {{server.get(), POLLIN, 0}, {client.get(), POLLERR | POLLHUP, 0}};
    for (int left = 2000; left > 0; left -= 200) {
        if (poll(both, 2, 200) <= 0) continue;
        if (both[0].revents & POLLIN) {
            const UniqueFd accepted(accept4(server.get(), nullptr, nullptr, SOCK_CLOEXEC));
            return true;
        }
        if (both[1].revents & (POLLERR | POLLHUP)) return false;
    }
    return false;
}

} // namespace gantry::kit
