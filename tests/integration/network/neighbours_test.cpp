// What was there before gantry or beside it: flows, routes, other engines, the older kind of iptables.
#include "world.h"

using namespace world;

namespace {

/// Sends from one and the same port, as a client does that never closes its socket.
struct Sender {
    UniqueFd fd;
    explicit Sender(int ns, const std::string &address) : fd(socket_in(ns, AF_INET, SOCK_DGRAM)) {
        Name name(address, 4000);
        EXPECT_EQ(::bind(fd.get(), name.get(), name.size), 0) << strerror(errno);
    }
    bool reaches(const UniqueFd &server, const std::string &address, uint16_t port) {
        Name to(address, port);
        EXPECT_EQ(::sendto(fd.get(), "ping", 4, 0, to.get(), to.size), 4) << strerror(errno);
        pollfd p{server.get(), POLLIN, 0};
        char buffer[16];
        return ::poll(&p, 1, 300) > 0 && ::recv(server.get(), buffer, sizeof buffer, 0) == 4;
    }
};

TEST_F(World, UdpFlowsFollowThePort) {
    Engine engine;
    engine.start();
    Container a(engine), b(engine);
    const UniqueFd in_a = serve(a.ns.get(), SOCK_DGRAM, 53), in_b = serve(b.ns.get(), SOCK_DGRAM, 53);
    Sender sender(other.get(), "192.0.2.2");
    EXPECT_FALSE(sender.reaches(in_a, "192.0.2.1", 8053)) << "not published yet";
    a.publish(engine, {port(8053, 53, "", GANTRY_UDP)});
    EXPECT_TRUE(sender.reaches(in_a, "192.0.2.1", 8053)) << "a flow from before";
    a.publish(engine, {});
    b.publish(engine, {port(8053, 53, "", GANTRY_UDP)});
    EXPECT_TRUE(sender.reaches(in_b, "192.0.2.1", 8053)) << "moved to another container";
    engine.driver->detach(engine.call, b.state.spec);
    EXPECT_FALSE(sender.reaches(in_b, "192.0.2.1", 8053)) << "not published any more";
}

TEST_F(World, AFreeSubnetIsChosen) {
    shell("ip route add 10.88.128.0/17 dev out0");
    Engine first("test0001"), second("test0002");
    first.settings.subnet = second.settings.subnet = "";
    second.settings.name = "gantry1";
    first.start();
    second.start();
    EXPECT_EQ(first.network.subnets.at(0).cidr, "10.89.0.0/16");
    EXPECT_EQ(second.network.subnets.at(0).cidr, "10.90.0.0/16");
    Container a(first), b(second);
    EXPECT_EQ(a.state.info.ipv4.substr(0, 6), "10.89.");
    EXPECT_EQ(b.state.info.ipv4.substr(0, 6), "10.90.");
    first.restart();
    EXPECT_EQ(first.driver->create_network(first.call, first.network).at(0).cidr, "10.89.0.0/16");

    shell("ip route add 10.0.0.0/9 dev out0");
    Engine third("test0003");
    third.settings.subnet = "";
    third.settings.name = "gantry2";
    try {
        third.start();
        ADD_FAILURE() << "a subnet that is taken";
    } catch (const Error &error) {
        EXPECT_EQ(error.error_class(), ErrorClass::kFailedPrecondition);
        EXPECT_EQ(error.message().find("choose a subnet:"), 0u) << error.message();
        EXPECT_FALSE(error.hint().empty());
    }
}

TEST_F(World, BesideALegacyFirewallThatDrops) {
    if (std::system("iptables-legacy -P FORWARD DROP 2> /dev/null") != 0)
        GTEST_SKIP() << "this kernel has no legacy iptables";
    shell("iptables-nft -P FORWARD ACCEPT"); // both kinds at once
    const std::string before = shell("iptables-legacy -S");
    Engine engine;
    engine.start();
    Container a(engine);
    const UniqueFd server = serve(a.ns.get(), SOCK_STREAM, 80);
    a.publish(engine, {port(8088, 80)});
    EXPECT_NE(reach_tcp(other.get(), "192.0.2.1", 8088, server), "");
    engine.driver->clean(engine.call);
    EXPECT_EQ(shell("iptables-legacy -S"), before);
}

} // namespace
