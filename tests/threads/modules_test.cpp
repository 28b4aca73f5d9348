// The modules above the drivers hold no lock either: eight calls for eight different things, made through
// Networks and Layers, must be inside the driver at once. One that waited for another would end this at the
// time limit of the meeting.
#include "core/base/files.h"
#include "core/events/events.h"
#include "core/layer/layers.h"
#include "core/network/networks.h"
#include "core/store/db.h"
#include "tests/threads/crowd.h"

#include <condition_variable>
#include <fmt/format.h>
#include <mutex>
#include <set>
#include <unistd.h>

namespace gantry {
namespace {

using test::crowd;
using test::kCrowd;

/// Returns when kCrowd threads are here.
class Meeting {
  public:
    void attend() {
        std::unique_lock lock(mutex_);
        const int round = round_;
        if (++inside_ == kCrowd) {
            inside_ = 0;
            ++round_;
            all_.notify_all();
        } else if (!all_.wait_for(lock, std::chrono::seconds(60), [&] { return round_ != round; })) {
            throw Error(ErrorClass::kDeadline, "meet inside the driver: the others never came");
        }
    }

  private:
    std::mutex mutex_;
    std::condition_variable all_;
    int inside_ = 0, round_ = 0;
};

struct Bridge : NetworkDriver {
    Meeting meeting;
    NetworkCaps caps(const Call &) override { return {.ports = true}; }
    std::vector<Subnet> create_network(const Call &, const NetworkSpec &) override {
        return {{"10.1.0.0/16", "10.1.0.1", ""}};
    }
    void remove_network(const Call &, const NetworkSpec &) override {}
    EndpointInfo attach(const Call &, const EndpointSpec &) override {
        meeting.attend();
        EndpointInfo info;
        info.ipv4 = "10.1.0.2";
        info.ipv4_prefix = 16;
        return info;
    }
    void detach(const Call &, const EndpointSpec &) override { meeting.attend(); }
    std::vector<PortBinding> publish(const Call &, const std::string &, const EndpointInfo &,
                                     const std::vector<PortBinding> &ports) override {
        meeting.attend();
        auto settled = ports;
        for (PortBinding &port : settled)
            port.host_port_end = port.host_port;
        return settled;
    }
    void restore(const Call &, const std::vector<NetworkSpec> &,
                 const std::vector<EndpointState> &) override {}
    NetworkStats stats(const Call &, const EndpointSpec &) override {
        meeting.attend();
        return {};
    }
    void clean(const Call &) override {}
};

/// Keeps names only.
struct Storage : StorageDriver {
    Meeting meeting;
    std::mutex mutex;
    std::set<std::string> ids;
    StorageCaps caps(const Call &) override { return {}; }
    void create(const Call &, const std::string &id, const LayerIds &, uint64_t) override {
        meeting.attend();
        const std::lock_guard lock(mutex);
        ids.insert(id);
    }
    std::vector<Mount> mounts(const Call &, const std::string &id, const LayerIds &, bool) override {
        meeting.attend();
        return {{"bind", "/" + id, "", {}, false}};
    }
    void commit(const Call &, const std::string &, const LayerIds &, bool) override {}
    void remove(const Call &, const std::string &id) override {
        meeting.attend();
        const std::lock_guard lock(mutex);
        ids.erase(id);
    }
    Usage usage(const Call &, const std::string &) override {
        meeting.attend();
        return {4096, 1};
    }
    std::vector<std::string> list(const Call &) override {
        const std::lock_guard lock(mutex);
        return {ids.begin(), ids.end()};
    }
};

struct Modules : testing::Test {
    void SetUp() override {
        char path[] = "/tmp/gantry-threads-XXXXXX";
        dir = ::mkdtemp(path);
        db = std::make_unique<Db>(dir + "/db");
    }
    void TearDown() override {
        db.reset();
        remove_tree(dir);
    }
    std::string dir;
    std::unique_ptr<Db> db;
};

TEST_F(Modules, EndpointsAreAttachedPublishedAndDetachedAtOnce) {
    Events events;
    const auto bridge = std::make_shared<Bridge>();
    Networks networks(*db, bridge, "bridge", events);
    networks.recover({});
    crowd([&](int me) {
        for (int round = 0; round < 5; ++round) {
            AttachRequest request;
            request.owner = fmt::format("{:064x}", me);
            const Endpoint endpoint = networks.attach(request);
            PortBinding port;
            port.container_port = 80;
            port.host_port = static_cast<uint16_t>(1000 + me);
            EXPECT_EQ(networks.publish(endpoint.id, {port}).at(0).host_port_end, 1000 + me);
            EXPECT_TRUE(networks.stats(endpoint.id, STDIN_FILENO).has_value());
            EXPECT_EQ(networks.endpoints_of(request.owner).size(), 1u);
            networks.detach_all(request.owner);
            EXPECT_TRUE(networks.endpoints_of(request.owner).empty());
        }
    });
}

TEST_F(Modules, WritableLayersAreMadeMountedMeasuredAndRemovedAtOnce) {
    const auto storage = std::make_shared<Storage>();
    Layers layers(*db, storage, "names", false);
    layers.recover();
    crowd([&](int) {
        for (int round = 0; round < 5; ++round) {
            const Layer layer = layers.create_writable("", 0);
            EXPECT_EQ(layers.mounts(layer.id, false).size(), 1u);
            (void)layers.usage(layer.id);
            layers.remove(layer.id);
        }
    });
    EXPECT_TRUE(storage->ids.empty());
}

} // namespace
} // namespace gantry
