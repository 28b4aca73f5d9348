// Records of networks and endpoints over a driver that can be told to fail: nothing half-made stays.
#include "core/base/ids.h"
#include "core/events/events.h"
#include "core/network/networks.h"
#include "core/network/records.h"
#include "core/store/db.h"

#include <filesystem>
#include <gtest/gtest.h>

using namespace gantry;

namespace {

struct FakeDriver : NetworkDriver {
    bool fail_attach = false, fail_publish = false, fail_network = false;
    int next = 2;
    std::vector<std::string> detached;
    std::vector<EndpointState> restored;
    NetworkCaps caps(const Call &) override { return {.ports = true}; }
    std::vector<Subnet> create_network(const Call &, const NetworkSpec &) override {
        if (fail_network) throw Error(ErrorClass::kFailedPrecondition, "choose a subnet: all are taken");
        return {{"10.1.0.0/16", "10.1.0.1", ""}};
    }
    void remove_network(const Call &, const NetworkSpec &) override {}
    EndpointInfo attach(const Call &, const EndpointSpec &) override {
        if (fail_attach) throw Error(ErrorClass::kNoSpace, "lease address: none left");
        EndpointInfo info;
        info.ipv4 = "10.1.0." + std::to_string(next++);
        info.ipv4_prefix = 16;
        return info;
    }
    void detach(const Call &, const EndpointSpec &spec) override { detached.push_back(spec.id); }
    std::vector<PortBinding> publish(const Call &, const std::string &, const EndpointInfo &,
                                     const std::vector<PortBinding> &ports) override {
        if (fail_publish) throw Error(ErrorClass::kAlreadyExists, "taken");
        auto out = ports;
        for (auto &p : out)
            p.host_port = p.host_port_end = p.host_port ? p.host_port : 40000;
        return out;
    }
    void restore(const Call &, const std::vector<NetworkSpec> &,
                 const std::vector<EndpointState> &e) override {
        restored = e;
    }
    NetworkStats stats(const Call &, const EndpointSpec &) override { return {}; }
    void clean(const Call &) override {}
};

class NetworksTest : public ::testing::Test {
  protected:
    std::string folder = (std::filesystem::temp_directory_path() / "gantry-networks-XXXXXX").string();
    std::unique_ptr<Db> db;
    Events events;
    std::shared_ptr<FakeDriver> driver = std::make_shared<FakeDriver>();
    std::unique_ptr<Networks> networks;
    void SetUp() override {
        ASSERT_NE(::mkdtemp(folder.data()), nullptr);
        db = std::make_unique<Db>(folder + "/db");
        networks = std::make_unique<Networks>(*db, driver, "bridge", events);
        networks->recover({});
    }
    void TearDown() override {
        networks.reset();
        db.reset();
        std::filesystem::remove_all(folder);
    }
    Endpoint attach(const std::string &owner) {
        AttachRequest r;
        r.owner = owner;
        return networks->attach(r);
    }
    void make_container(const std::string &id) {
        db->transact([&](Db &d) {
            d.prepare("INSERT INTO container(id, name, phase, config, state, created) VALUES(?, ?, 'ready', "
                      "'{}', '{}', 0)")
                .bind_all(id, id)
                .run();
        });
    }
};

} // namespace

TEST_F(NetworksTest, ANetworkThatCannotBeMadeSaysWhyAndIsTriedAgain) {
    const Endpoint before = networks->attach({.owner = "kept"});
    driver->restored.clear();
    driver->fail_network = true;
    networks = std::make_unique<Networks>(*db, driver, "bridge", events);
    networks->recover({"kept"});
    try {
        networks->attach({.owner = "new"});
        ADD_FAILURE() << "attached to nothing";
    } catch (const Error &error) {
        EXPECT_EQ(error.message(), "choose a subnet: all are taken");
    }
    driver->fail_network = false;
    EXPECT_EQ(networks->attach({.owner = "new"}).network_name, "bridge");
    ASSERT_EQ(driver->restored.size(), 1u);
    EXPECT_EQ(driver->restored[0].spec.id, before.id);
}

TEST_F(NetworksTest, PredefinedNetworksAndLookUp) {
    ASSERT_EQ(networks->list().size(), 3u);
    const Network bridge = networks->get("");
    EXPECT_EQ(bridge.name, "bridge");
    EXPECT_EQ(bridge.spec.subnets.at(0).gateway, "10.1.0.1");
    EXPECT_EQ(networks->get(bridge.id.substr(0, 12)).id, bridge.id);
    EXPECT_EQ(networks->get("none").driver, "null");
    try {
        networks->get("nope");
        FAIL();
    } catch (const Error &e) {
        EXPECT_EQ(e.message(), "network nope not found");
    }
    networks->recover({});
    EXPECT_EQ(networks->get("bridge").id, bridge.id);
}

TEST_F(NetworksTest, AttachAdoptPublishDetach) {
    make_container("c1");
    auto stream = events.subscribe(0);
    const Endpoint e = attach("sandbox");
    EXPECT_EQ(e.spec.interface_name, "eth0");
    networks->adopt(e.id, "c1");
    EXPECT_TRUE(networks->endpoints_of("sandbox").empty());
    PortBinding p;
    p.container_port = 80;
    p.host_ip = "127.0.0.1";
    EXPECT_EQ(networks->publish(e.id, {p}).at(0).host_port, 40000);
    const Endpoint stored = networks->endpoints_of("c1").at(0);
    EXPECT_EQ(stored.info.ipv4, "10.1.0.2");
    EXPECT_EQ(stored.ports.at(0).host_port, 40000);
    EXPECT_EQ(stored.ports.at(0).host_ip, "127.0.0.1");
    networks->detach_all("c1");
    networks->detach_all("c1");
    EXPECT_EQ(driver->detached, std::vector<std::string>{e.id});
    Event event;
    ASSERT_TRUE(stream->next(event, 1000));
    EXPECT_EQ(event.action, "connect");
    EXPECT_EQ(event.attributes["container"], "c1");
    ASSERT_TRUE(stream->next(event, 1000));
    EXPECT_EQ(event.action, "disconnect");
    EXPECT_FALSE(stream->next(event, 0));
}

TEST_F(NetworksTest, FailuresLeaveNothing) {
    driver->fail_attach = true;
    EXPECT_THROW(attach("c1"), Error);
    EXPECT_TRUE(networks->endpoints_of("c1").empty());
    driver->fail_attach = false;
    const Endpoint e = attach("c1");
    driver->fail_publish = true;
    EXPECT_THROW(networks->publish(e.id, {PortBinding{GANTRY_TCP, "", 80, 80, 80}}), Error);
    EXPECT_TRUE(networks->endpoints_of("c1").at(0).ports.empty());
    EXPECT_THROW(networks->adopt("nobody", "c2"), Error);
    AttachRequest host;
    host.network = "host";
    EXPECT_THROW(networks->attach(host), Error);
}

TEST_F(NetworksTest, RecoverTellsTheTruthAndDropsTheRest) {
    const Endpoint live = attach("live"), dead = attach("dead"), half = attach("live2");
    networks->publish(live.id, {PortBinding{GANTRY_UDP, "", 53, 53, 53}});
    db->transact([&](Db &d) {
        d.prepare("UPDATE endpoint SET state = 'making' WHERE id = ?").bind_all(half.id).run();
    });
    Networks again(*db, driver, "bridge", events);
    again.recover({"live", "live2"});
    ASSERT_EQ(driver->restored.size(), 1u);
    EXPECT_EQ(driver->restored[0].spec.id, live.id);
    EXPECT_EQ(driver->restored[0].spec.netns_fd, -1);
    EXPECT_EQ(driver->restored[0].info.ipv4, live.info.ipv4);
    EXPECT_EQ(driver->restored[0].ports.at(0).protocol, GANTRY_UDP);
    EXPECT_EQ(driver->detached.size(), 2u);
    EXPECT_TRUE(again.endpoints_of("dead").empty());
    EXPECT_TRUE(again.endpoints_of("live2").empty());
}

TEST(Records, RefuseForeignText) {
    EXPECT_THROW(endpoint_info_from_json("[1]"), Error);
    EXPECT_THROW(ports_from_json("{}"), Error);
    EXPECT_THROW(ports_from_json("[1]"), Error);
    EXPECT_THROW(network_spec_from_json("{"), Error);
    EXPECT_EQ(endpoint_info_from_json("").ipv4, "");
}
