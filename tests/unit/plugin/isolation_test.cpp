// isolation = "process": every operation crosses whole, and whatever the child does ends one call.
#include "core/plugin/host.h"

#include "core/base/cancel.h"
#include "core/base/files.h"
#include "core/plugin/process.h"
#include "core/plugin/wire.h"
#include "core/store/db.h"

#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/stat.h>
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

class Isolation : public testing::Test {
  protected:
    void SetUp() override {
        char path[] = "/tmp/gantry-isolated-XXXXXX";
        dir = ::mkdtemp(path);
        plugins = dir + "/plugins";
        make_directories(plugins, 0755);
        for (const char *name : {"chaos-storage", "chaos-network", "chaos-registry", "hostile-storage"})
            write_file_atomically(plugins + "/" + name + ".so",
                                  read_file(fmt::format("{}/fixtures/{}.so", GANTRY_BINARY_DIR, name)), 0644,
                                  false);
    }
    void TearDown() override {
        ::unsetenv("GANTRY_CHAOS_INIT");
        remove_tree(dir);
    }
    std::shared_ptr<const EngineSettings>
    settings(const std::string &at = "", const std::string &how = "",
             std::vector<std::pair<std::string, std::string>> more = {}) {
        std::vector<std::pair<std::string, std::string>> flags{
            {"engine.root", dir + "/root"}, {"engine.run", dir + "/run"}, {"engine.plugin_dirs", plugins}};
        for (const std::string kind : {"storage", "network", "registry"}) {
            const std::string table = kind + ".chaos.";
            flags.insert(flags.end(), {{kind + ".driver", "chaos"},
                                       {table + "at", at},
                                       {table + "how", how},
                                       {table + "release", dir + "/release"},
                                       {table + "isolation", "process"}});
        }
        flags.insert(flags.end(), more.begin(), more.end());
        return EngineSettings::load({.file = "", .flags = flags});
    }
    PluginInfo info(PluginHost &host, const std::string &kind) {
        for (const PluginInfo &i : host.list())
            if (i.file == fmt::format("{}/chaos-{}.so", plugins, kind)) return i;
        ADD_FAILURE() << "no plugin " << kind;
        return {};
    }
    /// Until the process is up again after its n-th restart.
    void await_restart(PluginHost &host, const std::string &kind, uint32_t n) {
        for (int i = 0; i < 5000; ++i) {
            const PluginInfo now = info(host, kind);
            if (now.restarts >= n && now.state == PluginState::kOk) return;
            ::usleep(2000);
        }
        ADD_FAILURE() << "it did not come back: " << info(host, kind).reason;
    }
    static const CallScope &call() {
        static const CallScope scope;
        return scope;
    }

    std::string dir, plugins;
};

TEST_F(Isolation, StorageCrossesWhole) {
    const auto s = settings();
    Db db(dir + "/db");
    PluginHost host(*s, &db);
    const auto d = host.storage();
    EXPECT_EQ(d->caps(call()).max_parents, 7u);
    const auto mounts = d->mounts(call(), "layer", {"p1", "p2"}, true);
    ASSERT_EQ(mounts.size(), 1u);
    EXPECT_EQ(mounts[0].source, "layer");
    EXPECT_EQ(mounts[0].options, (std::vector<std::string>{"p1", "p2"}));
    EXPECT_TRUE(mounts[0].read_only);
    EXPECT_EQ(d->usage(call(), "a").inodes, 7u);
    EXPECT_EQ(d->list(call()), (std::vector<std::string>{"a", "b"}));
    std::vector<std::string> changes;
    ASSERT_TRUE(d->has_changes());
    d->changes(call(), "a", {}, [&](const Change &c) { changes.push_back(c.path); });
    EXPECT_EQ(changes.size(), 30u);
    EXPECT_EQ(changes.back(), "/29");
    EXPECT_THROW(d->changes(call(), "a", {}, [](const Change &) { throw std::out_of_range("x"); }),
                 std::out_of_range);
    const Error e = error_of([&] { d->create(call(), "error", {}, 0); });
    EXPECT_EQ(e.error_class(), ErrorClass::kNoSpace);
    EXPECT_EQ(e.message(), "make it: full");
    EXPECT_EQ(e.hint(), "tidy up");
    EXPECT_EQ(e.errno_value(), ENOSPC);
    CallScope::Settings with;
    with.subject = "me";
    with.labels = {{"k", "v"}};
    EXPECT_NO_THROW(d->create(CallScope(with), "subject", {}, 0));
    const PluginInfo now = info(host, "storage");
    EXPECT_EQ(now.isolation, DriverHosting::Isolation::kProcess);
    EXPECT_GT(now.pid, 0);
    EXPECT_EQ(now.restarts, 0u);
    EXPECT_EQ(::getpgid(now.pid), now.pid);
}

/// What this process says on standard error meanwhile, as it is said.
struct StderrPipe {
    UniqueFd before{::fcntl(2, F_DUPFD_CLOEXEC, 3)}, reader;
    std::string text;
    StderrPipe() {
        int ends[2];
        EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
        reader.reset(ends[0]);
        ::dup2(ends[1], 2);
        ::close(ends[1]);
    }
    ~StderrPipe() { ::dup2(before.get(), 2); }
    bool says(const std::string &part) {
        char buffer[4096];
        for (pollfd p{reader.get(), POLLIN, 0}; text.find(part) == text.npos;) {
            if (::poll(&p, 1, 20'000) <= 0) return false;
            const ssize_t n = ::read(reader.get(), buffer, sizeof buffer);
            if (n <= 0) return false;
            text.append(buffer, static_cast<size_t>(n));
        }
        return true;
    }
};

TEST_F(Isolation, HostServicesAreServed) {
    const auto s = settings();
    Db db(dir + "/db");
    {
        PluginHost host(*s, &db);
        const auto d = host.storage();
        const Error e = error_of([&] { d->create(call(), "kv", {}, 0); });
        EXPECT_EQ(e.error_class(), ErrorClass::kFailedPrecondition) << e.message();
        EXPECT_NO_THROW(d->create(call(), "run", {}, 0));
        StderrPipe log;
        d->create(call(), "log", {}, 0);
        d->create(call(), "stderr", {}, 0);
        host.metrics();
        EXPECT_EQ(host.metrics().at(0).name, "gantry_chaos_inits");
        EXPECT_TRUE(log.says("chaos: a line from chaos")) << log.text;
        EXPECT_TRUE(log.says("chaos (stderr): a raw line")) << log.text;
    }
    // Without a database the plugin is told so.
    PluginHost offline(*s, nullptr);
    EXPECT_NE(error_of([&] { offline.storage()->create(call(), "kv", {}, 0); })
                  .message()
                  .find("no engine database"),
              std::string::npos);
}

TEST_F(Isolation, NetworkCrossesWithItsDescriptorAndIsToldAgain) {
    const auto s = settings();
    PluginHost host(*s, nullptr);
    const auto d = host.network();
    EXPECT_TRUE(d->caps(call()).ports);
    NetworkSpec network;
    network.id = "n";
    network.options = {{"gateway", "10.1.0.9"}};
    EXPECT_EQ(d->create_network(call(), network).at(0).gateway, "10.1.0.9");
    d->restore(call(), {network}, {});
    UniqueFd file(::open((dir + "/file").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
    EndpointSpec spec;
    spec.id = "e1";
    spec.netns_fd = file.get();
    EXPECT_EQ(d->attach(call(), spec).host_interface, dir + "/file");
    EXPECT_EQ(d->publish(call(), "e1", {}, {{GANTRY_TCP, "", 0, 0, 80}}).at(0).host_port, 4321);
    EXPECT_EQ(d->stats(call(), spec).tx_dropped, 8u);
    // Killed from outside: the next process knows the endpoint and its port.
    ASSERT_EQ(::kill(info(host, "network").pid, SIGKILL), 0);
    await_restart(host, "network", 1);
    spec.id = "e2";
    EXPECT_EQ(d->attach(call(), spec).mac, "e1:1 e2 ");
    d->detach(call(), spec);
    spec.id = "e1";
    d->detach(call(), spec);
    ASSERT_EQ(::kill(info(host, "network").pid, SIGSEGV), 0);
    await_restart(host, "network", 2);
    EXPECT_EQ(d->attach(call(), spec).mac, "e1 ");
}

TEST_F(Isolation, RegistryStreamsBothWays) {
    const auto s = settings();
    PluginHost host(*s, nullptr);
    const auto d = host.registry();
    EXPECT_TRUE(d->handles(call(), {"here", "", "", ""}));
    EXPECT_FALSE(d->handles(call(), {"there", "", "", ""}));
    std::string body = "old";
    Credential credential;
    credential.password = "secret";
    EXPECT_EQ(d->resolve(call(), {}, credential, &body).digest, "secret");
    EXPECT_EQ(body.size(), 3u << 20);
    EXPECT_EQ(d->resolve(call(), {}, {}, nullptr).digest, "none");
    Fetch fetch;
    fetch.offset = 12;
    uint64_t next = 12;
    uint64_t progressed = 0;
    CallScope::Settings with;
    with.progress = [&](const char *, uint64_t done, uint64_t) { progressed = done; };
    d->fetch(CallScope(with), fetch,
             [&](const std::string &endpoint, uint64_t at, const void *data, size_t size) {
                 EXPECT_EQ(endpoint, "mirror");
                 EXPECT_EQ(at, next);
                 EXPECT_EQ(static_cast<const char *>(data)[size - 1], 'b');
                 next += size;
             });
    EXPECT_EQ(next, 3000012u);
    EXPECT_EQ(progressed, 2900012u);
    EXPECT_THROW(
        d->fetch(call(), fetch,
                 [](const std::string &, uint64_t, const void *, size_t) { throw std::out_of_range("x"); }),
        std::out_of_range);
    Push push;
    push.descriptor.size = 5000000;
    EXPECT_NO_THROW(d->push(call(), push, [](uint64_t at, void *buffer, size_t size) -> size_t {
        size = std::min<size_t>(size, 5000000 - at);
        std::memset(buffer, 'x', size);
        return size;
    }));
    EXPECT_EQ(d->tags(call(), {}, {}), (std::vector<std::string>{"one", "two"}));
    EXPECT_EQ(d->search(call(), "r", "term", 5, {}).at(0).name, "term");
    EXPECT_EQ(d->explain(call(), {}).at(0).reason, "why");
    credential.username = "u";
    EXPECT_EQ(d->login(call(), credential), "u");
    EXPECT_EQ(d->referrers(call(), {}, "type", {}), "type");
    EXPECT_EQ(d->referrers(call(), {}, "large", {}), std::string(4u << 20, 'r'));
    const EndpointLine line = d->status(call()).at(0);
    EXPECT_EQ(line.registry, "r");
    EXPECT_EQ(line.latency_ns, 5);
    EXPECT_EQ(line.bytes_per_second, 6u);
    EXPECT_EQ(line.resting_ns, 10);
    EXPECT_EQ(d->test(call(), {"reg", "", "", ""}, {}).at(0).state, "reg");
}

TEST_F(Isolation, EveryDeathEndsItsCallAndNoMore) {
    uint32_t deaths = 0;
    for (const char *how : {"crash", "kill", "exit"}) {
        const auto s = settings("list", how);
        PluginHost host(*s, nullptr);
        const auto d = host.storage();
        for (deaths = 1; deaths <= 2; ++deaths) {
            const Error e = error_of([&] { d->list(call()); });
            EXPECT_EQ(e.error_class(), ErrorClass::kUnavailable) << how << ": " << e.message();
            EXPECT_NE(e.message().find("plugin chaos: list failed, because its process"), std::string::npos)
                << e.message();
            EXPECT_NO_THROW(d->usage(call(), "a")) << how; // waits for the restart
            EXPECT_EQ(info(host, "storage").restarts, deaths) << how;
        }
    }
    // Amid a stream, too.
    const auto s = settings("fetch", "crash");
    PluginHost host(*s, nullptr);
    size_t bytes = 0;
    EXPECT_EQ(error_of([&] {
                  host.registry()->fetch(
                      call(), {},
                      [&](const std::string &, uint64_t, const void *, size_t size) { bytes += size; });
              }).error_class(),
              ErrorClass::kUnavailable);
    EXPECT_EQ(bytes, 200000u);
}

TEST_F(Isolation, AHungCallEndsAtItsDeadlineAndThenItsProcess) {
    const auto s = settings("list", "hang", {{"storage.chaos.call_timeouts", "{ list = \"60ms\" }"}});
    PluginHost host(*s, nullptr);
    const auto d = host.storage();
    const int pid = info(host, "storage").pid;
    const Error e = error_of([&] { d->list(call()); });
    EXPECT_EQ(e.error_class(), ErrorClass::kDeadline);
    EXPECT_NE(e.message().find("plugin chaos: list did not return within its deadline of 60ms"),
              std::string::npos)
        << e.message();
    EXPECT_NO_THROW(d->usage(call(), "a")); // others go on while it hangs
    EXPECT_EQ(info(host, "storage").pid, pid);
    await_restart(host, "storage", 1);
    EXPECT_NE(::kill(pid, 0), 0);
    EXPECT_NO_THROW(d->usage(call(), "a"));
    // One that ends late, but within the grace, costs nothing.
    write_file_atomically(dir + "/release", "", 0644, false);
    EXPECT_EQ(d->list(call()).size(), 2u);
    EXPECT_EQ(info(host, "storage").restarts, 1u);
}

TEST_F(Isolation, CancellationIsForwarded) {
    const auto s = settings();
    PluginHost host(*s, nullptr);
    CancelSource cancel;
    cancel.cancel();
    CallScope::Settings with;
    with.cancel = &cancel;
    EXPECT_EQ(error_of([&] { host.storage()->create(CallScope(with), "wait", {}, 0); }).message(),
              "wait: cancelled by the caller");
    with.cancel = nullptr;
    with.timeout_ns = kSecond / 20;
    EXPECT_EQ(error_of([&] { host.storage()->create(CallScope(with), "wait", {}, 0); }).message(),
              "wait: the time given is over");
    EXPECT_EQ(info(host, "storage").restarts, 0u);
}

TEST_F(Isolation, AStartThatFailsIsTheFirstCallersError) {
    ::setenv("GANTRY_CHAOS_INIT", "crash", 1);
    const auto s = settings();
    {
        PluginHost host(*s, nullptr);
        const Error e = error_of([&] { host.storage(); });
        EXPECT_EQ(e.error_class(), ErrorClass::kUnavailable);
        // "signal 11", or with a sanitizer that catches it an exit status.
        EXPECT_NE(e.message().find("start plugin chaos: its process "), std::string::npos) << e.message();
        EXPECT_EQ(info(host, "storage").state, PluginState::kFailed);
    }
    ::unsetenv("GANTRY_CHAOS_INIT");
    const auto hangs = settings("start", "hang", {{"storage.chaos.call_timeouts", "{ start = \"300ms\" }"}});
    PluginHost host(*hangs, nullptr);
    EXPECT_EQ(error_of([&] { host.storage(); }).error_class(), ErrorClass::kDeadline);
    const auto throws = settings("", "",
                                 {{"storage.driver", "hostile"},
                                  {"storage.hostile.isolation", "process"},
                                  {"storage.hostile.throws", "error"},
                                  {"storage.hostile.in_create", "true"}});
    PluginHost other(*throws, nullptr);
    EXPECT_EQ(error_of([&] { other.storage(); }).error_class(), ErrorClass::kDataLoss);
}

TEST_F(Isolation, ManyThreadsShareOneProcess) {
    const auto s = settings();
    PluginHost host(*s, nullptr);
    const auto d = host.storage();
    std::vector<std::thread> threads;
    for (int t = 0; t < 8; ++t)
        threads.emplace_back([&, t] {
            for (int i = 0; i < 50; ++i) {
                const std::string id = fmt::format("{}-{}", t, i);
                EXPECT_EQ(d->mounts(call(), id, {id}, false).at(0).source, id);
            }
        });
    for (auto &t : threads)
        t.join();
    EXPECT_EQ(info(host, "storage").restarts, 0u);
}

TEST_F(Isolation, DestroyThatHangsIsKilled) {
    const auto s = settings("destroy", "hang", {{"storage.chaos.call_timeouts", "{ start = \"200ms\" }"}});
    int pid = 0;
    const int64_t before = Call::now_ns();
    {
        PluginHost host(*s, nullptr);
        host.storage();
        pid = info(host, "storage").pid;
    }
    EXPECT_LT(Call::now_ns() - before, 10 * kSecond);
    EXPECT_NE(::kill(pid, 0), 0);
}

TEST(Wire, ReaderBelievesNothing) {
    wire::Encoder whole;
    whole(std::vector<Mount>{{"overlay", "s", "t", {"a", "b"}, true}});
    for (size_t cut = 0; cut < whole.out.size(); ++cut) {
        const std::string bytes = whole.out.substr(0, cut);
        wire::Decoder in(bytes);
        EXPECT_THROW(in.get<std::vector<Mount>>(), Error) << cut;
    }
    // A count or a length that lies costs no memory.
    for (size_t at = 0; at + 8 <= whole.out.size(); at += 8) {
        std::string bytes = whole.out;
        std::memset(bytes.data() + at, 0xff, 8);
        wire::Decoder in(bytes);
        try {
            in.get<std::vector<Mount>>();
        } catch (const Error &) {
        }
    }
    wire::Encoder kind;
    kind(uint64_t(77));
    wire::Decoder in(kind.out);
    EXPECT_THROW(in.get<gantry_whiteout>(), Error);
    EXPECT_THROW(wire::sane(std::vector<Mount>{{"bind", "/", "../..", {}, true}}), Error);
    EXPECT_THROW(wire::sane(Change{GANTRY_CHANGE_ADDED, "/a/../../etc"}), Error);
    auto [a, b] = wire::Channel::pair();
    const uint32_t header[2] = {static_cast<uint32_t>(wire::Kind::kItem), 0xffffffff};
    ASSERT_EQ(::write(a.get(), header, sizeof header), ssize_t(sizeof header));
    wire::Channel channel(std::move(b));
    EXPECT_THROW(channel.receive(Call::now_ns() + kSecond), Error);
}

} // namespace
} // namespace gantry
