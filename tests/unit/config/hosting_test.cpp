// The keys that every driver's table has, and tables of drivers that are not installed.
#include "core/config/config.h"

#include "core/base/files.h"

#include <gantry/value.hpp>

#include <cstdlib>
#include <gtest/gtest.h>

namespace gantry {
namespace {

const gantry_option kOwn[] = {option_string("mount_options", "\"\"", "more options")};
const DriverSchema kOverlay{GANTRY_KIND_STORAGE, "overlay", kOwn, 1};
const DriverSchema kBridge{GANTRY_KIND_NETWORK, "bridge", nullptr, 0};

class HostingTest : public testing::Test {
  protected:
    void SetUp() override {
        char path[] = "/tmp/gantry-hosting-XXXXXX";
        dir = ::mkdtemp(path);
    }
    void TearDown() override { remove_tree(dir); }
    std::shared_ptr<const EngineSettings> load(const std::string &text) {
        write_file_atomically(dir + "/gantry.toml", text, 0644, false);
        return EngineSettings::load({.file = dir + "/gantry.toml", .flags = {}});
    }
    std::vector<std::string> notices(const std::string &text) {
        return load(text)->validate({kOverlay, kBridge});
    }
    std::string refusal(const std::string &text) {
        try {
            notices(text);
        } catch (const Error &e) {
            return e.message() + " | " + e.hint();
        }
        ADD_FAILURE() << "accepted: " << text;
        return {};
    }
    std::string dir;
};

TEST_F(HostingTest, KeysOfTheHostAreNotTheDrivers) {
    const auto s = load("[engine]\ncall_timeout = \"9s\"\n[storage.overlay]\nmount_options = \"x\"\n"
                        "isolation = \"process\"\ncall_timeouts = { create = \"3s\", start = \"1m\" }\n");
    const DriverHosting h = s->hosting(kOverlay);
    EXPECT_EQ(h.isolation, DriverHosting::Isolation::kProcess);
    EXPECT_EQ(h.timeout_of("create"), 3000000000);
    EXPECT_EQ(h.timeout_of("start"), 60000000000);
    EXPECT_EQ(h.timeout_of("list"), 9000000000); // the engine's
    const auto own = s->driver_options(kOverlay);
    EXPECT_EQ(own->count, 1u);
    EXPECT_EQ(Config(own.get()).string("mount_options"), "x");
    const DriverHosting plain = s->hosting(kBridge);
    EXPECT_EQ(plain.isolation, DriverHosting::Isolation::kThread);
    bool shown = false;
    for (const ShownOption &o : s->show({kOverlay}))
        shown =
            shown || (o.key == "storage.overlay.isolation" && o.value == "\"process\"" && o.origin.line == 5);
    EXPECT_TRUE(shown);
}

TEST_F(HostingTest, RefusalsNameTheWayOut) {
    for (const auto &[text, words] : std::vector<std::pair<const char *, const char *>>{
             {"[storage.overlay]\nisolatoin = \"process\"\n", "did you mean 'isolation'?"},
             {"[storage.overlay]\nisolation = \"vm\"\n", "must be one of none, thread, process"},
             {"[storage.overlay]\ncall_timeouts = { craete = \"1s\" }\n",
              "2:19: storage.overlay.call_timeouts.craete names no operation of a storage driver; did you "
              "mean "
              "'create'?"},
             {"[storage.overlay]\ncall_timeouts = { create = \"0s\" }\n", "must be between"},
             {"[storage.overlayy]\nx = 1\n", "did you mean 'overlay'?"},
             {"[storage]\ndriver = \"zfs\"\n[storage.zfs]\nx = 1\n",
              "install the package gantry-plugin-storage-zfs"}}) {
        const std::string said = refusal(text);
        EXPECT_NE(said.find(words), said.npos) << text << "-> " << said;
    }
}

TEST_F(HostingTest, TablesOfAbsentDriversAreNoticed) {
    const auto said = notices("[storage.btrfs]\nquota = true\n[storage.aufs]\n[storage.overlay]\n"
                              "[network.somebodys-own]\n");
    ASSERT_EQ(said.size(), 3u);
    std::string all;
    for (const std::string &line : said)
        all += line + "\n";
    EXPECT_NE(all.find("1:10: no plugin for [storage.btrfs]: its options were not checked"),
              std::string::npos)
        << all;
    EXPECT_TRUE(notices("[storage.overlay]\n").empty());
}

} // namespace
} // namespace gantry
