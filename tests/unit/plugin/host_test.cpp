// Judgement, state machine, edges and choice of drivers, over the fixture plugins.
#include "core/plugin/host.h"

#include "core/base/cancel.h"
#include "core/base/files.h"
#include "core/plugin/engine_id.h"
#include "core/plugin/judgement.h"
#include "core/store/db.h"

#include <cstdlib>
#include <map>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

namespace gantry {
namespace {

const std::string kFixtures = std::string(GANTRY_BINARY_DIR) + "/fixtures/";

class HostTest : public testing::Test {
  protected:
    void SetUp() override {
        char path[] = "/tmp/gantry-plugin-XXXXXX";
        dir = ::mkdtemp(path);
        plugins = dir + "/plugins";
        make_directories(plugins, 0755);
        ::setenv("GANTRY_FIXTURE_LOG", (dir + "/log").c_str(), 1);
        ::unsetenv("GANTRY_FIXTURE_INIT");
    }
    void TearDown() override { remove_tree(dir); }

    std::string copy(const std::string &fixture, const std::string &as = {}) {
        const std::string to = plugins + "/" + (as.empty() ? fixture : as) + ".so";
        write_file_atomically(to, read_file(kFixtures + fixture + ".so"), 0644, false);
        return to;
    }
    std::shared_ptr<const EngineSettings>
    settings(std::vector<std::pair<std::string, std::string>> flags = {}) {
        flags.insert(
            flags.begin(),
            {{"engine.root", dir + "/root"}, {"engine.run", dir + "/run"}, {"engine.plugin_dirs", plugins}});
        return EngineSettings::load({.file = "", .flags = flags});
    }
    std::string log() {
        bool found = false;
        std::string text = read_file_if(dir + "/log", found);
        for (char &c : text)
            if (c == '\n') c = ' ';
        return text;
    }

    std::string dir, plugins;
};

template <typename F> Error error_of(F &&work) {
    try {
        work();
    } catch (const Error &e) {
        return e;
    }
    ADD_FAILURE() << "nothing was thrown";
    return {ErrorClass::kInternal, ""};
}

struct Refusal {
    const char *fixture, *words;
};

TEST_F(HostTest, EachBrokenFileHasItsOwnRefusal) {
    const Refusal cases[] = {{"wrong-magic", "magic"},
                             {"newer-major", "plugin ABI 2."},
                             {"newer-minor", "needs plugin ABI 1.9"},
                             {"short-note", "entry has 64 bytes"},
                             {"short-entry", "entry has 64 bytes"},
                             {"other-kind", "contradicts its note"},
                             {"unknown-kind", "unknown kind 77"},
                             {"no-symbol", "does not export gantry_plugin_entry"},
                             {"no-note", "no gantry ABI note"},
                             {"bad-name", "driver name"},
                             {"half-table", "half-filled"},
                             {"half-ability", "ability gantry.storage.diff/1 is half-filled"}};
    for (const Refusal &c : cases)
        copy(c.fixture);
    write_file_atomically(plugins + "/text.so", "hello, I am text\n", 0644, false);
    write_file_atomically(plugins + "/empty.so", "", 0644, false);
    const std::string elf = read_file(kFixtures + "plain.so");
    write_file_atomically(plugins + "/cut.so", elf.substr(0, 4096), 0644, false);
    std::string alien = elf;
    alien[18] = 8; // e_machine: MIPS
    alien[19] = 0;
    write_file_atomically(plugins + "/alien.so", alien, 0644, false);
    make_directories(plugins + "/folder.so", 0755);
    ::chmod(copy("plain", "writable").c_str(), 0666);
    const std::string good = copy("plain", "zz-good");
    const auto s = settings({{"plugins.\"pinned.so\".sha256", std::string(64, 'a')}});
    copy("plain", "pinned");

    PluginHost host(*s, nullptr);
    std::map<std::string, PluginInfo> by_file;
    for (const PluginInfo &i : host.list())
        by_file[i.file.substr(plugins.size() + 1)] = i;
    std::vector<Refusal> all(std::begin(cases), std::end(cases));
    all.insert(all.end(), {{"text", "not an ELF shared object"},
                           {"empty", "empty"},
                           {"cut", "cut short"},
                           {"alien", "another machine"},
                           {"folder", "not a regular file"},
                           {"writable", "written by others"},
                           {"pinned", "is pinned"}});
    for (const Refusal &c : all) {
        const PluginInfo &i = by_file[std::string(c.fixture) + ".so"];
        EXPECT_EQ(i.state, PluginState::kFailed) << c.fixture;
        EXPECT_NE(i.reason.find(c.words), std::string::npos) << c.fixture << ": " << i.reason;
        EXPECT_NE(i.reason.find(plugins), std::string::npos) << i.reason;
    }
    // The broken ones stop nobody, and none of those that are refused by the file alone ran its code.
    EXPECT_EQ(by_file["zz-good.so"].state, PluginState::kAvailable) << by_file["zz-good.so"].reason;
    EXPECT_EQ(host.schemas().size(), 1u);
    (void)good;
}

TEST_F(HostTest, JudgesWithoutRunningCode) {
    judge_plugin_file(copy("plain"), "");
    for (const char *bad : {"newer-major", "no-symbol", "no-note", "short-note"})
        EXPECT_THROW(judge_plugin_file(copy(bad), ""), Error);
    EXPECT_EQ(log(), "");
    EXPECT_EQ(error_of([] { judge_plugin_file("lib/x.so", ""); }).error_class(),
              ErrorClass::kInvalidArgument);
    ::chmod(plugins.c_str(), 0777);
    EXPECT_NE(error_of([&] { judge_plugin_file(plugins + "/plain.so", ""); }).message().find("directory"),
              std::string::npos);
}

TEST_F(HostTest, ElfReaderSurvivesEveryCutAndManyFlips) {
    std::string elf = read_file(kFixtures + "plain.so");
    const auto judge = [](const std::string &bytes) {
        try {
            // A copy of exact size, so that a sanitizer sees any read beyond it.
            const std::vector<unsigned char> exact(bytes.begin(), bytes.end());
            judge_plugin_elf(exact.data(), exact.size(), "/x.so");
            return true;
        } catch (const Error &) {
            return false;
        }
    };
    EXPECT_TRUE(judge(elf));
    for (size_t cut = 0; cut < elf.size(); cut += 97)
        EXPECT_FALSE(judge(elf.substr(0, cut))) << cut;
    for (size_t at = 0; at < 64; ++at) {
        std::string flipped = elf;
        flipped[at] = static_cast<char>(0xff);
        judge(flipped);
    }
    for (size_t at = elf.size() - 4096; at < elf.size(); at += 3) { // section headers
        std::string flipped = elf;
        flipped[at] = static_cast<char>(0x7f);
        judge(flipped);
    }
}

TEST_F(HostTest, WholeStateMachine) {
    copy("plain");
    {
        const auto s = settings({{"storage.driver", "plain"}});
        PluginHost host(*s, nullptr);
        EXPECT_EQ(host.storage()->caps(CallScope()).max_parents, 7u);
        EXPECT_EQ(host.storage_name(), "plain");
        EXPECT_EQ(host.storage(), host.storage());
        ASSERT_EQ(host.metrics().size(), 1u);
        EXPECT_EQ(host.metrics()[0].name, "gantry_plain_inits");
        struct stat st {};
        ASSERT_EQ(::stat((dir + "/root/storage/plain").c_str(), &st), 0);
        EXPECT_EQ(st.st_mode & 07777, 0700u);
        ASSERT_EQ(::stat((dir + "/run/storage/plain").c_str(), &st), 0);
        EXPECT_TRUE(host.list()[0].in_use);
    }
    // "load" may be missing: the library stays in the process and another test may have loaded a twin.
    EXPECT_TRUE(log().ends_with("init create caps destroy deinit ")) << log();
}

TEST_F(HostTest, FailedInitEndsThere) {
    copy("plain");
    for (const auto &[how, state] :
         {std::pair{"unsupported", PluginState::kSkipped}, std::pair{"fail", PluginState::kFailed}}) {
        ::setenv("GANTRY_FIXTURE_INIT", how, 1);
        write_file_atomically(dir + "/log", "", 0644, false);
        const auto s = settings({{"storage.driver", "plain"}});
        {
            PluginHost host(*s, nullptr);
            EXPECT_NE(error_of([&] { host.storage(); }).message().find("start fixture"), std::string::npos);
            EXPECT_EQ(host.list()[0].state, state);
            EXPECT_FALSE(host.list()[0].in_use);
            EXPECT_TRUE(host.metrics().empty());
        }
        EXPECT_TRUE(log().ends_with("init ")) << log();
    }
}

TEST_F(HostTest, FailedCreateIsFollowedByDeinitOnly) {
    copy("plain");
    for (const char *mode : {"create_fails", "create_null"}) {
        write_file_atomically(dir + "/log", "", 0644, false);
        const auto s = settings({{"storage.driver", "plain"}, {"storage.plain.mode", mode}});
        {
            PluginHost host(*s, nullptr);
            EXPECT_THROW(host.storage(), Error);
            EXPECT_EQ(host.list()[0].state, PluginState::kFailed);
        }
        EXPECT_TRUE(log().ends_with("init create deinit ")) << log();
    }
}

TEST_F(HostTest, NamedDriverThatIsAbsentIsAnError) {
    copy("plain");
    const auto s = settings({{"storage.driver", "zfs"}, {"network.driver", "nothing"}});
    PluginHost host(*s, nullptr);
    const Error e = error_of([&] { host.storage(); });
    EXPECT_EQ(e.error_class(), ErrorClass::kFailedPrecondition);
    EXPECT_NE(e.message().find("plain"), std::string::npos) << e.message();
    EXPECT_THROW(host.network(), Error);
}

TEST_F(HostTest, AutoTakesTheFirstThatWorks) {
    copy("plain");
    copy("hostile-storage");
    const auto s = settings({{"storage.prefer", "absent,hostile,plain"},
                             {"storage.hostile.throws", "error"},
                             {"storage.hostile.in_create", "true"}});
    PluginHost host(*s, nullptr);
    host.storage();
    EXPECT_EQ(host.storage_name(), "plain");
    const auto none = settings({{"storage.prefer", "absent"}, {"engine.root", dir + "/other"}});
    PluginHost empty(*none, nullptr);
    EXPECT_NE(error_of([&] { empty.storage(); }).message().find("absent: no such plugin"), std::string::npos);
}

TEST_F(HostTest, RootOfAnotherDriverIsRefused) {
    copy("plain");
    copy("hostile-storage");
    make_directories(dir + "/root/storage", 0700);
    write_file_atomically(dir + "/root/storage/.driver", "plain\n", 0600, false);
    const auto s = settings({{"storage.driver", "hostile"}});
    PluginHost host(*s, nullptr);
    const Error e = error_of([&] { host.storage(); });
    EXPECT_EQ(e.error_class(), ErrorClass::kFailedPrecondition);
    EXPECT_NE(e.hint().find("storage.driver = \"plain\""), std::string::npos) << e.hint();
    // auto stays with what is there, whatever is preferred.
    const auto choose = settings({{"storage.prefer", "hostile"}});
    PluginHost chosen(*choose, nullptr);
    chosen.storage();
    EXPECT_EQ(chosen.storage_name(), "plain");
    // Without layers of it in the database nothing holds the root back.
    Db db(dir + "/db");
    PluginHost fresh(*s, &db);
    fresh.storage();
    EXPECT_EQ(read_file(dir + "/root/storage/.driver"), "hostile\n");
}

TEST_F(HostTest, TwoFilesWithOneName) {
    copy("plain");
    copy("plain", "twin");
    const auto s = settings();
    PluginHost host(*s, nullptr);
    EXPECT_NE(host.list()[1].reason.find("already offered by"), std::string::npos) << host.list()[1].reason;
}

TEST_F(HostTest, WrongAnswersNameThePlugin) {
    copy("plain");
    const auto with = [&](const char *mode, const std::function<void(StorageDriver &)> &work) {
        const auto s = settings({{"storage.driver", "plain"}, {"storage.plain.mode", mode}});
        PluginHost host(*s, nullptr);
        const auto driver = host.storage();
        const Error e = error_of([&] { work(*driver); });
        EXPECT_EQ(e.error_class(), ErrorClass::kInternal) << mode << ": " << e.message();
        EXPECT_NE(e.message().find("plain"), std::string::npos) << mode << ": " << e.message();
    };
    CallScope call;
    for (const char *mode :
         {"null_type", "null_option", "many_options", "no_mount", "null_mount", "short_mount", "escape"})
        with(mode, [&](StorageDriver &d) { d.mounts(call, "a", {"p"}, true); });
    with("whiteout", [&](StorageDriver &d) { d.caps(call); });
    with("absurd", [&](StorageDriver &d) { d.usage(call, "a"); });
    with("null_id", [&](StorageDriver &d) { d.list(call); });
    with("deaf", [&](StorageDriver &d) { d.list(call); });
    with("status99", [&](StorageDriver &d) { d.create(call, "a", {}, 0); });
}

TEST_F(HostTest, SinksOfAnEndpointAreUsedExactlyOnce) {
    copy("careless-network");
    CallScope call;
    const std::vector<PortBinding> ports{{GANTRY_TCP, "", 0, 0, 80}};
    for (const char *mode : {"", "never", "twice", "null", "prefix", "unsettled", "throws"}) {
        const auto s = settings({{"network.driver", "careless"}, {"network.careless.mode", mode}});
        PluginHost host(*s, nullptr);
        const auto driver = host.network();
        const std::string m = mode;
        const bool attaches = m.empty() || m == "unsettled" || m == "throws";
        const bool publishes = m.empty() || m == "null" || m == "prefix";
        if (attaches)
            EXPECT_EQ(driver->attach(call, {}).ipv4, "10.0.0.2");
        else
            EXPECT_NE(error_of([&] { driver->attach(call, {}); }).message().find("plugin careless"), m.npos)
                << m;
        if (publishes)
            EXPECT_EQ(driver->publish(call, "e", {}, ports)[0].host_port, 1234);
        else
            EXPECT_NE(
                error_of([&] { driver->publish(call, "e", {}, ports); }).message().find("plugin careless"),
                m.npos)
                << m;
    }
}

#if defined(__x86_64__)
TEST_F(HostTest, PluginBuiltAgainstTheFirstReleaseLoads) {
    const std::string archived = std::string(GANTRY_SOURCE_DIR) + "/tests/conformance/plugin/archive/";
    write_file_atomically(plugins + "/old.so", read_file(archived + "plain-abi-1.0-x86_64.so"), 0644, false);
    const auto s = settings({{"storage.driver", "plain"}});
    PluginHost host(*s, nullptr);
    EXPECT_EQ(host.storage()->list(CallScope()), std::vector<std::string>{"a"});
}
#endif

TEST_F(HostTest, EachClassCrossesWhole) {
    copy("plain");
    const auto s = settings({{"storage.driver", "plain"}});
    PluginHost host(*s, nullptr);
    for (int status = GANTRY_NOT_FOUND; status <= GANTRY_INTERNAL; ++status) {
        const Error e =
            error_of([&] { host.storage()->create(CallScope(), "class" + std::to_string(status), {}, 0); });
        EXPECT_EQ(e.status(), status);
        EXPECT_EQ(e.message(), "make layer: as asked");
        EXPECT_EQ(e.hint(), "try something else");
    }
    const auto mount = host.storage()->mounts(CallScope(), "a", {"p1", "p2"}, true);
    ASSERT_EQ(mount.size(), 1u);
    EXPECT_EQ(mount[0].options, std::vector<std::string>{"p1"});
    EXPECT_TRUE(mount[0].read_only);
}

TEST_F(HostTest, DefaultDeadlineAndMuteFailure) {
    copy("plain");
    const auto s = settings({{"storage.driver", "plain"}, {"storage.plain.mode", "deadline"}});
    PluginHost host(*s, nullptr);
    EXPECT_NO_THROW(host.storage()->create(CallScope(), "a", {}, 0));
    const auto mute = settings({{"storage.driver", "plain"}, {"storage.plain.mode", "mute"}});
    PluginHost other(*mute, nullptr);
    const Error e = error_of([&] { other.storage()->create(CallScope(), "a", {}, 0); });
    EXPECT_EQ(e.error_class(), ErrorClass::kNoSpace);
    EXPECT_NE(e.message().find("no reason given"), std::string::npos);
}

class Hostile : public HostTest, public testing::WithParamInterface<std::pair<const char *, ErrorClass>> {};

TEST_P(Hostile, NothingCrossesFromAnyVirtual) {
    const auto [what, expected] = GetParam();
    copy("hostile-storage");
    copy("hostile-network");
    copy("hostile-registry");
    std::vector<std::pair<std::string, std::string>> flags;
    for (const char *kind : {"storage", "network", "registry"}) {
        flags.push_back({fmt::format("{}.driver", kind), "hostile"});
        flags.push_back({fmt::format("{}.hostile.throws", kind), what});
    }
    const auto s = settings(flags);
    PluginHost host(*s, nullptr);
    CallScope c;
    const auto storage = host.storage();
    const auto network = host.network();
    const auto registry = host.registry();
    ASSERT_TRUE(storage->has_changes());
    const std::vector<std::function<void()>> calls{
        [&] { storage->caps(c); },
        [&] { storage->create(c, "a", {}, 0); },
        [&] { storage->mounts(c, "a", {}, true); },
        [&] { storage->commit(c, "a", {}, true); },
        [&] { storage->remove(c, "a"); },
        [&] { storage->usage(c, "a"); },
        [&] { storage->list(c); },
        [&] { storage->changes(c, "a", {}, [](const Change &) {}); },
        [&] { network->caps(c); },
        [&] { network->create_network(c, {}); },
        [&] { network->remove_network(c, {}); },
        [&] { network->attach(c, {}); },
        [&] { network->detach(c, {}); },
        [&] { network->publish(c, "e", {}, {}); },
        [&] { network->restore(c, {NetworkSpec{}}, {EndpointState{}}); },
        [&] { network->stats(c, {}); },
        [&] { network->clean(c); },
        [&] { registry->handles(c, {}); },
        [&] { registry->resolve(c, {}, {}, nullptr); },
        [&] { registry->fetch(c, {}, [](const std::string &, uint64_t, const void *, size_t) {}); },
        [&] { registry->push(c, {}, [](uint64_t, void *, size_t) -> size_t { return 0; }); },
        [&] { registry->tags(c, {}, {}); },
        [&] { registry->search(c, "r", "t", 1, {}); },
        [&] { registry->explain(c, {}); },
        [&] { registry->login(c, {}); },
        [&] { registry->referrers(c, {}, "", {}); },
        [&] { registry->status(c); },
        [&] { registry->test(c, {}, {}); }};
    for (size_t i = 0; i < calls.size(); ++i)
        EXPECT_EQ(error_of(calls[i]).error_class(), expected) << i;
    // From the factory too.
    flags.push_back({"storage.hostile.in_create", "true"});
    const auto in_create = settings(flags);
    PluginHost failing(*in_create, nullptr);
    EXPECT_EQ(error_of([&] { failing.storage(); }).error_class(), expected);
}
INSTANTIATE_TEST_SUITE_P(All, Hostile,
                         testing::Values(std::pair{"int", ErrorClass::kInternal},
                                         std::pair{"memory", ErrorClass::kNoSpace},
                                         std::pair{"custom", ErrorClass::kInternal},
                                         std::pair{"error", ErrorClass::kDataLoss}));

TEST_F(HostTest, EngineIdIsMadeOnce) {
    std::string id;
    {
        Db db(dir + "/db");
        id = engine_id(db);
        EXPECT_EQ(engine_id(db), id);
    }
    Db db(dir + "/db");
    EXPECT_EQ(engine_id(db), id);
    EXPECT_EQ(id.size(), 8u);
}

} // namespace
} // namespace gantry
