// The bundled sources as an engine has them: loaded files, options from TOML, a driver in a process of its
// own that serves what the engine lends it, another engine's chain that takes it.
#include "core/plugin/host.h"

#include "core/base/cancel.h"
#include "core/base/files.h"

#include <algorithm>
#include <arpa/inet.h>
#include <atomic>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <map>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

namespace gantry {
namespace {

const std::string kLayer = "sha256:" + std::string(64, '1'), kManifest = "sha256:" + std::string(64, '2');

class Sources : public testing::Test {
  protected:
    void SetUp() override {
        char path[] = "/tmp/gantry-sources-XXXXXX";
        dir = ::mkdtemp(path);
        make_directories(dir + "/plugins", 0755);
        for (const char *name : {"registry-peer", "registry-layout"})
            write_file_atomically(
                fmt::format("{}/plugins/{}.so", dir, name),
                read_file(fmt::format("{}/lib/gantry/plugins/{}.so", GANTRY_BINARY_DIR, name)), 0644, false);
        write_file_atomically(dir + "/secret", std::string(64, 's'), 0600, false);
        for (size_t i = 0; i < layer.size(); ++i)
            layer[i] = static_cast<char>(i * 7 + i / 251);
        const UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_in at{};
        at.sin_family = AF_INET;
        at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t size = sizeof at;
        ASSERT_EQ(::bind(socket.get(), reinterpret_cast<sockaddr *>(&at), size), 0);
        ASSERT_EQ(::getsockname(socket.get(), reinterpret_cast<sockaddr *>(&at), &size), 0);
        peer = fmt::format("127.0.0.1:{}", ntohs(at.sin_port));
        const std::string layout = dir + "/media/r.example/team/box";
        make_directories(layout + "/blobs/sha256", 0755);
        write_file_atomically(layout + "/index.json",
                              fmt::format(R"({{"manifests":[{{"mediaType":"m","digest":"{}","size":2,)"
                                          R"("annotations":{{"org.opencontainers.image.ref.name":"1"}}}}]}})",
                                          kManifest),
                              0644, false);
        write_file_atomically(layout + "/blobs/sha256/" + kManifest.substr(7), "{}", 0644, false);
        write_file_atomically(layout + "/blobs/sha256/" + kLayer.substr(7), layer, 0644, false);
    }
    void TearDown() override { remove_tree(dir); }

    std::shared_ptr<const EngineSettings> settings(const std::string &name,
                                                   std::vector<std::pair<std::string, std::string>> flags) {
        flags.insert(flags.begin(), {{"engine.root", dir + "/" + name},
                                     {"engine.run", dir + "/" + name + "-run"},
                                     {"engine.plugin_dirs", dir + "/plugins"},
                                     {"registry.peer.secret_file", dir + "/secret"}});
        return EngineSettings::load({.file = "", .flags = flags});
    }
    std::shared_ptr<const EngineSettings> taking() {
        return settings("b", {{"registry.drivers", "[\"peer\", \"layout\"]"},
                              {"registry.peer.peers", fmt::format("[\"{}\"]", peer)},
                              {"registry.layout.sources", fmt::format("[\"{}/media\"]", dir)}});
    }
    void lend(PluginHost &host) {
        host.lend_blobs([this](const std::string &digest, uint64_t &size) {
            if (digest != kLayer) throw Error(ErrorClass::kNotFound, "open blob: none");
            ++opened;
            UniqueFd fd(::memfd_create("blob", MFD_CLOEXEC));
            EXPECT_EQ(::write(fd.get(), layer.data(), layer.size()), static_cast<ssize_t>(layer.size()));
            size = layer.size();
            return fd;
        });
    }
    /// The endpoints that the bytes came from, in order.
    std::vector<std::string> fetch(RegistryDriver &driver, const std::function<void(uint64_t)> &each = {}) {
        std::vector<std::string> from;
        std::string got;
        Fetch what;
        what.from = {"r.example", "team/box", "", ""};
        what.descriptor = {"m", kLayer, layer.size(), ""};
        driver.fetch(call, what,
                     [&](const std::string &endpoint, uint64_t at, const void *data, size_t size) {
                         EXPECT_EQ(at, got.size());
                         got.append(static_cast<const char *>(data), size);
                         if (from.empty() || from.back() != endpoint) from.push_back(endpoint);
                         if (each) each(got.size());
                     });
        EXPECT_TRUE(got == layer);
        return from;
    }

    std::string dir, peer, layer = std::string(600'000, '\0');
    std::atomic<int> opened{0};
    CallScope call;
};

TEST_F(Sources, TagsFromADiskAndBytesFromANeighbour) {
    for (const char *isolation : {"thread", "process"}) {
        opened = 0;
        const auto giving = settings("a", {{"registry.driver", "peer"},
                                           {"registry.peer.listen", peer},
                                           {"registry.peer.isolation", isolation}});
        PluginHost a(*giving, nullptr);
        a.registry();
        lend(a);
        const auto s = taking();
        PluginHost b(*s, nullptr);
        s->validate(b.schemas());
        const auto chain = b.registry();
        EXPECT_EQ(b.registry_names(), (std::vector<std::string>{"peer", "layout"}));
        for (const PluginInfo &info : b.list())
            EXPECT_TRUE(info.in_use && info.state == PluginState::kOk) << info.name;
        std::string body;
        EXPECT_EQ(chain->resolve(call, {"r.example", "team/box", "1", ""}, {}, &body).digest, kManifest);
        EXPECT_EQ(body, "{}");
        EXPECT_EQ(fetch(*chain), std::vector<std::string>{"peer://" + peer}) << isolation;
        EXPECT_EQ(opened, 1) << isolation;
        const auto lines = chain->explain(call, {"r.example", "team/box", "1", ""});
        ASSERT_EQ(lines.size(), 4u); // a peer, and three places of the source
        EXPECT_EQ(lines[0].url + " " + lines[0].state, "peer://" + peer + " ok");
        EXPECT_TRUE(lines[1].reason.starts_with("driver layout: ")) << lines[1].reason;
        EXPECT_EQ(chain->status(call).at(0).bytes_served, layer.size());
        EXPECT_GE(chain->test(call, {"r.example", "team/box", "1", ""}, {}).at(0).latency_ns, 0);
        a.lend_blobs(nullptr);
    }
}

TEST_F(Sources, ANeighbourThatDiesLeavesTheRestToTheDisk) {
    const auto giving = settings("a", {{"registry.driver", "peer"},
                                       {"registry.peer.listen", peer},
                                       {"registry.peer.isolation", "process"},
                                       {"registry.peer.bandwidth", "\"300KB\""}});
    auto a = std::make_unique<PluginHost>(*giving, nullptr);
    a->registry();
    lend(*a);
    const auto s = taking();
    PluginHost b(*s, nullptr);
    const auto from = fetch(*b.registry(), [&](uint64_t reached) {
        if (reached >= 100'000) a.reset(); // in the midst of it
    });
    ASSERT_EQ(from.size(), 2u);
    EXPECT_EQ(from[0], "peer://" + peer);
    EXPECT_TRUE(from[1].starts_with("file://")) << from[1];
}

TEST_F(Sources, AStrangerGetsNothing) {
    const auto giving = settings("a", {{"registry.driver", "peer"}, {"registry.peer.listen", peer}});
    PluginHost a(*giving, nullptr);
    a.registry();
    lend(a);
    write_file_atomically(dir + "/secret", std::string(64, 't'), 0600, false);
    const auto s = taking();
    PluginHost b(*s, nullptr);
    const auto from = fetch(*b.registry());
    ASSERT_EQ(from.size(), 1u);
    EXPECT_TRUE(from[0].starts_with("file://")) << from[0];
    EXPECT_EQ(opened, 0);
    a.lend_blobs(nullptr);
}

TEST_F(Sources, ALinkThatCannotWorkIsAnError) {
    const auto failing = settings(
        "c", {{"registry.drivers", "[\"layout\", \"peer\"]"}, {"registry.peer.secret_file", dir + "/none"}});
    PluginHost host(*failing, nullptr);
    try {
        host.registry();
        FAIL() << "it worked without a secret";
    } catch (const Error &error) {
        EXPECT_NE(error.message().find("use registry driver peer"), std::string::npos) << error.message();
        EXPECT_NE(error.hint().find("openssl rand"), std::string::npos) << error.hint();
    }
}

} // namespace
} // namespace gantry
