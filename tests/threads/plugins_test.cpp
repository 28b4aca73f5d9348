// Promise 9 of the plugin contract: [any] is any thread at any time, and the host holds no lock and no
// transaction while it calls. Real plugins are hammered; in the meeting ones eight calls of each slot must be
// inside at once, each writing to the host's database, which no lock and no transaction of ours would allow.
#include "core/base/cancel.h"
#include "core/base/files.h"
#include "core/plugin/host.h"
#include "core/store/db.h"
#include "tests/threads/crowd.h"

#include <fmt/format.h>

namespace gantry {
namespace {

using test::crowd;
using test::kCrowd;

struct Plugins : testing::Test {
    void SetUp() override {
        char path[] = "/tmp/gantry-threads-XXXXXX";
        dir = ::mkdtemp(path);
        make_directories(dir + "/plugins", 0755);
        db = std::make_unique<Db>(dir + "/db");
    }
    void TearDown() override {
        host.reset();
        db.reset();
        remove_tree(dir);
    }
    void use(const std::string &file, std::vector<std::pair<std::string, std::string>> flags) {
        write_file_atomically(dir + "/plugins/" + file.substr(file.rfind('/') + 1),
                              read_file(std::string(GANTRY_BINARY_DIR) + "/" + file, 1 << 28), 0755, false);
        flags.insert(flags.end(), {{"engine.root", dir + "/root"},
                                   {"engine.run", dir + "/run"},
                                   {"engine.plugin_dirs", dir + "/plugins"}});
        settings = EngineSettings::load({.file = "", .flags = flags});
        host = std::make_unique<PluginHost>(*settings, db.get());
    }
    /// The engine's readers go on while drivers are used.
    void look() const {
        (void)host->list();
        (void)host->metrics();
        (void)host->schemas();
    }

    std::string dir;
    std::unique_ptr<Db> db;
    std::shared_ptr<const EngineSettings> settings;
    std::unique_ptr<PluginHost> host;
};

struct Storage : Plugins, testing::WithParamInterface<const char *> {};

TEST_P(Storage, LayersAreMadeUsedAndRemovedByAllAtOnce) {
    use(fmt::format("lib/gantry/plugins/storage-{}.so", GetParam()), {{"storage.driver", GetParam()}});
    std::shared_ptr<StorageDriver> made;
    try {
        made = host->storage();
    } catch (const Error &e) {
        GTEST_SKIP() << e.message();
    }
    {
        const CallScope call;
        made->create(call, "base", {}, 0);
        made->commit(call, "base", {}, false);
    }
    crowd([&](int me) {
        const CallScope call;
        const auto storage = host->storage();
        for (int round = 0; round < 10; ++round) {
            const std::string id = fmt::format("l{}x{}", me, round);
            storage->create(call, id, {"base"}, 0);
            EXPECT_FALSE(storage->mounts(call, id, {"base"}, false).empty());
            EXPECT_FALSE(storage->mounts(call, "base", {}, true).empty()); // the same id for everybody
            storage->usage(call, "base");
            storage->caps(call);
            storage->commit(call, id, {"base"}, false);
            EXPECT_FALSE(storage->list(call).empty());
            storage->usage(call, id);
            EXPECT_THROW(storage->usage(call, "nothing"), Error);
            storage->remove(call, id);
            look();
        }
    });
    const CallScope call;
    EXPECT_EQ(made->list(call), std::vector<std::string>{"base"});
}

INSTANTIATE_TEST_SUITE_P(Drivers, Storage, testing::Values("overlay", "vfs"),
                         [](const auto &info) { return info.param; });

TEST_F(Plugins, EveryNetworkCallIsInsideEightTimesAtOnce) {
    use("fixtures/meeting-network.so", {{"network.driver", "meeting"}});
    const auto made = host->network();
    crowd([&](int me) {
        const CallScope call;
        const auto network = host->network();
        NetworkSpec spec;
        EndpointSpec endpoint;
        spec.id = endpoint.network_id = fmt::format("{:064x}", me + 1);
        spec.name = fmt::format("n{}", me);
        endpoint.id = fmt::format("{:064x}", me + 100);
        for (int round = 0; round < 5; ++round) {
            network->caps(call);
            EXPECT_EQ(network->create_network(call, spec).size(), 1u);
            const EndpointInfo info = network->attach(call, endpoint);
            EXPECT_EQ(info.host_interface, endpoint.id.substr(0, 8));
            PortBinding port;
            port.container_port = 80;
            EXPECT_EQ(network->publish(call, endpoint.id, info, {port}).at(0).host_port, 4000);
            network->stats(call, endpoint);
            network->detach(call, endpoint);
            network->remove_network(call, spec);
            look();
        }
    });
}

TEST_F(Plugins, EveryRegistryCallIsInsideEightTimesAtOnce) {
    use("fixtures/meeting-registry.so", {{"registry.driver", "meeting"}});
    const auto made = host->registry();
    crowd([&](int me) {
        uint64_t steps = 0;
        CallScope::Settings with_progress;
        with_progress.progress = [&](const char *, uint64_t, uint64_t) { ++steps; };
        const CallScope call(with_progress);
        const auto registry = host->registry();
        const RegistryReference ref{"docker.io", fmt::format("library/r{}", me), "latest", "sha256:00"};
        for (int round = 0; round < 5; ++round) {
            EXPECT_TRUE(registry->handles(call, ref));
            std::string body;
            registry->resolve(call, ref, std::nullopt, &body);
            EXPECT_EQ(body, "{}");
            Fetch fetch;
            fetch.from = ref;
            fetch.descriptor.size = 20000;
            uint64_t got = 0;
            registry->fetch(call, fetch, [&](const std::string &, uint64_t at, const void *, size_t size) {
                EXPECT_EQ(at, got);
                got += size;
            });
            EXPECT_EQ(got, 20000u);
            EXPECT_EQ(registry->tags(call, ref, std::nullopt).size(), 2u);
            EXPECT_EQ(registry->explain(call, ref).size(), 1u);
            EXPECT_THROW(registry->login(call, {}), Error);
            look();
        }
        EXPECT_EQ(steps, 5u * 20u);
    });
}

TEST_F(Plugins, ACallWithinATransactionIsRefused) {
    for (const char *isolation : {"thread", "none"}) {
        use("fixtures/meeting-network.so", {{"network.driver", "meeting"},
                                            {"network.meeting.members", "1"},
                                            {"network.meeting.isolation", isolation}});
        const CallScope call;
        const auto network = host->network();
        EXPECT_TRUE(network->caps(call).ports);
        db->transact([&](Db &) {
            try {
                network->caps(call);
                ADD_FAILURE() << "the driver was called";
            } catch (const Error &e) {
                EXPECT_EQ(e.error_class(), ErrorClass::kInternal);
                EXPECT_NE(e.message().find("transaction"), std::string::npos) << e.message();
            }
        });
    }
}

} // namespace
} // namespace gantry
