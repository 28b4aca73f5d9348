// Host services as a plugin meets them: the veneer's Host over the real table.
#include "core/base/cancel.h"
#include "core/base/files.h"
#include "core/plugin/services.h"
#include "core/store/db.h"

#include <gantry/plugin.hpp>
#include <gtest/gtest.h>
#include <thread>

namespace gantry {
namespace {

class ServicesTest : public testing::Test {
  protected:
    void SetUp() override {
        char path[] = "/tmp/gantry-services-XXXXXX";
        dir = ::mkdtemp(path);
        db = std::make_unique<Db>(dir + "/db");
        services = std::make_unique<PluginServices>("me", db.get());
    }
    void TearDown() override {
        services.reset();
        db.reset();
        remove_tree(dir);
    }
    Host host() { return Host(services->raw()); }

    std::string dir;
    std::unique_ptr<Db> db;
    std::unique_ptr<PluginServices> services;
    CallScope call;
};

ErrorClass class_of(const std::function<void()> &work) {
    try {
        work();
    } catch (const Error &e) {
        return e.error_class();
    }
    ADD_FAILURE() << "nothing was thrown";
    return ErrorClass::kInternal;
}

TEST_F(ServicesTest, KeysAreTransactional) {
    using W = Host::Write;
    EXPECT_FALSE(host().get(call, "a"));
    host().apply(call, {{"a", "1", W::Expect::kAbsent, ""}, {"b/x", std::string("\0z", 2)}, {"b/y", ""}});
    EXPECT_EQ(host().get(call, "b/x"), std::string("\0z", 2));
    EXPECT_EQ(host().get(call, "b/y"), "");
    EXPECT_EQ(host().list(call, "b/"), (std::vector<std::string>{"b/x", "b/y"}));
    EXPECT_EQ(class_of([&] {
                  host().apply(call, {{"c", "3"}, {"a", "2", W::Expect::kEqual, "other"}});
              }),
              ErrorClass::kFailedPrecondition);
    EXPECT_FALSE(host().get(call, "c")) << "half a transaction happened";
    host().apply(call, {{"a", std::nullopt, W::Expect::kEqual, "1"}});
    EXPECT_FALSE(host().get(call, "a"));
    // Another plugin sees nothing of it.
    PluginServices other("you", db.get());
    EXPECT_TRUE(Host(other.raw()).list(call, "").empty());
}

TEST_F(ServicesTest, KeysHaveLimits) {
    EXPECT_EQ(class_of([&] { host().get(call, std::string(513, 'k')); }), ErrorClass::kInvalidArgument);
    EXPECT_EQ(class_of([&] { host().apply(call, {{"", "v"}}); }), ErrorClass::kInvalidArgument);
    EXPECT_EQ(class_of([&] {
                  host().apply(call, {{"k", std::string((1 << 20) + 1, 'v')}});
              }),
              ErrorClass::kInvalidArgument);
}

TEST_F(ServicesTest, RunsPrograms) {
    const Host::Output o =
        host().run(call, {"/bin/sh", "-c", "cat; echo err >&2; echo $LANG; exit 3"}, "input ");
    EXPECT_EQ(o.exit_code, 3);
    EXPECT_EQ(o.out, "input C\n");
    EXPECT_EQ(o.err, "err\n");
    EXPECT_EQ(host().run(call, {"/bin/sh", "-c", "kill -9 $$"}).exit_code, 137);
    EXPECT_EQ(class_of([&] { host().run(call, {"sh"}); }), ErrorClass::kInvalidArgument);
    EXPECT_EQ(class_of([&] { host().run(call, {"/no/such/program"}); }), ErrorClass::kNotFound);
    // More than a pipe holds, both ways.
    const std::string large(600000, 'x');
    EXPECT_EQ(host().run(call, {"/bin/cat"}, large).out, large);
}

TEST_F(ServicesTest, RunObeysDeadlineAndCancel) {
    CallScope short_call(CallScope::Settings{.timeout_ns = 50'000'000});
    EXPECT_EQ(class_of([&] { host().run(short_call, {"/bin/sleep", "60"}); }), ErrorClass::kDeadline);
    CancelSource source;
    CallScope cancellable(CallScope::Settings{.cancel = &source});
    std::thread later([&] { source.cancel(); });
    EXPECT_EQ(class_of([&] { host().run(cancellable, {"/bin/sleep", "60"}); }), ErrorClass::kCancelled);
    later.join();
}

TEST_F(ServicesTest, BlobsAreLentForAWhile) {
    uint64_t size = 0;
    const auto open = [&](PluginServices &s, const char *digest) {
        return Host(s.raw()).open_blob(call, digest, size);
    };
    EXPECT_EQ(class_of([&] { open(*services, "sha256:a"); }), ErrorClass::kUnsupported); // keeps none
    const auto blobs = std::make_shared<LentBlobs>();
    PluginServices lending("me", db.get(), blobs);
    EXPECT_EQ(class_of([&] { open(lending, "sha256:a"); }), ErrorClass::kUnavailable); // not yet
    blobs->lend([&](const std::string &digest, uint64_t &bytes) {
        if (digest != "sha256:a") throw Error(ErrorClass::kNotFound, "open: none");
        bytes = 7;
        return UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    });
    const UniqueFd blob = open(lending, "sha256:a");
    EXPECT_GE(blob.get(), 0);
    EXPECT_EQ(::fcntl(blob.get(), F_GETFD), FD_CLOEXEC);
    EXPECT_EQ(size, 7u);
    EXPECT_EQ(class_of([&] { open(lending, "sha256:b"); }), ErrorClass::kNotFound);
    blobs->lend(nullptr);
    EXPECT_EQ(class_of([&] { open(lending, "sha256:a"); }), ErrorClass::kUnavailable);
}

TEST_F(ServicesTest, CountsFromManyThreads) {
    std::vector<std::thread> threads;
    for (int t = 0; t < 8; ++t)
        threads.emplace_back([&] {
            for (int i = 0; i < 1000; ++i)
                host().count("pulls", 1);
            host().gauge("level", 5);
        });
    for (std::thread &t : threads)
        t.join();
    auto metrics = services->metrics();
    std::sort(metrics.begin(), metrics.end());
    ASSERT_EQ(metrics.size(), 2u);
    EXPECT_EQ(metrics[0], (std::pair<std::string, int64_t>{"gantry_me_level", 5}));
    EXPECT_EQ(metrics[1], (std::pair<std::string, int64_t>{"gantry_me_pulls", 8000}));
}

TEST(PluginHostTest, EmptyHostSaysSo) {
    CallScope call;
    EXPECT_EQ(class_of([&] { plugin_host().get(call, "a"); }), ErrorClass::kFailedPrecondition);
    plugin_host().log(GANTRY_LOG_INFO, "nobody listens");
}

} // namespace
} // namespace gantry
