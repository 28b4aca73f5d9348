// The plan's reader must refuse every damaged plan without reading outside of it, and the compiler must
// put into it what the document says.
#include "core/runtime/cgroups.h"
#include "core/runtime/plan_writer.h"

#include <gantry/error.hpp>

#include <gtest/gtest.h>
#include <map>
#include <random>
#include <sys/mount.h>

namespace gantry {
namespace {

RuntimeSpec small_spec() {
    RuntimeSpec spec;
    spec.process.args = {"/bin/true", "", "x y"};
    spec.process.env = {"A=1", "HOME=/h"};
    spec.process.capabilities = {"CAP_CHOWN", "CAP_KILL"};
    spec.process.additional_gids = {7, 8};
    spec.mounts = {{"/proc", "proc", "proc", {"nosuid"}},
                   {"/data", "bind", "/src", {"rbind", "ro", "rslave"}}};
    spec.masked_paths = {"/proc/kcore"};
    return spec;
}

std::string compiled(const RuntimeSpec &spec) {
    CgroupLayout layout;
    CompileContext context;
    context.layout = &layout;
    context.id = "x", context.root_path = "/r", context.group = "/g/x";
    return compile_start(spec, {}, context).bytes();
}

/// Touches everything a reader can reach.
size_t walk(const std::string &bytes) {
    size_t sum = 0;
    for (plan::Cursor c(bytes.data()); c.next();) {
        plan::View view = c.view();
        for (uint32_t i = 0; i < view.numbers(); i++)
            sum += view.number(i);
        for (uint32_t i = 0; i < view.strings(); i++)
            sum += strlen(view.text(i));
    }
    return sum;
}

} // namespace

TEST(Plan, RoundTrip) {
    std::string bytes = compiled(small_spec());
    ASSERT_TRUE(plan::valid(bytes.data(), bytes.size(), true));
    std::vector<std::string> args;
    for (plan::Cursor c(bytes.data(), plan::kArg); c.next();)
        args.push_back(c.view().text(0));
    EXPECT_EQ((std::vector<std::string>{"/bin/true", "", "x y"}), args);
    plan::Cursor caps(bytes.data(), plan::kCaps), ids(bytes.data(), plan::kIds),
        mounts(bytes.data(), plan::kMount);
    ASSERT_TRUE(caps.next() && ids.next() && mounts.next() && mounts.next());
    EXPECT_EQ(0x21u, caps.view().number(0));
    EXPECT_EQ(5u, ids.view().numbers());
    EXPECT_EQ(8u, ids.view().number(4));
    EXPECT_EQ(uint64_t(plan::kRecursiveBind), mounts.view().number(0));
    EXPECT_EQ(uint64_t(MOUNT_ATTR_RDONLY), mounts.view().number(1));
    EXPECT_EQ(uint64_t(MS_SLAVE | MS_REC), mounts.view().number(2));
    EXPECT_STREQ("/data", mounts.view().text(1));
    EXPECT_STREQ("", mounts.view().text(99));
}

TEST(Plan, RefusesEveryTruncation) {
    std::string bytes = compiled(small_spec());
    for (size_t n = 0; n < bytes.size(); n++) {
        std::string cut = bytes.substr(0, n);
        EXPECT_FALSE(plan::valid(cut.data(), cut.size(), true)) << n;
        if (n >= 12) { // with a matching size field as well
            uint32_t size = uint32_t(n);
            memcpy(cut.data() + 8, &size, 4);
            EXPECT_FALSE(plan::valid(cut.data(), cut.size(), true)) << n;
        }
    }
}

TEST(Plan, DamagedBytesNeverLeadOutside) {
    std::string bytes = compiled(small_spec());
    std::mt19937 random(1);
    size_t accepted = 0;
    for (int i = 0; i < 50000; i++) {
        // Its own allocation: a sanitizer sees the first byte beyond.
        std::string bad = bytes;
        for (int k = 0; k < 1 + i % 3; k++)
            bad[random() % bad.size()] = char(random());
        if (plan::valid(bad.data(), bad.size(), true)) accepted++, walk(bad);
    }
    EXPECT_LT(accepted, 50000u);
}

TEST(Plan, RefusesBadDocuments) {
    auto spec = small_spec();
    spec.process.args[1] = std::string("a\0b", 3);
    EXPECT_THROW(compiled(spec), Error);
    spec = small_spec();
    spec.process.args.clear();
    EXPECT_THROW(compiled(spec), Error);
    spec = small_spec();
    spec.process.cwd = "relative";
    EXPECT_THROW(compiled(spec), Error);
    spec = small_spec();
    spec.process.capabilities = {"CAP_NOT"};
    EXPECT_THROW(compiled(spec), Error);
    spec = small_spec();
    spec.sysctl = {{"net/../../x", "1"}};
    EXPECT_THROW(compiled(spec), Error);
    EXPECT_THROW(compile_sandbox({{"user", ""}}, {}, false), Error);
}

TEST(Cgroups, ConvertsToV2) {
    CgroupLayout layout;
    layout.version = "2";
    layout.hierarchies = {{"/sys/fs/cgroup", {}, true}};
    SpecResources r;
    r.memory_limit = 100, r.memory_swap = 150, r.cpu_shares = 1024, r.cpu_quota = 5000, r.pids_limit = -1;
    std::map<std::string, std::string> files;
    for (const auto &w : compile_resources(layout, "/g/x", r, true))
        files[w.path.substr(w.path.rfind('/') + 1)] = w.value;
    EXPECT_EQ("100", files["memory.max"]);
    EXPECT_EQ("50", files["memory.swap.max"]);
    EXPECT_EQ("39", files["cpu.weight"]);
    EXPECT_EQ("5000 100000", files["cpu.max"]);
    EXPECT_EQ("max", files["pids.max"]);
    EXPECT_EQ(1u, weight_of_shares(2));
    EXPECT_EQ(10000u, weight_of_shares(262144));
}

TEST(SpecJson, IsAnOciDocument) {
    auto spec = small_spec();
    spec.seccomp = default_seccomp(default_capabilities());
    spec.resources.memory_limit = 1 << 20;
    std::string text = to_json(spec);
    for (const char *part : {R"("ociVersion":"1.0.2")", R"("args":["/bin/true","","x y"])",
                             R"("memory":{"limit":1048576)", R"("defaultAction":"SCMP_ACT_ERRNO")",
                             R"("type":"bind","source":"/src","options":["rbind","ro","rslave"])"})
        EXPECT_NE(std::string::npos, text.find(part)) << part;
    EXPECT_EQ(14u, default_capabilities().size());
}

} // namespace gantry
