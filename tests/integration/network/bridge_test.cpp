// Who reaches a published port from where, who does not, and what is left of it after restart and clean.
#include "world.h"

#include <chrono>
#include <mutex>
#include <set>

using namespace world;

namespace {

ErrorClass class_of(const std::function<void()> &work, std::string *message = nullptr) {
    try {
        work();
    } catch (const Error &e) {
        if (message) *message = e.message();
        return e.error_class();
    }
    return ErrorClass(GANTRY_OK);
}

} // namespace

TEST_F(World, TcpFromEverywhere) {
    Engine engine;
    engine.start();
    Container a(engine), b(engine);
    const UniqueFd server = serve(a.ns.get(), SOCK_STREAM, 80);
    a.publish(engine, {port(8088, 80)});
    EXPECT_EQ(reach_tcp(other.get(), "192.0.2.1", 8088, server), "192.0.2.2")
        << "another host, its address kept";
    EXPECT_NE(reach_tcp(host.get(), "192.0.2.1", 8088, server), "") << "the host's own address";
    EXPECT_NE(reach_tcp(host.get(), "127.0.0.1", 8088, server), "") << "127.0.0.1";
    EXPECT_NE(reach_tcp(host.get(), "::1", 8088, server), "") << "::1";
    EXPECT_NE(reach_tcp(host.get(), "fd00:2::1", 8088, server), "") << "the host's own IPv6 address";
    EXPECT_NE(reach_tcp(other.get(), "fd00:2::1", 8088, server), "") << "another host by IPv6";
    EXPECT_NE(reach_tcp(b.ns.get(), "192.0.2.1", 8088, server), "")
        << "container to container by the host's port";
    EXPECT_NE(reach_tcp(a.ns.get(), "192.0.2.1", 8088, server), "")
        << "container to itself by the host's port";
    EXPECT_NE(reach_tcp(a.ns.get(), "10.88.0.1", 8088, server), "") << "container to itself by the gateway";
    EXPECT_EQ(reach_tcp(b.ns.get(), a.state.info.ipv4, 80, server), b.state.info.ipv4) << "directly";
    const UniqueFd outside = serve(other.get(), SOCK_STREAM, 99);
    EXPECT_EQ(reach_tcp(a.ns.get(), "192.0.2.2", 99, outside), "192.0.2.1") << "out, masqueraded";
    a.publish(engine, {});
    EXPECT_EQ(reach_tcp(host.get(), "127.0.0.1", 8088, server), "") << "unpublished";
    EXPECT_EQ(reach_tcp(host.get(), "::1", 8088, server), "") << "unpublished";
}

TEST_F(World, UdpFromEverywhere) {
    Engine engine;
    engine.start();
    Container a(engine), b(engine);
    const UniqueFd server = serve(a.ns.get(), SOCK_DGRAM, 53);
    a.publish(engine, {port(5353, 53, "", GANTRY_UDP)});
    EXPECT_EQ(reach_udp(other.get(), "192.0.2.1", 5353, server), "192.0.2.2");
    EXPECT_NE(reach_udp(host.get(), "192.0.2.1", 5353, server), "");
    EXPECT_NE(reach_udp(host.get(), "127.0.0.1", 5353, server), "");
    EXPECT_NE(reach_udp(host.get(), "::1", 5353, server), "");
    EXPECT_NE(reach_udp(other.get(), "fd00:2::1", 5353, server), "");
    EXPECT_NE(reach_udp(b.ns.get(), "192.0.2.1", 5353, server), "");
}

TEST_F(World, LoopbackPortsAreLocal) {
    Engine engine;
    engine.start();
    Container a(engine), b(engine);
    const UniqueFd server = serve(a.ns.get(), SOCK_STREAM, 80);
    a.publish(engine, {port(8088, 80, "127.0.0.1")});
    EXPECT_NE(reach_tcp(host.get(), "127.0.0.1", 8088, server), "");
    EXPECT_EQ(reach_tcp(host.get(), "192.0.2.1", 8088, server), "");
    EXPECT_EQ(reach_tcp(other.get(), "192.0.2.1", 8088, server), "");
    // A neighbour that sends 127.0.0.1 over the wire, to a host that even lets it in.
    shell("sysctl -qw net.ipv4.conf.out0.route_localnet=1");
    const std::string hostile =
        "sh -c 'ip addr flush dev lo; ip route flush table local type local 127.0.0.0/8; "
        "sysctl -qw net.ipv4.conf.all.route_localnet=1; ip route add 127.0.0.1/32 via 192.0.2.1'";
    shell_in(other.get(), hostile);
    EXPECT_EQ(reach_tcp(other.get(), "127.0.0.1", 8088, server), "") << "127.0.0.1 from the wire";
    // A neighbour that routes straight at the container.
    shell_in(other.get(), "ip route add 10.88.0.0/16 via 192.0.2.1");
    EXPECT_EQ(reach_tcp(other.get(), a.state.info.ipv4, 80, server), "") << "around the published ports";
    // A container that uses the bridge's route_localnet to reach the host's own services.
    const UniqueFd local = serve(host.get(), SOCK_STREAM, 7777, "127.0.0.1");
    shell_in(b.ns.get(),
             "sh -c 'ip addr flush dev lo; ip route flush table local type local 127.0.0.0/8; "
             "sysctl -qw net.ipv4.conf.all.route_localnet=1; ip route add 127.0.0.1/32 via 10.88.0.1'");
    EXPECT_EQ(reach_tcp(b.ns.get(), "127.0.0.1", 7777, local), "") << "the host's loopback from a container";
}

TEST_F(World, HostAddressesRangesAndRandomPorts) {
    Engine engine;
    engine.start();
    Container a(engine), b(engine);
    const UniqueFd one = serve(a.ns.get(), SOCK_STREAM, 80), two = serve(b.ns.get(), SOCK_STREAM, 80);
    shell("ip addr add 192.0.2.7/24 dev out0");
    a.publish(engine, {port(8000, 80, "192.0.2.1")});
    b.publish(engine, {port(8000, 80, "192.0.2.7")});
    EXPECT_NE(reach_tcp(other.get(), "192.0.2.1", 8000, one), "");
    EXPECT_NE(reach_tcp(other.get(), "192.0.2.7", 8000, two), "");
    EXPECT_EQ(reach_tcp(host.get(), "127.0.0.1", 8000, one), "");
    EXPECT_EQ(class_of([&] { b.publish(engine, {port(8000, 80, "203.0.113.9")}); }), ErrorClass::kInternal)
        << "no address of this host";
    EXPECT_NE(reach_tcp(other.get(), "192.0.2.7", 8000, two), "") << "the old set stays";

    a.publish(engine, {port(9000, 80, "", GANTRY_TCP, 9002)});
    EXPECT_EQ(a.state.ports[0].host_port, 9000);
    b.publish(engine, {port(9000, 80, "", GANTRY_TCP, 9002), port(0, 80), port(0, 80, "::1")});
    EXPECT_EQ(b.state.ports[0].host_port, 9001);
    EXPECT_EQ(b.state.ports[0].host_port_end, 9001);
    EXPECT_GE(b.state.ports[1].host_port, 32768);
    EXPECT_NE(reach_tcp(other.get(), "192.0.2.1", b.state.ports[1].host_port, two), "");
    EXPECT_NE(reach_tcp(host.get(), "::1", b.state.ports[1].host_port, two), "") << "the same port for IPv6";
    EXPECT_NE(reach_tcp(host.get(), "::1", b.state.ports[2].host_port, two), "");
    EXPECT_EQ(reach_tcp(host.get(), "fd00:2::1", b.state.ports[2].host_port, two), "");
    EXPECT_EQ(class_of([&] { b.publish(engine, {port(1, 80, "", GANTRY_SCTP)}); }), ErrorClass::kUnsupported);
}

TEST_F(World, PortsInUse) {
    Engine engine;
    engine.start();
    Container a(engine), b(engine);
    const UniqueFd server = serve(a.ns.get(), SOCK_STREAM, 80);
    a.publish(engine, {port(8088, 80)});
    std::string message;
    EXPECT_EQ(class_of(
                  [&] {
                      b.publish(engine, {port(8090, 80), port(8088, 80)});
                  },
                  &message),
              ErrorClass::kAlreadyExists);
    EXPECT_EQ(
        message,
        "driver failed programming external connectivity: Bind for 0.0.0.0:8088 failed: port is already "
        "allocated");
    {
        const UniqueFd again = serve(host.get(), SOCK_STREAM, 8090); // all or nothing: 8090 was given back
    }
    const UniqueFd program = serve(host.get(), SOCK_STREAM, 8091);
    EXPECT_EQ(class_of([&] { b.publish(engine, {port(8091, 80)}); }), ErrorClass::kAlreadyExists);
    const UniqueFd program6 = serve(host.get(), SOCK_STREAM, 8092, "::1");
    EXPECT_EQ(class_of([&] { b.publish(engine, {port(8092, 80)}); }, &message), ErrorClass::kAlreadyExists);
    EXPECT_NE(message.find(":::8092"), std::string::npos) << message;
    EXPECT_EQ(class_of([&] {
                  b.publish(engine, {port(8093, 80), port(8093, 81)});
              }),
              ErrorClass::kAlreadyExists);
    // The same set again, and one more: what stays is never let go.
    a.publish(engine, {port(8088, 80), port(8089, 80)});
    EXPECT_NE(reach_tcp(host.get(), "127.0.0.1", 8088, server), "");
    EXPECT_NE(reach_tcp(host.get(), "127.0.0.1", 8089, server), "");
    UniqueFd taken = socket_in(host.get(), AF_INET, SOCK_STREAM);
    Name name("0.0.0.0", 8088);
    EXPECT_NE(::bind(taken.get(), name.get(), name.size), 0) << "a published port is held against programs";
    engine.driver->detach(engine.call, a.state.spec);
    EXPECT_EQ(::bind(taken.get(), name.get(), name.size), 0) << strerror(errno);
}

TEST_F(World, BesideAFirewallThatDrops) {
    shell("iptables -P FORWARD DROP && iptables -A FORWARD -i foreign0 -j ACCEPT");
    shell("nft add table inet stranger && nft add chain inet stranger c && nft add rule inet stranger c "
          "counter");
    const std::string before = shell("iptables -S; nft list table inet stranger");
    Engine engine;
    engine.start();
    Container a(engine);
    const UniqueFd server = serve(a.ns.get(), SOCK_STREAM, 80);
    a.publish(engine, {port(8088, 80)});
    EXPECT_NE(reach_tcp(other.get(), "192.0.2.1", 8088, server), "");
    const UniqueFd outside = serve(other.get(), SOCK_STREAM, 99);
    EXPECT_NE(reach_tcp(a.ns.get(), "192.0.2.2", 99, outside), "");
    engine.driver->clean(engine.call);
    EXPECT_EQ(shell("iptables -S; nft list table inet stranger"), before);
}

TEST_F(World, AFirewallThatComesLater) {
    Engine engine;
    engine.start();
    shell("iptables -P FORWARD DROP"); // as dockerd does
    Container a(engine);
    const UniqueFd server = serve(a.ns.get(), SOCK_STREAM, 80);
    a.publish(engine, {port(8088, 80)});
    EXPECT_NE(reach_tcp(other.get(), "192.0.2.1", 8088, server), "");
}

TEST_F(World, RestartKeepsAddressesPortsAndConnections) {
    Engine engine;
    engine.start();
    Container a(engine), gone(engine);
    const UniqueFd server = serve(a.ns.get(), SOCK_STREAM, 80);
    a.publish(engine, {port(8088, 80), port(0, 80)});
    gone.publish(engine, {port(8099, 80)});
    const std::string stale_link = gone.state.info.host_interface;
    engine.restart();
    EXPECT_NE(reach_tcp(other.get(), "192.0.2.1", 8088, server), "") << "works while the engine is away";
    EXPECT_NE(reach_tcp(host.get(), "::1", 8088, server), "") << "the relay goes on";
    shell("nft delete table inet gantry_" + engine.id); // an administrator's flush
    EndpointState state = a.state;
    state.spec.netns_fd = -1;
    engine.driver->restore(engine.call, {engine.network}, {state});
    EXPECT_NE(reach_tcp(other.get(), "192.0.2.1", 8088, server), "");
    EXPECT_NE(reach_tcp(host.get(), "::1", a.state.ports[1].host_port, server), "");
    EXPECT_EQ(shell("ip -br link").find(stale_link), std::string::npos) << "leftovers go";
    EXPECT_EQ(shell("nft list table inet gantry_" + engine.id).find("8099"), std::string::npos);
    Container b(engine);
    EXPECT_NE(b.state.info.ipv4, a.state.info.ipv4);
    EXPECT_EQ(class_of([&] { b.publish(engine, {port(8088, 80)}); }), ErrorClass::kAlreadyExists)
        << "held again";
    b.publish(engine, {port(8099, 80)});
    a.publish(engine, {});
    EXPECT_EQ(reach_tcp(host.get(), "::1", 8088, server), "");
}

TEST_F(World, AttachAgainGivesTheSame) {
    Engine engine;
    engine.start();
    Container a(engine);
    const EndpointInfo again = engine.driver->attach(engine.call, a.state.spec);
    EXPECT_EQ(again.ipv4, a.state.info.ipv4);
    EXPECT_EQ(a.state.info.mac.substr(0, 5), "02:42");
    EXPECT_NE(shell_in(a.ns.get(), "ip -o addr show eth0").find(again.ipv4 + "/16"), std::string::npos);
    const NetworkStats before = engine.driver->stats(engine.call, a.state.spec);
    shell("ping -c1 -W2 " + again.ipv4 + " >/dev/null || true");
    EXPECT_GE(engine.driver->stats(engine.call, a.state.spec).rx_bytes, before.rx_bytes);
    EXPECT_EQ(class_of([&] {
                  EndpointSpec bad = a.state.spec;
                  bad.id = new_id();
                  bad.interface_name = "eth/0";
                  engine.driver->attach(engine.call, bad);
              }),
              ErrorClass::kInvalidArgument);
}

TEST_F(World, Ipv6Network) {
    Engine engine;
    engine.settings.subnet6 = "fd00:88::/64";
    engine.start();
    Container a(engine);
    const UniqueFd server = serve(a.ns.get(), SOCK_STREAM, 80, "::");
    a.publish(engine, {port(8088, 80)});
    EXPECT_EQ(a.state.info.ipv6, "fd00:88::2");
    EXPECT_EQ(reach_tcp(other.get(), "fd00:2::1", 8088, server), "fd00:2::2") << "translated, not relayed";
    EXPECT_NE(reach_tcp(host.get(), "fd00:2::1", 8088, server), "");
    EXPECT_NE(reach_tcp(host.get(), "::1", 8088, server), "");
    EXPECT_NE(reach_tcp(host.get(), "127.0.0.1", 8088, server), "");
    EXPECT_NE(reach_tcp(a.ns.get(), "fd00:2::1", 8088, server), "") << "to itself";
    const UniqueFd outside = serve(other.get(), SOCK_STREAM, 99, "::");
    EXPECT_EQ(reach_tcp(a.ns.get(), "fd00:2::2", 99, outside), "fd00:2::1") << "masqueraded";
}

TEST_F(World, TwoEnginesAndAClean) {
    const std::string before = shell("ip -br link; nft list ruleset");
    {
        Engine one("engineaa"), two("enginebb");
        two.settings.subnet = "10.99.0.0/16";
        one.start();
        EXPECT_EQ(class_of([&] { two.start(); }), ErrorClass::kFailedPrecondition)
            << "the bridge is another's";
        two.settings.name = "gantry1";
        two.settings.subnet = "10.88.128.0/17";
        EXPECT_EQ(class_of([&] { two.start(); }), ErrorClass::kFailedPrecondition) << "subnets overlap";
        two.settings.subnet = "10.99.0.0/16";
        two.start();
        Container a(one), b(two);
        const UniqueFd s1 = serve(a.ns.get(), SOCK_STREAM, 80), s2 = serve(b.ns.get(), SOCK_STREAM, 80);
        a.publish(one, {port(8001, 80)});
        EXPECT_EQ(class_of([&] { b.publish(two, {port(8001, 80)}); }), ErrorClass::kAlreadyExists);
        b.publish(two, {port(8002, 80)});
        EXPECT_NE(reach_tcp(other.get(), "192.0.2.1", 8001, s1), "");
        EXPECT_NE(reach_tcp(other.get(), "192.0.2.1", 8002, s2), "");
        EXPECT_NE(reach_tcp(a.ns.get(), "192.0.2.1", 8002, s2), "") << "by the published port";
        EXPECT_EQ(reach_tcp(a.ns.get(), b.state.info.ipv4, 80, s2), "") << "and not otherwise";
        one.driver->clean(one.call);
        EXPECT_NE(reach_tcp(other.get(), "192.0.2.1", 8002, s2), "");
        EXPECT_NE(reach_tcp(host.get(), "::1", 8002, s2), "");
    }
    EXPECT_EQ(shell("ip -br link; nft list ruleset"), before);
}

TEST_F(World, ManyAtOnce) {
    Engine engine;
    engine.start();
    std::mutex mutex;
    std::set<std::string> addresses;
    std::set<uint16_t> ports;
    std::vector<std::thread> threads;
    for (int t = 0; t < 6; ++t)
        threads.emplace_back([&] {
            const CallScope call;
            for (int i = 0; i < 5; ++i) {
                UniqueFd ns = new_namespace();
                EndpointSpec spec;
                spec.id = new_id();
                spec.network_id = engine.network.id;
                spec.netns_fd = ns.get();
                const EndpointInfo info = engine.driver->attach(call, spec);
                const auto settled = engine.driver->publish(call, spec.id, info, {port(0, 80)});
                {
                    const std::lock_guard lock(mutex);
                    EXPECT_TRUE(addresses.insert(info.ipv4).second) << info.ipv4;
                    EXPECT_TRUE(ports.insert(settled.at(0).host_port).second);
                }
                if (i % 2 == 0) continue;
                const std::lock_guard lock(mutex); // so that nobody gets its port before it is taken out
                engine.driver->detach(call, spec);
                ports.erase(settled[0].host_port);
            }
        });
    for (auto &t : threads)
        t.join();
    EXPECT_EQ(addresses.size(), 30u);
    const std::string table = shell("nft list map inet gantry_" + engine.id + " dnat4");
    EXPECT_EQ(std::count(table.begin(), table.end(), '.'), 18 * 5 + 2) << table;
}

// Run by hand (--gtest_also_run_disabled_tests): a busy machine must not fail a test.
TEST_F(World, DISABLED_Speed) {
    Engine engine;
    engine.start();
    std::vector<double> attach, publish, detach;
    const auto time = [](const auto &work) {
        const auto start = std::chrono::steady_clock::now();
        work();
        return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    };
    const auto median = [](std::vector<double> v) {
        std::sort(v.begin(), v.end());
        return v[v.size() / 2];
    };
    for (uint16_t i = 0; i < 30; ++i) {
        const UniqueFd ns = new_namespace();
        EndpointSpec spec;
        spec.id = new_id();
        spec.network_id = engine.network.id;
        spec.netns_fd = ns.get();
        EndpointInfo info;
        attach.push_back(time([&] { info = engine.driver->attach(engine.call, spec); }));
        const std::vector<PortBinding> ports{port(static_cast<uint16_t>(8000 + i), 80)};
        publish.push_back(time([&] { engine.driver->publish(engine.call, spec.id, info, ports); }));
        spec.netns_fd = -1;
        detach.push_back(time([&] { engine.driver->detach(engine.call, spec); }));
    }
    std::printf("median ms: attach %.2f, publish %.2f, detach %.2f\n", median(attach), median(publish),
                median(detach));
}
