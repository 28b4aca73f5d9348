// A world of its own for one test: the test's process becomes a host in a fresh network namespace, with
// another host on a cable. Nothing of the real machine's network is seen or touched.
#pragma once

#include "core/base/cancel.h"
#include "core/base/fd.h"
#include "core/base/ids.h"
#include "plugins/net-bridge/driver.h"

#include <arpa/inet.h>
#include <cstdio>
#include <fcntl.h>
#include <filesystem>
#include <functional>
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <string>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

namespace world {

using namespace gantry;

inline std::string shell(const std::string &command) {
    std::string out;
    FILE *p = ::popen((command + " 2>&1").c_str(), "r");
    char buffer[4096];
    for (size_t n; p && (n = fread(buffer, 1, sizeof buffer, p)) > 0;)
        out.append(buffer, n);
    const int status = p ? ::pclose(p) : -1;
    if (status != 0) ADD_FAILURE() << command << ": " << out;
    return out;
}

inline UniqueFd current_namespace() {
    return UniqueFd(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
}

inline UniqueFd new_namespace() {
    UniqueFd fd;
    std::thread([&] {
        if (::unshare(CLONE_NEWNET) == 0) fd = current_namespace();
    }).join();
    EXPECT_GE(fd.get(), 0);
    return fd;
}

template <typename F> void inside(int ns, F work) {
    std::thread([&] {
        ASSERT_EQ(::setns(ns, CLONE_NEWNET), 0);
        work();
    }).join();
}

inline std::string shell_in(int ns, const std::string &command) {
    return shell("nsenter --net=/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(ns) + " " +
                 command);
}

struct Name {
    sockaddr_storage raw{};
    socklen_t size = 0;
    Name(const std::string &address, uint16_t port) {
        if (address.find(':') == std::string::npos) {
            auto *a = reinterpret_cast<sockaddr_in *>(&raw);
            a->sin_family = AF_INET;
            a->sin_port = htons(port);
            ::inet_pton(AF_INET, address.c_str(), &a->sin_addr);
            size = sizeof *a;
        } else {
            auto *a = reinterpret_cast<sockaddr_in6 *>(&raw);
            a->sin6_family = AF_INET6;
            a->sin6_port = htons(port);
            ::inet_pton(AF_INET6, address.c_str(), &a->sin6_addr);
            size = sizeof *a;
        }
    }
    explicit Name(const sockaddr_storage &r) : raw(r), size(sizeof r) {}
    sockaddr *get() { return reinterpret_cast<sockaddr *>(&raw); }
    std::string address() const {
        char text[INET6_ADDRSTRLEN] = "";
        if (raw.ss_family == AF_INET)
            ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in *>(&raw)->sin_addr, text, sizeof text);
        else
            ::inet_ntop(AF_INET6, &reinterpret_cast<const sockaddr_in6 *>(&raw)->sin6_addr, text,
                        sizeof text);
        return text;
    }
};

/// A socket that lives in the namespace.
inline UniqueFd socket_in(int ns, int family, int type) {
    UniqueFd fd;
    inside(ns, [&] { fd = UniqueFd(::socket(family, type | SOCK_CLOEXEC, 0)); });
    const timeval limit{2, 0};
    ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    return fd;
}

inline UniqueFd serve(int ns, int type, uint16_t port, const std::string &address = "0.0.0.0") {
    Name name(address, port);
    UniqueFd fd = socket_in(ns, name.raw.ss_family, type);
    const int one = 1;
    ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    EXPECT_EQ(::bind(fd.get(), name.get(), name.size), 0) << strerror(errno);
    if (type == SOCK_STREAM && ::listen(fd.get(), 64) != 0) ADD_FAILURE() << strerror(errno);
    return fd;
}

/// "" when the server was not reached, otherwise the client's address as the server saw it.
inline std::string reach_tcp(int ns, const std::string &address, uint16_t port, const UniqueFd &server) {
    Name to(address, port);
    // What an earlier attempt that was given up left in the queue is not ours.
    for (pollfd old{server.get(), POLLIN, 0}; ::poll(&old, 1, 0) > 0;)
        UniqueFd(::accept(server.get(), nullptr, nullptr));
    const UniqueFd client = socket_in(ns, to.raw.ss_family, SOCK_STREAM);
    if (::connect(client.get(), to.get(), to.size) != 0) return {};
    pollfd p{server.get(), POLLIN, 0};
    if (::poll(&p, 1, 1500) <= 0) return {};
    sockaddr_storage peer{};
    socklen_t size = sizeof peer;
    const UniqueFd accepted(
        ::accept4(server.get(), reinterpret_cast<sockaddr *>(&peer), &size, SOCK_CLOEXEC));
    const timeval limit{2, 0};
    ::setsockopt(accepted.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    // Half-close both ways: the relay has to pass on the end of each direction on its own.
    char buffer[16] = "";
    if (::send(client.get(), "ping", 4, MSG_NOSIGNAL) != 4) return {};
    ::shutdown(client.get(), SHUT_WR);
    if (::recv(accepted.get(), buffer, 4, MSG_WAITALL) != 4 || ::recv(accepted.get(), buffer, 1, 0) != 0)
        return {};
    if (::send(accepted.get(), "pong", 4, MSG_NOSIGNAL) != 4) return {};
    ::shutdown(accepted.get(), SHUT_WR);
    if (::recv(client.get(), buffer, 4, MSG_WAITALL) != 4 || std::string(buffer, 4) != "pong") return {};
    if (::recv(client.get(), buffer, 1, 0) != 0) return {};
    return Name(peer).address();
}

inline std::string reach_udp(int ns, const std::string &address, uint16_t port, const UniqueFd &server) {
    Name to(address, port);
    const UniqueFd client = socket_in(ns, to.raw.ss_family, SOCK_DGRAM);
    if (::connect(client.get(), to.get(), to.size) != 0) return {};
    char buffer[16] = "";
    if (::send(client.get(), "ping", 4, 0) != 4) return {};
    pollfd p{server.get(), POLLIN, 0};
    if (::poll(&p, 1, 1500) <= 0) return {};
    sockaddr_storage peer{};
    socklen_t size = sizeof peer;
    if (::recvfrom(server.get(), buffer, 4, 0, reinterpret_cast<sockaddr *>(&peer), &size) != 4) return {};
    if (::sendto(server.get(), "pong", 4, 0, reinterpret_cast<sockaddr *>(&peer), size) != 4) return {};
    if (::recv(client.get(), buffer, 4, 0) != 4) return {};
    return Name(peer).address();
}

struct Engine {
    std::string folder, id;
    bridge::Settings settings;
    NetworkSpec network;
    std::unique_ptr<NetworkDriver> driver;
    CallScope call;

    explicit Engine(const std::string &engine_id = "test0001") : id(engine_id) {
        folder = (std::filesystem::temp_directory_path() / "gantry-net-XXXXXX").string();
        EXPECT_NE(::mkdtemp(folder.data()), nullptr);
        network.id = new_id();
        network.name = "bridge";
        settings.subnet = "10.88.0.0/16";
    }
    void start() {
        driver = bridge::make_driver({folder, folder, GANTRY_BINARY_DIR "/lib/gantry", id}, settings);
        network.subnets = driver->create_network(call, network);
    }
    void restart() { // as after kill -9: nothing is said to the old one
        driver.reset();
        driver = bridge::make_driver({folder, folder, GANTRY_BINARY_DIR "/lib/gantry", id}, settings);
    }
    ~Engine() {
        if (driver) driver->clean(call);
        std::filesystem::remove_all(folder);
    }
};

struct Container {
    UniqueFd ns = new_namespace();
    EndpointState state;
    explicit Container(Engine &engine) {
        state.spec.id = new_id();
        state.spec.network_id = engine.network.id;
        state.spec.netns_fd = ns.get();
        state.info = engine.driver->attach(engine.call, state.spec);
    }
    std::vector<PortBinding> publish(Engine &engine, const std::vector<PortBinding> &ports) {
        return state.ports = engine.driver->publish(engine.call, state.spec.id, state.info, ports);
    }
};

inline PortBinding port(uint16_t host, uint16_t container, const std::string &ip = "",
                        gantry_protocol protocol = GANTRY_TCP, uint16_t end = 0) {
    PortBinding p;
    p.protocol = protocol;
    p.host_ip = ip;
    p.host_port = host;
    p.host_port_end = end == 0 ? host : end;
    p.container_port = container;
    return p;
}

/// 192.0.2.1 and fd00:2::1 are this host, .2 and ::2 the other one.
class World : public ::testing::Test {
  protected:
    UniqueFd host, other;
    void SetUp() override {
        if (::geteuid() != 0) GTEST_SKIP() << "needs root: network namespaces";
        ASSERT_EQ(::unshare(CLONE_NEWNET), 0) << strerror(errno);
        host = current_namespace();
        other = new_namespace();
        shell("ip link set lo up");
        shell("ip link add out0 type veth peer name c0 netns /proc/" + std::to_string(::getpid()) + "/fd/" +
              std::to_string(other.get()));
        shell("ip addr add 192.0.2.1/24 dev out0; ip addr add fd00:2::1/64 dev out0 nodad; ip link set out0 "
              "up");
        shell_in(other.get(), "sh -c 'ip link set lo up; ip addr add 192.0.2.2/24 dev c0; "
                              "ip addr add fd00:2::2/64 dev c0 nodad; ip link set c0 up'");
    }
};

} // namespace world
