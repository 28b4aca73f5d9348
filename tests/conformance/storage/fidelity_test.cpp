// A driver's trees against a plain directory that got the same edits: what a layer shows, what its diff
// says, and what is rebuilt from that diff on a fresh layer. Edits are values (edits.h), random from fixed
// seeds; a failure prints the edits and the difference of the trees.
#include "tests/conformance/storage/drivers.h"
#include "tests/conformance/storage/edits.h"

#include "core/layer/changes.h"
#include "core/layer/tree_tar.h"

#include <set>

namespace gantry {
namespace {

using namespace test;

struct Fidelity : testing::TestWithParam<DriverCase> {
    TempDir dir;
    std::string root = GetParam().home(dir.path), plain = dir.path + "/plain";
    std::shared_ptr<StorageDriver> driver;
    CallScope call;
    LayerIds chain; // nearest first

    void SetUp() override {
        make_directories(plain, 0755);
        driver = GetParam().make(root);
    }
    View view(const std::string &id, const LayerIds &parents, bool read_only) {
        return {mount_detached(driver->mounts(call, id, parents, read_only))};
    }
    View top() { return view(chain.front(), LayerIds(chain.begin() + 1, chain.end()), true); }
    static std::map<std::string, std::string> described(const std::string &path) {
        auto out = describe(path);
        auto &line = out["/"]; // the root's time is the time it was made
        line = line.substr(0, line.find(' ', line.find(',')));
        return out;
    }
    static std::string shown(const std::vector<Edit> &edits) {
        std::string out;
        for (const Edit &e : edits)
            out += "  " + e.text() + "\n";
        return out;
    }
    static std::map<std::string, int> by_path(const std::vector<Change> &list) {
        std::map<std::string, int> out;
        for (const Change &c : list)
            EXPECT_TRUE(out.emplace(c.path, c.kind).second) << c.path << " is told twice";
        return out;
    }
    std::vector<Change> walked(const std::string &id) {
        const View upper = view(id, chain, true);
        View lower;
        if (!chain.empty()) lower = top();
        return compare_trees(chain.empty() ? -1 : lower.fd.get(), upper.fd.get(), call);
    }
    std::vector<Change> native(const std::string &id) {
        std::vector<Change> out;
        driver->changes(call, id, chain, [&](const Change &c) { out.push_back(c); });
        return out;
    }
    void expect_parents_first(const std::vector<Change> &list) {
        std::set<std::string> seen;
        const auto kinds = by_path(list);
        for (const Change &c : list) {
            seen.insert(c.path);
            const std::string above = c.path.substr(0, c.path.rfind('/'));
            EXPECT_TRUE(!kinds.contains(above) || seen.contains(above))
                << c.path << " comes before its parent";
        }
    }
    /// A new layer on the chain from the diff of `id`.
    void rebuild(const std::string &id, const std::string &as, const std::vector<Change> &changes) {
        std::string tar;
        {
            const View from = view(id, chain, true);
            write_changes_tar(from.fd.get(), changes,
                              [&](const void *p, size_t n) { tar.append(static_cast<const char *>(p), n); },
                              {});
        }
        const bool independent = driver->caps(call).independent_layers;
        driver->create(call, as, independent ? LayerIds{} : chain, 0);
        {
            const View to = view(as, independent ? LayerIds{} : chain, false);
            unpack_layer(source_of(tar), to.fd.get(), driver->caps(call).whiteout, UnpackLimits{}, call);
        }
        driver->commit(call, as, chain, false);
    }
};

TEST_P(Fidelity, RandomEditsShowDiffAndRebuild) {
    for (unsigned seed = 1; seed <= 2; ++seed) {
        std::mt19937 random(seed);
        for (const std::string &id : driver->list(call))
            driver->remove(call, id);
        chain.clear();
        remove_tree(plain);
        make_directories(plain, 0755);
        const UniqueFd oracle = open_file(plain, O_RDONLY | O_DIRECTORY);
        for (int generation = 0; generation < 4; ++generation) {
            const std::string number = std::to_string(seed) + "x" + std::to_string(generation);
            const std::string id = "e" + number;
            const std::vector<Edit> edits = random_edits(random, oracle.get(), generation == 0 ? 60 : 25);
            const std::string what = "seed " + std::to_string(seed) + ", layer " +
                                     std::to_string(generation) + ":\n" + shown(edits);
            driver->create(call, id, chain, 0);
            {
                const View v = view(id, chain, false);
                for (const Edit &e : edits)
                    ASSERT_TRUE(e.apply(v.fd.get())) << e.text() << ": " << std::strerror(errno) << "\n"
                                                     << what;
            }
            const auto wanted = described(plain);
            ASSERT_EQ(difference(wanted, described(view(id, chain, true).itself())), "") << what;
            const std::vector<Change> list = walked(id);
            expect_parents_first(list);
            if (driver->has_changes()) {
                const std::vector<Change> own = native(id);
                expect_parents_first(own);
                ASSERT_EQ(by_path(own), by_path(list)) << what;
            }
            rebuild(id, "r" + number, list);
            const std::string rebuilt = "r" + number;
            ASSERT_EQ(difference(wanted, described(view(rebuilt, chain, true).itself())), "")
                << "rebuilt, " << what;
            // Further layers stand on the rebuilt one and on the original by turns.
            if (generation % 2) driver->commit(call, id, chain, false);
            chain.insert(chain.begin(), generation % 2 ? id : rebuilt);
        }
    }
}

// What a diff leaves out, and what it must not.
TEST_P(Fidelity, ADiffTellsChangesAndNothingElse) {
    const auto kinds_after = [&](const std::string &id, const std::string &script) {
        driver->create(call, id, chain, 0);
        {
            const View v = view(id, chain, false);
            shell_in(v.path(), script);
        }
        auto list = driver->has_changes() ? native(id) : walked(id);
        EXPECT_EQ(by_path(list), by_path(walked(id))) << script;
        driver->remove(call, id);
        return by_path(list);
    };
    driver->create(call, "base", {}, 0);
    shell_in(
        view("base", {}, false).path(),
        "mkdir -p etc/deep/er usr/lib old && echo 1 > etc/deep/er/file && echo 2 > etc/conf && echo lib > "
        "usr/lib/x && ln usr/lib/x usr/lib/y && echo o > old/o && ln -s conf etc/link");
    driver->commit(call, "base", {}, false);
    chain = {"base"};
    using Kinds = std::map<std::string, int>;
    constexpr int kMod = GANTRY_CHANGE_MODIFIED, kAdd = GANTRY_CHANGE_ADDED, kDel = GANTRY_CHANGE_DELETED;
    EXPECT_EQ(kinds_after("a", "chmod 600 etc/conf && chmod 644 etc/conf"), Kinds{}) << "taken back";
    EXPECT_EQ(kinds_after("b", "cat etc/conf usr/lib/x > /dev/null && true >> etc/conf"), Kinds{})
        << "opened";
    EXPECT_EQ(
        kinds_after("c", "echo more >> etc/deep/er/file"),
        (Kinds{{"/etc", kMod}, {"/etc/deep", kMod}, {"/etc/deep/er", kMod}, {"/etc/deep/er/file", kMod}}));
    EXPECT_EQ(kinds_after("d", "chmod 700 etc/deep"), (Kinds{{"/etc", kMod}, {"/etc/deep", kMod}}));
    EXPECT_EQ(
        kinds_after("e", "rm -r etc/deep && mkdir etc/deep && mkdir etc/deep/er && echo n > etc/deep/er/new"),
        (Kinds{{"/etc", kMod},
               {"/etc/deep", kMod},
               {"/etc/deep/er", kMod},
               {"/etc/deep/er/file", kDel},
               {"/etc/deep/er/new", kAdd}}));
    EXPECT_EQ(kinds_after("f", "rm -r old && echo f > old"), (Kinds{{"/old", kMod}}));
    EXPECT_EQ(kinds_after("g", "rm etc/conf && mkdir etc/conf && echo x > etc/conf/x"),
              (Kinds{{"/etc", kMod}, {"/etc/conf", kMod}, {"/etc/conf/x", kAdd}}));
    EXPECT_EQ(kinds_after("h", "rm -r usr"), (Kinds{{"/usr", kDel}}));
    EXPECT_EQ(kinds_after("i", "ln etc/conf etc/second"),
              (Kinds{{"/etc", kMod}, {"/etc/conf", kMod}, {"/etc/second", kAdd}}));
    EXPECT_EQ(kinds_after("j", "mkdir t && rm -r t && true"), Kinds{});
}

// A file rewritten within its size and given back its time: no attribute tells, the copy does.
TEST_P(Fidelity, ANativeDiffSeesContentBehindEqualAttributes) {
    if (!driver->has_changes()) GTEST_SKIP() << "this driver's diff is the walk, which compares attributes";
    driver->create(call, "base", {}, 0);
    shell_in(view("base", {}, false).path(), "echo aaaa > f && echo same > g && touch -d @1500000000 f g .");
    driver->commit(call, "base", {}, false);
    chain = {"base"};
    driver->create(call, "a", chain, 0);
    shell_in(view("a", chain, false).path(), "echo bbbb > f && echo same > g && touch -d @1500000000 f g .");
    EXPECT_EQ(by_path(native("a")), (std::map<std::string, int>{{"/f", GANTRY_CHANGE_MODIFIED}}));
}

TEST_P(Fidelity, WhiteoutsOfNothingDoNotShow) {
    const std::string tar = Tar().dir("d").file("d/.wh.gone").file(".wh.other").file("d/x", "1").done();
    driver->create(call, "base", {}, 0);
    unpack_layer(source_of(tar), view("base", {}, false).fd.get(), driver->caps(call).whiteout,
                 UnpackLimits{}, call);
    driver->commit(call, "base", {}, false);
    EXPECT_EQ(list_directory(view("base", {}, true).path()), std::vector<std::string>{"d"});
    EXPECT_EQ(list_directory(view("base", {}, true).path() + "d"), std::vector<std::string>{"x"});
}

TEST_P(Fidelity, TreesOfAnyDepthAreMeasuredCopiedAndRemoved) {
    constexpr int kDepth = 1100; // 9,900 bytes of path
    driver->create(call, "deep", {}, 0);
    {
        View at = view("deep", {}, false);
        for (int i = 0; i < kDepth; ++i) {
            ASSERT_EQ(::mkdirat(at.fd.get(), "level-xx", 0755), 0);
            at.fd.reset(::openat(at.fd.get(), "level-xx", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        }
        const UniqueFd file(::openat(at.fd.get(), "bottom", O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
        ASSERT_EQ(::linkat(at.fd.get(), "bottom", at.fd.get(), "second", 0), 0);
    }
    EXPECT_EQ(driver->usage(call, "deep").inodes, kDepth + 1u);
    driver->commit(call, "deep", {}, false);
    driver->create(call, "top", {"deep"}, 0);
    View at = view("top", {"deep"}, true);
    for (int i = 0; i < kDepth; ++i) {
        at.fd.reset(::openat(at.fd.get(), "level-xx", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        ASSERT_TRUE(at.fd) << "at level " << i;
    }
    struct stat st {};
    ASSERT_EQ(::fstatat(at.fd.get(), "second", &st, 0), 0);
    EXPECT_EQ(st.st_nlink, 2u);
    at.fd.reset();
    driver->remove(call, "top");
    driver->remove(call, "deep");
    EXPECT_TRUE(driver->list(call).empty());
}

INSTANTIATE_TEST_SUITE_P(Drivers, Fidelity, testing::ValuesIn(kDrivers),
                         [](const auto &info) { return std::string(info.param.name); });

} // namespace
} // namespace gantry
