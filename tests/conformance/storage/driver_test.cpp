// What <gantry/storage.h> promises is judged by the kit (sdk/kit). Here is what it leaves out, and what is
// worth a run in this very process, under the sanitizers: fidelity, threads, copies.
#include "tests/conformance/storage/drivers.h"

#include "core/layer/changes.h"

#include <atomic>
#include <chrono>
#include <sys/mount.h>
#include <thread>

namespace gantry {
namespace {

using namespace test;

struct Storage : testing::TestWithParam<DriverCase> {
    TempDir dir;
    std::string root = GetParam().home(dir.path);
    std::shared_ptr<StorageDriver> driver = GetParam().make(root);
    CallScope call;
    LayerIds chain; // nearest first

    View view(const std::string &id, const LayerIds &parents, bool read_only = false) {
        return {mount_detached(driver->mounts(call, id, parents, read_only))};
    }
    /// An image layer on top of the chain, filled by a shell script run in its tree.
    void layer(const std::string &id, const std::string &script) {
        driver->create(call, id, chain, 0);
        {
            const View v = view(id, chain);
            shell_in(v.path(), script);
        }
        driver->commit(call, id, chain, false);
        chain.insert(chain.begin(), id);
    }
    LayerIds below(const std::string &id) {
        const auto at = std::find(chain.begin(), chain.end(), id);
        return at == chain.end() ? chain : LayerIds(at + 1, chain.end());
    }
};

// Edits on a layer with parents, against the same edits on a plain directory.
TEST_P(Storage, LayersShowWhatAPlainDirectoryShows) {
    const std::string steps[] = {
        "umask 022; mkdir -p d/sub gone/deep && echo a > d/a && echo b > d/sub/b && echo c > gone/deep/c && "
        "echo t > top "
        "&& ln top hard && ln -s d link && mkfifo pipe && truncate -s 1M sparse && chmod 4711 top && chown "
        "5:6 d/a",
        "umask 022; rm -r gone && echo changed > d/a && rm d/sub/b && mkdir gone && echo fresh > gone/new && "
        "echo more >> top",
        "umask 022; rm -r d && echo file > d && rm link && mkdir link && echo x > link/x && chmod 700 link",
        "umask 022; rm d && mkdir -p d/sub && echo again > d/sub/b && mv gone/new moved && chmod 711 .",
    };
    const std::string plain = dir.path + "/plain";
    make_directories(plain, 0755);
    int n = 0;
    for (const std::string &step : steps) {
        shell_in(plain, step);
        layer("l" + std::to_string(++n), step);
        const View v = view(chain.front(), below(chain.front()), true);
        auto shown = describe(v.path().substr(0, v.path().size() - 1) + "/.", false);
        auto wanted = describe(plain + "/.", false);
        // A hard link may break in copy-up; content and all else may not differ.
        for (auto *tree : {&shown, &wanted})
            for (auto &[path, line] : *tree)
                if (const auto at = line.find(" link "); at != std::string::npos) line.resize(at);
        if (n > 1) { // `echo more >> top` writes both names of a plain file
            shown.erase("/hard");
            wanted.erase("/hard");
        }
        EXPECT_EQ(difference(wanted, shown), "") << "after step " << n;
    }
    // Older layers are as they were.
    EXPECT_EQ(read_file(view("l1", below("l1"), true).path() + "d/a"), "a\n");
    EXPECT_EQ(read_file(view("l1", below("l1"), true).path() + "top"), "t\n");
}

TEST_P(Storage, ParallelWorkOnDifferentIds) {
    layer("base", "echo x > x");
    std::vector<std::thread> threads;
    std::atomic<int> failures{0};
    for (int t = 0; t < 4; ++t)
        threads.emplace_back([&, t] {
            try {
                for (int i = 0; i < 20; ++i) {
                    const CallScope scope;
                    const std::string id = "p" + std::to_string(t) + "x" + std::to_string(i);
                    driver->create(scope, id, chain, 0);
                    const View v{mount_detached(driver->mounts(scope, id, chain, false))};
                    write_file_atomically(v.path() + "mine", id, 0644, false);
                    if (i % 2) driver->commit(scope, id, chain, false);
                    driver->list(scope);
                    if (i % 3 == 0) driver->usage(scope, id);
                }
            } catch (const std::exception &error) {
                ++failures;
                std::fprintf(stderr, "%s\n", error.what());
            }
        });
    for (auto &t : threads)
        t.join();
    EXPECT_EQ(failures, 0);
    EXPECT_EQ(driver->list(call).size(), 81u);
}

// Where a create copies, it can be stopped in the middle, and nothing is left.
TEST_P(Storage, ACancelledCreateLeavesNothing) {
    if (driver->caps(call).reflink) GTEST_SKIP() << "this driver copies nothing here";
    layer("base",
          "mkdir d && for i in $(seq 400); do echo $i > d/$i; done; head -c 30000000 /dev/zero > big");
    const auto started = std::chrono::steady_clock::now();
    driver->create(call, "whole", chain, 0);
    const auto whole = std::chrono::steady_clock::now() - started;
    if (whole < std::chrono::milliseconds(20)) GTEST_SKIP() << "this driver copies nothing here";
    CancelSource cancel;
    CallScope::Settings settings;
    settings.cancel = &cancel;
    const CallScope cancelled(settings);
    std::thread later([&] {
        std::this_thread::sleep_for(whole / 10); // the moment is the point, not an event
        cancel.cancel();
    });
    EXPECT_EQ(class_of([&] { driver->create(cancelled, "part", chain, 0); }), ErrorClass::kCancelled);
    later.join();
    auto ids = driver->list(call);
    std::sort(ids.begin(), ids.end());
    EXPECT_EQ(ids, (std::vector<std::string>{"base", "whole"}));
    for (const std::string &name : list_directory(root))
        EXPECT_NE(name.front(), '.') << "leftover " << name;
}

TEST_P(Storage, SizeLimitsHold) {
    if (!driver->caps(call).quota) GTEST_SKIP() << "no quota on this root";
    layer("base", "head -c 3000000 /dev/urandom > big");
    driver->create(call, "small", chain, 2 << 20);
    {
        const View v = view("small", chain);
        shell_in(v.path(), "head -c 1000000 /dev/urandom > fits && sync -f .");
        EXPECT_THROW(shell_in(v.path(), "head -c 6000000 /dev/urandom > burst 2> /dev/null && sync -f ."),
                     std::runtime_error);
    }
    driver->create(call, "large", chain, 20 << 20);
    shell_in(view("large", chain).path(), "head -c 6000000 /dev/urandom > fits && sync -f .");
    driver->remove(call, "small");
    driver->create(call, "next", chain, 0);
    shell_in(view("next", chain).path(), "head -c 6000000 /dev/urandom > fits && sync -f .");
}

TEST_P(Storage, CopiesKeepHoles) {
    layer("base",
          "truncate -s 40M hole && printf x | dd of=hole bs=1 seek=20000000 conv=notrunc 2> /dev/null && "
          "head -c 5000000 /dev/zero > zeros");
    driver->create(call, "top", chain, 0);
    const View v = view("top", chain);
    struct stat st {};
    ASSERT_EQ(::stat((v.path() + "hole").c_str(), &st), 0);
    EXPECT_EQ(st.st_size, 40 << 20);
    EXPECT_LT(st.st_blocks * 512, 1 << 20);
    ASSERT_EQ(::stat((v.path() + "zeros").c_str(), &st), 0);
    EXPECT_GE(st.st_blocks * 512, 5000000) << "what was written is no hole";
}

INSTANTIATE_TEST_SUITE_P(Drivers, Storage, testing::ValuesIn(kDrivers),
                         [](const auto &info) { return std::string(info.param.name); });

TEST(OverlayMounts, AreWhatTheContractSays) {
    TempDir dir;
    OverlayDriver driver(dir.path + "/o", {});
    const CallScope call;
    for (const char *id : {"a", "b", "c"})
        driver.create(call, id, {}, 0);
    driver.commit(call, "a", {}, false);
    driver.commit(call, "b", {"a"}, false);
    const auto one = driver.mounts(call, "a", {}, true);
    ASSERT_EQ(one.size(), 1u);
    EXPECT_EQ(one[0].type, "bind");
    EXPECT_TRUE(one[0].read_only);
    const auto many = driver.mounts(call, "c", {"b", "a"}, false);
    ASSERT_EQ(many.size(), 1u);
    EXPECT_EQ(many[0].type, "overlay");
    const std::string o = dir.path + "/o/";
    const std::vector<std::string> first(many[0].options.begin(), many[0].options.begin() + 4);
    EXPECT_EQ(first, (std::vector<std::string>{"lowerdir+=" + o + "b/fs", "lowerdir+=" + o + "a/fs",
                                               "upperdir=" + o + "c/fs", "workdir=" + o + "c/work"}));
    EXPECT_EQ(driver.mounts(call, "c", {"b", "a"}, true)[0].options[0], "lowerdir+=" + o + "c/fs");
}

// This driver never makes either, but a layer may have been written by another mount of the same directories.
TEST(OverlayChanges, RedirectsAreRefusedAndMetadataCopiesUnderstood) {
    TempDir dir;
    OverlayDriver driver(dir.path + "/o", {});
    const CallScope call;
    driver.create(call, "a", {}, 0);
    shell_in(dir.path + "/o/a/fs",
             "mkdir -p old/sub && echo 1 > old/sub/f && echo data > file && echo keep > same");
    driver.commit(call, "a", {}, false);
    const auto changes = [&](const std::string &id) {
        std::map<std::string, int> out;
        driver.changes(call, id, {"a"}, [&](const Change &c) { out[c.path] = c.kind; });
        return out;
    };
    const auto foreign = [&](const std::string &id, const char *feature, const std::string &script) {
        driver.create(call, id, {"a"}, 0);
        Mount mount = driver.mounts(call, id, {"a"}, false)[0];
        std::erase_if(mount.options, [](const std::string &o) {
            return o.starts_with("redirect_dir") || o.starts_with("metacopy") || o.starts_with("index");
        });
        mount.options.push_back(feature);
        const View v{mount_detached({mount})};
        shell_in(v.path(), script);
    };
    foreign("m", "metacopy=on", "chmod 600 file && chmod 600 same && chmod 644 same");
    ASSERT_GE(::lgetxattr((dir.path + "/o/m/fs/file").c_str(), "trusted.overlay.metacopy", nullptr, 0), 0);
    EXPECT_EQ(changes("m"), (std::map<std::string, int>{{"/file", GANTRY_CHANGE_MODIFIED}}));
    foreign("r", "redirect_dir=on", "mv old new");
    ASSERT_GT(::lgetxattr((dir.path + "/o/r/fs/new").c_str(), "trusted.overlay.redirect", nullptr, 0), 0);
    EXPECT_EQ(class_of([&] { changes("r"); }), ErrorClass::kUnsupported);
    // The walk that the core falls back to sees the move whole.
    const View upper{mount_detached(driver.mounts(call, "r", {"a"}, true))};
    const View lower{mount_detached(driver.mounts(call, "a", {}, true))};
    std::map<std::string, int> walked;
    for (const Change &c : compare_trees(lower.fd.get(), upper.fd.get(), call))
        walked[c.path] = c.kind;
    EXPECT_EQ(walked, (std::map<std::string, int>{{"/new", GANTRY_CHANGE_ADDED},
                                                  {"/new/sub", GANTRY_CHANGE_ADDED},
                                                  {"/new/sub/f", GANTRY_CHANGE_ADDED},
                                                  {"/old", GANTRY_CHANGE_DELETED}}));
    for (const char *bad : {"redirect_dir=on", "metacopy=on", "lowerdir+=/etc"})
        EXPECT_EQ(class_of([&] { OverlayDriver other(dir.path + "/x", {.mount_options = {bad}}); }),
                  ErrorClass::kInvalidArgument);
}

TEST(OverlayMounts, FiveHundredLayersStack) {
    TempDir dir;
    OverlayDriver driver(dir.path + "/o", {});
    const CallScope call;
    LayerIds chain;
    for (int i = 0; i < 499; ++i) {
        const std::string id = "n" + std::to_string(i);
        driver.create(call, id, {}, 0);
        write_file_atomically(dir.path + "/o/" + id + "/fs/f" + std::to_string(i), "x", 0644, false);
        driver.commit(call, id, chain, false);
        chain.insert(chain.begin(), id);
    }
    driver.create(call, "top", chain, 0);
    const View v{mount_detached(driver.mounts(call, "top", chain, false))};
    EXPECT_EQ(list_directory(v.path()).size(), 499u);
    shell_in(v.path(), "rm f0 && echo new > f498");
    std::map<std::string, int> seen;
    driver.changes(call, "top", chain, [&](const Change &c) { seen[c.path] = c.kind; });
    EXPECT_EQ(seen, (std::map<std::string, int>{{"/f0", GANTRY_CHANGE_DELETED},
                                                {"/f498", GANTRY_CHANGE_MODIFIED}}));
    chain.push_back("n0");
    EXPECT_EQ(class_of([&] { driver.mounts(call, "top", chain, false); }), ErrorClass::kUnsupported);
}

// A string that fsconfig(2) does not take goes through mount(2), as everything does before Linux 6.8.
TEST(OverlayMounts, LongOptionsTakeTheClassicCall) {
    TempDir dir;
    Mount mount;
    mount.type = "overlay";
    mount.source = "overlay";
    std::string lower;
    for (int i = 0; i < 12; ++i) {
        const std::string layer = dir.path + "/layer-with-a-long-name-" + std::to_string(i);
        make_directories(layer, 0755);
        write_file_atomically(layer + "/f" + std::to_string(i), "x", 0644, false);
        lower += (i ? ":" : "lowerdir=") + layer;
    }
    for (const char *name : {"/upper", "/work"})
        make_directories(dir.path + name, 0755);
    mount.options = {lower, "upperdir=" + dir.path + "/upper", "workdir=" + dir.path + "/work"};
    const View v{mount_detached({mount})};
    EXPECT_EQ(list_directory(v.path()).size(), 12u);
    write_file_atomically(v.path() + "new", "x", 0644, false);
    EXPECT_TRUE(path_exists(dir.path + "/upper/new"));
    EXPECT_TRUE(path_exists("/proc/self/stat")) << "the mount shows in this namespace";
}

TEST(OverlayMounts, RefusesARootThatCannotCarryIt) {
    TempDir dir;
    make_directories(dir.path + "/lower/x", 0755);
    make_directories(dir.path + "/upper", 0755);
    make_directories(dir.path + "/work", 0755);
    make_directories(dir.path + "/merged", 0755);
    // An overlay cannot be the upper directory of another.
    const std::string options =
        "lowerdir=" + dir.path + "/lower,upperdir=" + dir.path + "/upper,workdir=" + dir.path + "/work";
    ASSERT_EQ(::mount("overlay", (dir.path + "/merged").c_str(), "overlay", 0, options.c_str()), 0);
    const ErrorClass c = class_of([&] { OverlayDriver driver(dir.path + "/merged/root", {}); });
    ::umount2((dir.path + "/merged").c_str(), MNT_DETACH);
    EXPECT_EQ(c, ErrorClass::kUnsupported);
}

} // namespace
} // namespace gantry
