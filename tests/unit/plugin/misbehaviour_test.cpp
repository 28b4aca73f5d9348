// Plugins that hang, crash, throw and leak, of all kinds: the call ends, and nothing else notices. The
// limits here only keep a broken host from hanging the test; none judges speed.
#include "core/plugin/host.h"

#include "core/base/cancel.h"
#include "core/base/files.h"
#include "core/plugin/handover.h"

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fmt/format.h>
#include <functional>
#include <gtest/gtest.h>
#include <map>
#include <thread>
#include <unistd.h>

namespace gantry {
namespace {

constexpr int64_t kSecond = 1000000000;

template <typename F> Error error_of(F &&work) {
    try {
        work();
    } catch (const Error &e) {
        return e;
    }
    ADD_FAILURE() << "nothing was thrown";
    return {ErrorClass::kInternal, ""};
}

/// Operations of each kind by name, with arguments that the chaos plugin takes.
std::map<std::string, std::function<void(PluginHost &)>> operations(const std::string &kind) {
    static const CallScope c;
    if (kind == "storage")
        return {{"caps", [](PluginHost &h) { h.storage()->caps(c); }},
                {"create", [](PluginHost &h) { h.storage()->create(c, "a", {}, 0); }},
                {"mounts", [](PluginHost &h) { h.storage()->mounts(c, "a", {"p"}, true); }},
                {"commit", [](PluginHost &h) { h.storage()->commit(c, "a", {}, true); }},
                {"remove", [](PluginHost &h) { h.storage()->remove(c, "a"); }},
                {"usage", [](PluginHost &h) { h.storage()->usage(c, "a"); }},
                {"list", [](PluginHost &h) { h.storage()->list(c); }},
                {"changes", [](PluginHost &h) { h.storage()->changes(c, "a", {}, [](const Change &) {}); }}};
    if (kind == "network")
        return {
            {"caps", [](PluginHost &h) { h.network()->caps(c); }},
            {"create_network", [](PluginHost &h) { h.network()->create_network(c, {}); }},
            {"remove_network", [](PluginHost &h) { h.network()->remove_network(c, {}); }},
            {"attach", [](PluginHost &h) { h.network()->attach(c, {}); }},
            {"detach", [](PluginHost &h) { h.network()->detach(c, {}); }},
            {"publish", [](PluginHost &h) { h.network()->publish(c, "e", {}, {PortBinding{}}); }},
            {"restore", [](PluginHost &h) { h.network()->restore(c, {NetworkSpec{}}, {EndpointState{}}); }},
            {"stats", [](PluginHost &h) { h.network()->stats(c, {}); }},
            {"clean", [](PluginHost &h) { h.network()->clean(c); }}};
    return {{"handles", [](PluginHost &h) { h.registry()->handles(c, {}); }},
            {"resolve", [](PluginHost &h) { h.registry()->resolve(c, {}, {}, nullptr); }},
            {"fetch",
             [](PluginHost &h) {
                 h.registry()->fetch(c, {}, [](const std::string &, uint64_t, const void *, size_t) {});
             }},
            {"push",
             [](PluginHost &h) {
                 h.registry()->push(c, {}, [](uint64_t, void *, size_t) -> size_t { return 0; });
             }},
            {"tags", [](PluginHost &h) { h.registry()->tags(c, {}, {}); }},
            {"search", [](PluginHost &h) { h.registry()->search(c, "r", "t", 1, {}); }},
            {"explain", [](PluginHost &h) { h.registry()->explain(c, {}); }},
            {"login", [](PluginHost &h) { h.registry()->login(c, {}); }},
            {"referrers", [](PluginHost &h) { h.registry()->referrers(c, {}, "", {}); }},
            {"status", [](PluginHost &h) { h.registry()->status(c); }},
            {"test", [](PluginHost &h) { h.registry()->test(c, {}, {}); }}};
}

class Misbehaviour : public testing::Test {
  protected:
    void SetUp() override {
        char path[] = "/tmp/gantry-chaos-XXXXXX";
        dir = ::mkdtemp(path);
        plugins = dir + "/plugins";
        make_directories(plugins, 0755);
        for (const char *kind : {"storage", "network", "registry"})
            write_file_atomically(fmt::format("{}/chaos-{}.so", plugins, kind),
                                  read_file(fmt::format("{}/fixtures/chaos-{}.so", GANTRY_BINARY_DIR, kind)),
                                  0644, false);
    }
    void TearDown() override {
        ::unsetenv("GANTRY_CHAOS_INIT");
        release();
        // Threads that hung return now; a later test must not meet them.
        for (int i = 0; i < 2000 && plugin_calls_hang(); ++i)
            ::usleep(5000);
        EXPECT_FALSE(plugin_calls_hang());
        remove_tree(dir);
    }

    void release() { write_file_atomically(dir + "/release", "", 0644, false); }
    using Flags = std::vector<std::pair<std::string, std::string>>;
    std::shared_ptr<const EngineSettings> settings(const std::string &kind, const std::string &at,
                                                   const std::string &how, Flags more = {}) {
        const std::string table = kind + ".chaos.";
        Flags flags{{"engine.root", dir + "/root"},
                    {"engine.run", dir + "/run"},
                    {"engine.plugin_dirs", plugins},
                    {kind + ".driver", "chaos"},
                    {table + "at", at},
                    {table + "how", how},
                    {table + "release", dir + "/release"},
                    {table + "isolation", isolation}};
        flags.insert(flags.end(), more.begin(), more.end());
        return EngineSettings::load({.file = "", .flags = flags});
    }
    PluginInfo info(PluginHost &host, const std::string &kind) {
        for (const PluginInfo &i : host.list())
            if (i.file == fmt::format("{}/chaos-{}.so", plugins, kind)) return i;
        ADD_FAILURE() << "no plugin " << kind;
        return {};
    }

    std::string dir, plugins, isolation = "thread";
};

TEST_F(Misbehaviour, EveryOperationEndsAtItsDeadline) {
    for (const char *kind : {"storage", "network", "registry"})
        for (const auto &[operation, work] : operations(kind)) {
            const auto s =
                settings(kind, operation, "hang",
                         {{fmt::format("{}.chaos.call_timeouts", kind), "{ " + operation + " = \"60ms\" }"}});
            PluginHost host(*s, nullptr);
            const int64_t before = Call::now_ns();
            const Error e = error_of([&] { work(host); });
            EXPECT_LT(Call::now_ns() - before, 10 * kSecond) << kind << " " << operation;
            EXPECT_EQ(e.error_class(), ErrorClass::kDeadline) << operation << ": " << e.message();
            EXPECT_NE(e.message().find("plugin chaos: " + operation + " "), std::string::npos) << e.message();
            EXPECT_NE(e.message().find("60ms"), std::string::npos) << e.message();
            EXPECT_NE(e.hint().find(fmt::format("[{}.chaos]", kind)), std::string::npos) << e.hint();
            EXPECT_EQ(info(host, kind).calls_given_up, 1) << operation;
            release();
            while (info(host, kind).calls_given_up)
                ::usleep(1000);
            EXPECT_NO_THROW(work(host)) << operation; // works again
            ::unlink((dir + "/release").c_str());
        }
}

TEST_F(Misbehaviour, OthersGoOnWhileACallHangs) {
    const auto s =
        settings("storage", "create", "hang", {{"storage.chaos.call_timeouts", "{ create = \"1h\" }"}});
    PluginHost host(*s, nullptr);
    const auto driver = host.storage();
    std::atomic<bool> ended{false};
    CancelSource cancel;
    std::thread caller([&] {
        CallScope::Settings with;
        with.cancel = &cancel;
        const CallScope call(with);
        EXPECT_NO_THROW(driver->create(call, "a", {}, 0));
        ended = true;
    });
    for (int i = 0; i < 50; ++i) {
        EXPECT_EQ(driver->list(CallScope()).size(), 2u);
        EXPECT_EQ(host.storage(), driver);
        EXPECT_EQ(info(host, "storage").state, PluginState::kOk);
    }
    EXPECT_FALSE(ended);
    release();
    caller.join();
}

TEST_F(Misbehaviour, PluginThatHangsTooOftenIsRefusedAtOnce) {
    const auto s =
        settings("storage", "usage", "hang", {{"storage.chaos.call_timeouts", "{ usage = \"20ms\" }"}});
    PluginHost host(*s, nullptr);
    const auto driver = host.storage();
    for (int i = 0; i < CallRecord::kHungLimit; ++i)
        EXPECT_EQ(error_of([&] { driver->usage(CallScope(), "a"); }).error_class(), ErrorClass::kDeadline);
    const Error refused = error_of([&] { driver->list(CallScope()); });
    EXPECT_EQ(refused.error_class(), ErrorClass::kUnavailable);
    EXPECT_NE(refused.message().find("8 earlier calls hang"), std::string::npos) << refused.message();
    EXPECT_EQ(info(host, "storage").state, PluginState::kFailed);
    EXPECT_NE(info(host, "storage").reason.find("hung"), std::string::npos);
    release();
    while (info(host, "storage").calls_given_up)
        ::usleep(1000);
    EXPECT_EQ(info(host, "storage").state, PluginState::kOk);
    EXPECT_NO_THROW(driver->list(CallScope()));
}

TEST_F(Misbehaviour, HangingStartHoldsNothingUp) {
    for (const char *where : {"init", "create"}) {
        const bool in_init = std::string(where) == "init";
        if (in_init) {
            ::setenv("GANTRY_CHAOS_INIT", "hang", 1);
            ::setenv("GANTRY_CHAOS_RELEASE", (dir + "/release").c_str(), 1);
        }
        const auto s = settings("storage", in_init ? "" : "start", "hang",
                                {{"storage.chaos.call_timeouts", "{ start = \"300ms\" }"}});
        PluginHost host(*s, nullptr);
        std::atomic<bool> ended{false};
        std::thread starter([&] {
            EXPECT_EQ(error_of([&] { host.storage(); }).error_class(), ErrorClass::kDeadline);
            ended = true;
        });
        int listed = 0;
        while (!ended) {
            host.list();
            host.metrics();
            ++listed;
        }
        starter.join();
        EXPECT_GT(listed, 3) << where;
        EXPECT_NE(error_of([&] { host.storage(); }).message().find("has not returned"), std::string::npos);
        EXPECT_EQ(info(host, "storage").state, PluginState::kFailed);
        ::unsetenv("GANTRY_CHAOS_INIT");
        release();
        // The late success is undone, and a new start works.
        while (plugin_calls_hang())
            ::usleep(1000);
        EXPECT_NO_THROW(host.storage()->list(CallScope())) << where;
        ::unlink((dir + "/release").c_str());
    }
}

TEST_F(Misbehaviour, HangingDestroyDoesNotHoldTheEndUp) {
    const auto s =
        settings("storage", "destroy", "hang", {{"storage.chaos.call_timeouts", "{ start = \"100ms\" }"}});
    const int64_t before = Call::now_ns();
    {
        PluginHost host(*s, nullptr);
        host.storage();
    }
    EXPECT_LT(Call::now_ns() - before, 10 * kSecond);
    EXPECT_TRUE(plugin_calls_hang());
}

TEST_F(Misbehaviour, ATransferEndsWhenNothingMovesAndNotBefore) {
    const Flags limit{{"registry.chaos.call_timeout", "200ms"}};
    std::atomic<size_t> bytes{0};
    const BlobSink sink = [&](const std::string &, uint64_t, const void *, size_t size) { bytes += size; };
    const auto slow = settings("registry", "fetch", "slow", limit);
    {
        PluginHost host(*slow, nullptr);
        EXPECT_NO_THROW(host.registry()->fetch(CallScope(), {}, sink)); // 600 ms, but never silent
        EXPECT_EQ(bytes, 3000u);
    }
    const auto hang = settings("registry", "fetch", "hang", limit);
    PluginHost host(*hang, nullptr);
    const auto driver = host.registry();
    bytes = 0;
    const Error e = error_of([&] { driver->fetch(CallScope(), {}, sink); });
    EXPECT_EQ(e.error_class(), ErrorClass::kDeadline);
    EXPECT_NE(e.message().find("gave no sign of life for 200ms"), std::string::npos) << e.message();
    const size_t seen = bytes;
    EXPECT_EQ(seen, 200000u);
    release(); // the plugin goes on writing to a sink that is gone
    while (info(host, "registry").calls_given_up)
        ::usleep(1000);
    EXPECT_EQ(bytes, seen);
}

TEST_F(Misbehaviour, ACancellationThatIsNotObeyedEndsTheCallToo) {
    const auto s = settings("storage", "list", "hang");
    PluginHost host(*s, nullptr);
    CancelSource cancel;
    cancel.cancel();
    CallScope::Settings with;
    with.cancel = &cancel;
    const CallScope call(with);
    EXPECT_EQ(error_of([&] { host.storage()->list(call); }).error_class(), ErrorClass::kCancelled);
    // One that is obeyed ends with the plugin's own words.
    const Error e = error_of([&] { host.storage()->create(call, "wait", {}, 0); });
    EXPECT_EQ(e.message(), "wait: cancelled by the caller");
}

TEST_F(Misbehaviour, WhatIsThrownInsideIsTheCallersError) {
    for (const char *kind : {"storage", "network", "registry"})
        for (const auto &[operation, work] : operations(kind)) {
            const auto s = settings(kind, operation, "throw");
            PluginHost host(*s, nullptr);
            EXPECT_EQ(error_of([&] { work(host); }).error_class(), ErrorClass::kInternal) << operation;
        }
    // And what the caller's sink throws comes back unchanged.
    const auto s = settings("storage", "", "");
    PluginHost host(*s, nullptr);
    EXPECT_THROW(
        host.storage()->changes(CallScope(), "a", {}, [](const Change &) { throw std::out_of_range("x"); }),
        std::out_of_range);
}

TEST_F(Misbehaviour, ProbeNamesWhatIsMissing) {
    const auto s = settings("storage", "probe", "missing");
    PluginHost host(*s, nullptr);
    EXPECT_EQ(info(host, "storage").state, PluginState::kSkipped);
    EXPECT_EQ(info(host, "storage").reason, "kernel has no chaos");
    EXPECT_EQ(info(host, "network").state, PluginState::kAvailable);
    EXPECT_FALSE(std::filesystem::exists(dir + "/root")); // nothing was made
    // It says something about the listing only; who chooses the driver finds out by starting it.
    EXPECT_NO_THROW(host.storage());
    EXPECT_EQ(info(host, "storage").state, PluginState::kOk);
    const auto hangs = settings("storage", "probe", "hang");
    PluginHost other(*hangs, nullptr);
    EXPECT_EQ(info(other, "storage").state, PluginState::kFailed);
    EXPECT_NE(info(other, "storage").reason.find("probe"), std::string::npos);
}

TEST_F(Misbehaviour, OnTheCallersThreadDeadlinesAreTold) {
    isolation = "none";
    const auto s = settings("storage", "", "", {{"storage.chaos.call_timeouts", "{ create = \"30ms\" }"}});
    PluginHost host(*s, nullptr);
    EXPECT_EQ(error_of([&] { host.storage()->create(CallScope(), "wait", {}, 0); }).message(),
              "wait: the time given is over");
    EXPECT_FALSE(plugin_calls_hang());
}

} // namespace
} // namespace gantry
