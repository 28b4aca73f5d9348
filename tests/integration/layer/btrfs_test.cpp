// The btrfs driver on a loop image: what is special about it. What every driver promises is judged by
// tests/conformance/storage.
#include "tests/integration/layer/btrfs_world.h"

#include "core/layer/changes.h"
#include "plugins/storage-btrfs/driver.h"
#include "plugins/storage-btrfs/search.h"
#include "plugins/storage-btrfs/subvolume.h"

#include <btrfsutil.h>
#include <gtest/gtest.h>
#include <set>

namespace gantry {
namespace {

using namespace test;

struct Btrfs : testing::Test {
    static void SetUpTestSuite() { world = std::make_unique<BtrfsLoop>(); }
    static void TearDownTestSuite() { world.reset(); }
    static inline std::unique_ptr<BtrfsLoop> world;

    std::string root = world->path + "/" + random_hex(4);
    CallScope call;
    BtrfsDriver driver{root, {}, call};
    LayerIds chain;

    UniqueFd view(const std::string &id, const LayerIds &parents, bool read_only) {
        return mount_detached(driver.mounts(call, id, parents, read_only));
    }
    void layer(const std::string &id, const std::string &script) {
        driver.create(call, id, chain, 0);
        edit(id, script);
        driver.commit(call, id, chain, false);
        chain.insert(chain.begin(), id);
    }
    void edit(const std::string &id, const std::string &script) {
        shell_in(root + "/" + id + "/fs", "umask 022; attr() { python3 -c 'import os, sys; a = "
                                          "sys.argv; os.setxattr(a[1], a[2], a[3].encode())"
                                          " if len(a) > 3 else os.removexattr(a[1], a[2])' \"$@\"; }; " +
                                              script);
    }
    static std::string text(const std::vector<Change> &changes) {
        std::vector<std::string> lines;
        for (const Change &c : changes)
            lines.push_back(std::string(1, "MAD"[c.kind]) + " " + c.path);
        std::sort(lines.begin(), lines.end());
        std::string out;
        for (const auto &line : lines)
            out += line + "\n";
        return out;
    }
    std::string native(const std::string &id, const LayerIds &parents) {
        std::vector<Change> out;
        std::set<std::string> seen{""};
        driver.changes(call, id, parents, [&](const Change &c) {
            out.push_back(c);
            seen.insert(c.path);
        });
        return text(out);
    }
    /// The core's walk of both whole trees.
    std::string referee(const std::string &id, const LayerIds &parents) {
        const UniqueFd upper = view(id, parents, true);
        const UniqueFd lower =
            parents.empty() ? UniqueFd()
                            : view(parents.front(), LayerIds(parents.begin() + 1, parents.end()), true);
        return text(compare_trees(lower.get(), upper.get(), call));
    }
};

const char kBase[] = "umask 022; mkdir -p a/b/c d/e keep/deep/er old; for i in 1 2 3 4 5 6 7 8; do echo $i > "
                     "keep/deep/er/$i; echo $i > a/b/$i; done; echo x > a/b/c/x; echo f > d/e/f; ln a/b/1 "
                     "hard1; ln a/b/1 d/hard2; ln -s a/b link; mkfifo pipe; echo big > big; attr "
                     "d/e/f user.k v; echo moved > old/file; echo t > type; mkdir dirtype; echo in > "
                     "dirtype/in";

TEST_F(Btrfs, NativeChangesAgreeWithTheWalk) {
    const char *const edits[] = {
        "true",
        "echo more >> keep/deep/er/3",
        "chmod 600 a/b/2; chown 7:8 a/b/3",
        "rm a/b/4; rm -r d/e",
        "mv a/b z; echo n > z/new",             // a directory moved with its content
        "rm -r old; mv keep old",               // another one takes its name
        "mv a/b/c/x x; mv x a/b/c/x",           // there and back
        "ln a/b/5 five; rm hard1",              // links come and go
        "echo y > d/hard2",                     // one of three names of a file
        "rm type; mkdir type; echo i > type/i", // types change
        "rm -r dirtype; echo f > dirtype",
        "rm link; ln -s elsewhere link; rm pipe; mknod pipe c 1 3",
        "attr d/e/f user.k w",
        "attr d/e/f user.k",
        "attr d/e user.dir w",
        "rm -r a; mkdir -p a/b; echo 1 > a/b/1", // made anew under the same names
        "touch -d @5 big; chmod 711 keep/deep; chown 3 d",
        "mkdir -p n/e/w; echo w > n/e/w/w; mv d/e n/e/moved",
        "truncate -s 3 big; truncate -s 5M sparse; echo tail >> sparse",
    };
    layer("base", kBase);
    int n = 0;
    for (const char *edit : edits) {
        const std::string id = "e" + std::to_string(++n);
        driver.create(call, id, chain, 0);
        this->edit(id, edit);
        const std::string wanted = referee(id, chain);
        EXPECT_EQ(native(id, chain), wanted) << "active: " << edit;
        driver.commit(call, id, chain, false);
        EXPECT_EQ(native(id, chain), wanted) << "committed: " << edit;
    }
    EXPECT_EQ(native("base", {}), referee("base", {}));
    // Against a layer that is not the snapshot's source everything is compared.
    EXPECT_EQ(native("e2", {"e3", "base"}), referee("e2", {"e3", "base"}));
    for (const std::string &name : list_directory(root))
        EXPECT_NE(name.front(), '.') << "left behind: " << name;
}

TEST_F(Btrfs, ChangesBehindARestoredTimeAreFound) {
    layer("base", "echo aaaa > f; echo bbbb > g; echo cccc > same; touch -d @1000 f g same");
    driver.create(call, "top", chain, 0);
    edit("top", "echo AAAA > f; touch -d @1000 f; cp -p g h; echo BBBB > g; touch -d @1000 g; cp -p same s2; "
                "mv s2 same; "
                "rm h");
    EXPECT_EQ(native("top", chain), "M /f\nM /g\n");
}

// A file written and not yet flushed, a writer at work, and nothing left behind.
TEST_F(Btrfs, ChangesOfALayerInUse) {
    layer("base", kBase);
    driver.create(call, "run", chain, 0);
    const UniqueFd tree = view("run", chain, false);
    const UniqueFd file(::openat(tree.get(), "log", O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
    ASSERT_EQ(::write(file.get(), "x", 1), 1);
    EXPECT_EQ(native("run", chain), "A /log\n");
    ASSERT_EQ(::write(file.get(), "y", 1), 1) << "the writer goes on";
    EXPECT_EQ(list_directory(root).size(), 2u);
}

TEST_F(Btrfs, NestedSubvolumesAreSeenFlattenedAndRemoved) {
    layer("base", "mkdir d; echo 1 > d/1");
    driver.create(call, "run", chain, 0);
    const std::string fs = root + "/run/fs";
    ASSERT_EQ(btrfs_util_create_subvolume((fs + "/d/sub").c_str(), 0, nullptr, nullptr), BTRFS_UTIL_OK);
    ASSERT_EQ(btrfs_util_create_subvolume((fs + "/d/sub/inner").c_str(), 0, nullptr, nullptr), BTRFS_UTIL_OK);
    shell_in(fs, "echo 2 > d/sub/two; echo 3 > d/sub/inner/three; chmod 700 d/sub");
    ASSERT_EQ(btrfs_util_set_subvolume_read_only((fs + "/d/sub").c_str(), true), BTRFS_UTIL_OK);
    const std::string wanted = "A /d/sub\nA /d/sub/inner\nA /d/sub/inner/three\nA /d/sub/two\nM /d\n";
    EXPECT_EQ(native("run", chain), wanted);
    driver.commit(call, "run", chain, false);
    EXPECT_EQ(native("run", chain), wanted);
    driver.create(call, "child", {"run", "base"}, 0);
    EXPECT_EQ(read_file(root + "/child/fs/d/sub/inner/three"), "3\n")
        << "a snapshot would show nothing there";

    driver.create(call, "gone", chain, 0);
    const std::string deep = root + "/gone/fs/deep";
    ASSERT_EQ(btrfs_util_create_subvolume(deep.c_str(), 0, nullptr, nullptr), BTRFS_UTIL_OK);
    ASSERT_EQ(btrfs_util_create_subvolume((deep + "/in").c_str(), 0, nullptr, nullptr), BTRFS_UTIL_OK);
    shell_in(deep, "echo x > in/x");
    ASSERT_EQ(btrfs_util_set_subvolume_read_only((deep + "/in").c_str(), true), BTRFS_UTIL_OK);
    ASSERT_EQ(btrfs_util_set_subvolume_read_only(deep.c_str(), true), BTRFS_UTIL_OK);
    driver.remove(call, "gone");
    EXPECT_FALSE(path_exists(root + "/gone"));
}

// Deeper than a path can say: only descriptors lead there.
TEST_F(Btrfs, SubvolumesBeyondEveryPathAreRemoved) {
    driver.create(call, "deep", {}, 0);
    UniqueFd at = view("deep", {}, false);
    for (int i = 0; i < 150; ++i) {
        const std::string name(100, 'd');
        ASSERT_EQ(::mkdirat(at.get(), name.c_str(), 0755), 0);
        at.reset(::openat(at.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    }
    ASSERT_EQ(btrfs_util_create_subvolume_fd(at.get(), "sub", 0, nullptr, nullptr), BTRFS_UTIL_OK);
    at.reset();
    driver.remove(call, "deep");
    EXPECT_TRUE(list_directory(root).empty());
}

TEST_F(Btrfs, UsageIsWhatTheLayerAllocated) {
    layer("base", "head -c 4000000 /dev/urandom > big; head -c 100 /dev/urandom > small");
    const Usage base = driver.usage(call, "base");
    EXPECT_GE(base.bytes, 4000000u);
    EXPECT_LT(base.bytes, 4100000u);
    EXPECT_EQ(base.inodes, 2u);
    driver.create(call, "run", chain, 0);
    EXPECT_EQ(driver.usage(call, "run").bytes, 0u);
    // A reflink of the parent's data costs nothing, a write in the middle its own extent only, and
    // what is shared within the layer counts once.
    edit("run",
         "cp --reflink=always big clone; dd if=/dev/urandom of=big bs=4096 seek=10 count=2 conv=notrunc "
         "2>&1; head -c 1000000 /dev/urandom > n; cp --reflink=always n m");
    const Usage run = driver.usage(call, "run");
    EXPECT_EQ(run.inodes, 3u);
    EXPECT_GE(run.bytes, 1008192u);
    EXPECT_LT(run.bytes, 1020000u);
    driver.commit(call, "run", chain, true);
    EXPECT_EQ(driver.usage(call, "run").bytes, run.bytes);
}

// The cost of a diff follows the changes: far below that of the walk over many files.
TEST_F(Btrfs, TheSearchDoesNotReadTheImage) {
    layer("base",
          "for d in 0 1 2 3 4 5 6 7 8 9; do mkdir d$d; (cd d$d; for i in $(seq 300); do : > $i; done); done");
    driver.create(call, "run", chain, 0);
    edit("run", "echo x > d5/150");
    const UniqueFd fs = open_file(root + "/run/fs", O_RDONLY | O_DIRECTORY);
    btrfs::make_snapshot(fs.get(), open_file(root, O_RDONLY | O_DIRECTORY).get(), "look", true);
    const UniqueFd look = open_file(root + "/look", O_RDONLY | O_DIRECTORY);
    size_t items = 0;
    btrfs::Range range;
    range.first = 256;
    range.since = btrfs::describe(fs.get()).made_at + 1;
    btrfs::search(look.get(), range, call, [&](const btrfs::Item &) { ++items; });
    EXPECT_GT(items, 0u);
    EXPECT_LT(items, 1500u) << "of about 12,000 items";
    const auto touched = btrfs::find_touched(look.get(), btrfs::describe(fs.get()).made_at, call);
    EXPECT_EQ(touched.changed.size(), 1u);
    EXPECT_EQ(touched.passed.size(), 2u) << "d5 and the root";
    EXPECT_EQ(native("run", chain), "M /d5\nM /d5/150\n");
    btrfs::discard(open_file(root, O_RDONLY | O_DIRECTORY).get(), "look");
}

TEST_F(Btrfs, SizeLimitsHold) {
    EXPECT_THROW(driver.create(call, "q", {}, 1 << 20), Error);
    BtrfsLoop own(512);
    BtrfsDriver limited(own.path + "/s", {true}, call);
    ASSERT_TRUE(limited.caps(call).quota);
    limited.create(call, "base", {}, 0);
    shell_in(own.path + "/s/base/fs", "head -c 20000000 /dev/urandom > big");
    limited.commit(call, "base", {}, false);
    limited.create(call, "run", {"base"}, 8 << 20);
    const std::string fs = own.path + "/s/run/fs";
    shell_in(fs, "head -c 3000000 /dev/urandom > fits; sync fits");
    shell_in(fs, "if head -c 12000000 /dev/urandom 2>/dev/null > toomuch; then exit 1; fi; rm toomuch");
    // A subvolume made within counts too: nobody leaves the limit behind that way.
    ASSERT_EQ(btrfs_util_create_subvolume((fs + "/sub").c_str(), 0, nullptr, nullptr), BTRFS_UTIL_OK);
    shell_in(fs, "if head -c 12000000 /dev/urandom 2>/dev/null > sub/toomuch; then exit 1; fi");
    struct stat st {};
    EXPECT_EQ(::stat((fs + "/big").c_str(), &st), 0) << "the parent's data does not count";
    limited.remove(call, "run");
    limited.create(call, "free", {"base"}, 0);
    shell_in(own.path + "/s/free/fs", "head -c 12000000 /dev/urandom > much");
}

TEST(BtrfsProbe, SaysWhatTheRootIs) {
    try {
        BtrfsDriver driver("/tmp/gantry-no-such/dir", {}, CallScope());
        ADD_FAILURE() << "nothing was thrown";
    } catch (const Error &error) {
        EXPECT_EQ(error.error_class(), ErrorClass::kUnsupported);
        EXPECT_TRUE(error.message().find(", not btrfs") != std::string::npos) << error.message();
    }
    EXPECT_FALSE(path_exists("/tmp/gantry-no-such"));
}

} // namespace
} // namespace gantry
