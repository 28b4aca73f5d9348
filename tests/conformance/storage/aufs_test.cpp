// aufs without the module: its layers are made, unpacked into and compared here, only the kernel's mount is
// missing. The second opinion on the format is fuse-overlayfs, which reads the same whiteouts in lower
// directories.
#include "plugins/storage-aufs/driver.h"
#include "plugins/storage/probe.h"
#include "tests/conformance/storage/drivers.h"
#include "sdk/kit/edits.h"

#include "core/layer/changes.h"
#include "core/layer/tree_tar.h"

#include <sched.h>
#include <sys/mount.h>

namespace gantry {
namespace {

using namespace test;
using kit::Edit;
using kit::random_edits;

struct Aufs : testing::Test {
    TempDir dir;
    std::string root = dir.path + "/aufs";
    AufsDriver driver{root, {.check_kernel = false}};
    CallScope call;
    LayerIds chain;

    void unpack(const std::string &id, const std::string &tar) {
        driver.create(call, id, {}, 0);
        const View v{mount_detached(driver.mounts(call, id, {}, false))};
        unpack_layer(source_of(tar), v.fd.get(), GANTRY_WHITEOUT_AUFS, UnpackLimits{}, call);
    }
    void layer(const std::string &id, const std::string &tar) {
        unpack(id, tar);
        driver.commit(call, id, chain, false);
        chain.insert(chain.begin(), id);
    }
    std::vector<std::string> files(const std::string &id) {
        std::vector<std::string> out;
        for (const auto &[path, line] : describe(root + "/" + id + "/fs"))
            out.push_back(path);
        return out;
    }
    std::map<std::string, int> native(const std::string &id) {
        std::map<std::string, int> out;
        const auto at = std::find(chain.begin(), chain.end(), id);
        driver.changes(call, id, at == chain.end() ? chain : LayerIds(at + 1, chain.end()),
                       [&](const Change &c) { out[c.path] = c.kind; });
        return out;
    }
};

/// The layers as fuse-overlayfs shows them, in a mount namespace of this process.
class FuseView {
  public:
    FuseView(const std::string &root, const LayerIds &ids, const std::string &point) : point_(point) {
        make_directories(point, 0755);
        std::string lower;
        for (const std::string &id : ids)
            lower += (lower.empty() ? "lowerdir=" : ":") + root + "/" + id + "/fs";
        shell_in("/", "fuse-overlayfs -o " + lower + " " + point + " 2> /dev/null");
    }
    ~FuseView() { ::umount2(point_.c_str(), MNT_DETACH); }

  private:
    std::string point_;
};

bool fuse_overlayfs_works(std::string &why) {
    if (::access("/dev/fuse", R_OK | W_OK) != 0)
        why = "no /dev/fuse";
    else if (::system("command -v fuse-overlayfs > /dev/null") != 0)
        why = "fuse-overlayfs is not installed";
    else if (::unshare(CLONE_NEWNS) != 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
        why = "no mount namespace";
    return why.empty();
}

TEST_F(Aufs, MountsAreBranchesInOrder) {
    for (const char *id : {"a", "b", "c"})
        driver.create(call, id, {}, 0);
    const auto one = driver.mounts(call, "a", {}, false);
    ASSERT_EQ(one.size(), 1u);
    EXPECT_EQ(one[0].type, "bind");
    EXPECT_EQ(one[0].source, root + "/a/fs");
    driver.commit(call, "a", {}, false);
    driver.commit(call, "b", {"a"}, false);
    const auto many = driver.mounts(call, "c", {"b", "a"}, false);
    ASSERT_EQ(many.size(), 1u);
    EXPECT_EQ(many[0].type, "aufs");
    EXPECT_FALSE(many[0].read_only);
    EXPECT_EQ(many[0].options,
              (std::vector<std::string>{"br:" + root + "/c/fs=rw", "dirperm1",
                                        "append:" + root + "/b/fs=ro+wh", "append:" + root + "/a/fs=ro+wh"}));
    const auto shown = driver.mounts(call, "b", {"a"}, true);
    EXPECT_TRUE(shown[0].read_only);
    EXPECT_EQ(shown[0].options[0], "br:" + root + "/b/fs=ro+wh");
    EXPECT_EQ(shown[0].options[2], "xino=" + root + "/b/xino");
    EXPECT_EQ(class_of([&] { driver.mounts(call, "b", {"a"}, false); }), ErrorClass::kFailedPrecondition);
    EXPECT_EQ(class_of([&] { driver.mounts(call, "c", LayerIds(127, "a"), false); }),
              ErrorClass::kUnsupported);
    EXPECT_EQ(
        class_of([&] { AufsDriver other(root, {.check_kernel = false, .mount_options = {"br:/etc=rw"}}); }),
        ErrorClass::kInvalidArgument);
}

TEST_F(Aufs, IsRefusedWhereTheKernelHasNone) {
    if (storage::kernel_lists("aufs")) GTEST_SKIP() << "this kernel has aufs";
    try {
        AufsDriver::judge(root, false);
        ADD_FAILURE() << "judged to work";
    } catch (const Error &error) {
        EXPECT_EQ(error.error_class(), ErrorClass::kUnsupported);
        EXPECT_EQ(error.message(), "kernel has no aufs");
    }
    EXPECT_EQ(class_of([&] { AufsDriver other(root, {}); }), ErrorClass::kUnsupported);
}

TEST_F(Aufs, LayersAreWrittenWithItsMarks) {
    layer("base",
          Tar().dir("d").file("d/a", "1").file("d/b", "2").dir("e").file("e/x").file("top", "t").done());
    EXPECT_EQ(files("base"), (std::vector<std::string>{"/", "/d", "/d/a", "/d/b", "/e", "/e/x", "/top"}));
    unpack("l", Tar()
                    .file(".wh..wh.aufs")
                    .file(".wh..wh.plnk")
                    .file("d/.wh.a")
                    .file("d/.wh..wh..opq")
                    .file(".wh.e")
                    .dir("e")
                    .file("e/new")
                    .file("new")
                    .file(".wh.new")
                    .dir("n")
                    .file(".wh.n")
                    .file(".wh.top")
                    .file("top", "again")
                    .done());
    EXPECT_EQ(files("l"),
              (std::vector<std::string>{"/", "/d", "/d/.wh..wh..opq", "/d/.wh.a", "/e", "/e/.wh..wh..opq",
                                        "/e/new", "/n", "/n/.wh..wh..opq", "/new", "/top"}));
    constexpr int kMod = GANTRY_CHANGE_MODIFIED, kAdd = GANTRY_CHANGE_ADDED, kDel = GANTRY_CHANGE_DELETED;
    EXPECT_EQ(native("l"), (std::map<std::string, int>{{"/d", kMod},
                                                       {"/d/a", kDel},
                                                       {"/d/b", kDel},
                                                       {"/e", kMod},
                                                       {"/e/x", kDel},
                                                       {"/e/new", kAdd},
                                                       {"/n", kAdd},
                                                       {"/new", kAdd},
                                                       {"/top", kMod}}));
    EXPECT_EQ(class_of([&] { unpack("bad", Tar().file(".wh.d/file").done()); }),
              ErrorClass::kInvalidArgument);
}

TEST_F(Aufs, FuseOverlayfsShowsTheSameTree) {
    std::string why;
    if (!fuse_overlayfs_works(why)) GTEST_SKIP() << why;
    // The tars come from diffs of another driver, whose trees are the oracle.
    OverlayDriver source(dir.path + "/overlay", {});
    LayerIds made;
    make_directories(dir.path + "/plain", 0755);
    const UniqueFd oracle = open_file(dir.path + "/plain", O_RDONLY | O_DIRECTORY);
    std::mt19937 random(7);
    const auto described = [](const std::string &path) {
        auto out = describe(path);
        out.erase("/");
        for (auto &[at, line] : out) // inode numbers are not kept by it, so neither are links
            if (const size_t link = line.find(" link "); link != std::string::npos) line.erase(link);
        return out;
    };
    for (int generation = 0; generation < 6; ++generation) {
        const std::string id = "g" + std::to_string(generation);
        std::string text;
        source.create(call, id, made, 0);
        std::string tar;
        {
            const View v{mount_detached(source.mounts(call, id, made, false))};
            for (const Edit &e : random_edits(random, oracle.get(), generation == 0 ? 80 : 30)) {
                ASSERT_TRUE(e.apply(v.fd.get())) << e.text();
                text += "  " + e.text() + "\n";
            }
            std::vector<Change> changes;
            source.changes(call, id, made, [&](const Change &c) { changes.push_back(c); });
            write_changes_tar(v.fd.get(), changes,
                              [&](const void *p, size_t n) { tar.append(static_cast<const char *>(p), n); },
                              {});
        }
        source.commit(call, id, made, false);
        made.insert(made.begin(), id);
        const LayerIds below = chain;
        layer(id, tar);
        const FuseView view(root, chain, dir.path + "/view");
        ASSERT_EQ(difference(described(dir.path + "/plain"), described(dir.path + "/view")), "")
            << "layer " << generation << ":\n"
            << text;
        if (below.empty()) continue;
        const FuseView lower(root, below, dir.path + "/lower");
        std::map<std::string, int> walked;
        for (const Change &c :
             compare_trees(open_file(dir.path + "/lower", O_RDONLY | O_DIRECTORY).get(),
                           open_file(dir.path + "/view", O_RDONLY | O_DIRECTORY).get(), call))
            walked[c.path] = c.kind;
        ASSERT_EQ(native(id), walked) << "layer " << generation << ":\n" << text;
    }
}

} // namespace
} // namespace gantry
