// kill -9 after every step that changes state, of every operation, on every driver: the next start finds
// whole things only, the operation repeated succeeds, and when all is removed nothing is left. The steps are
// not listed here: a first run writes down which failpoints it passes (core/base/failpoint.h), and how often.
//
// Each life of the engine is a forked child; this process opens nothing and has no threads.
#include "core/base/failpoint.h"
#include "core/base/log.h"
#include "core/check/check.h"
#include "core/config/config.h"
#include "core/events/events.h"
#include "core/image/images.h"
#include "core/image/transfer.h"
#include "core/layer/migrate.h"
#include "core/layer/record.h"
#include "core/store/db.h"
#include "plugins/storage-btrfs/driver.h"
#include "plugins/storage-overlay/driver.h"
#include "plugins/storage-vfs/driver.h"
#include "tests/crash/still_registry.h"
#include "tests/integration/layer/btrfs_world.h"

#include <csignal>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <sys/prctl.h>

namespace gantry {
namespace {

using namespace test;

std::shared_ptr<StorageDriver> make_driver(const std::string &name, const std::string &root) {
    const std::string path = root + "/storage/" + name;
    make_directories(root + "/storage", 0711);
    if (name == "overlay") return std::make_shared<OverlayDriver>(path, OverlayDriver::Settings{});
    if (name == "btrfs") return std::make_shared<BtrfsDriver>(path, BtrfsDriver::Settings{}, CallScope());
    return std::make_shared<VfsDriver>(path);
}

/// One life of the engine's storage half.
struct Life {
    std::string root;
    Db db;
    Events events;
    ContentStore content;
    std::string name;
    std::shared_ptr<StorageDriver> driver;
    Layers layers;
    Images images;

    Life(const std::string &root_, const std::string &first_driver)
        : root(root_), db(root + "/gantry.db"), content(root, db, false), name(in_charge(db, first_driver)),
          driver(make_driver(name, root)), layers(db, driver, name, false, root + "/layer-records"),
          images(db, content, layers, std::make_shared<StillRegistry>(), events, RegistryConfig{}, false, 2) {
        const CallScope call;
        for (const std::string &old : drivers_moved_from(db, name))
            remove_moved(db, {old, make_driver(old, root)}, root + "/storage/" + old, call, {});
        content.recover();
        layers.recover();
        images.recover();
    }
    static std::string in_charge(Db &db, const std::string &otherwise) {
        std::string out = otherwise;
        db.transact([&](Db &t) {
            auto row =
                t.prepare("SELECT driver FROM layer l WHERE state='ready' AND EXISTS(SELECT 1 FROM image i "
                          "WHERE i.top_layer=l.id)");
            if (row.step()) out = row.text(0);
        });
        return out;
    }

    /// Nothing but whole things.
    void judge() {
        const EngineConfig config{.root = root, .run = root + "/run"};
        std::string said;
        const CheckSummary sum = check_system(
            {&db, &content, &layers, &images, nullptr, nullptr, nullptr, nullptr, &config, "test"},
            {.deep = true}, [&](const Finding &f) { said += f.area + " " + f.subject + " " + f.text + "\n"; },
            CallScope());
        if (sum.problems != 0) throw std::runtime_error("check: " + said);
        const CallScope call;
        size_t rows = 0;
        db.transact([&](Db &t) {
            auto row = t.prepare("SELECT count(*) FROM layer WHERE driver=?");
            row.bind(1, name);
            if (row.step()) rows = static_cast<size_t>(row.integer(0));
        });
        if (rows != layers.list().size() || rows != driver->list(call).size())
            throw std::runtime_error("the driver has " + std::to_string(driver->list(call).size()) + " of " +
                                     std::to_string(rows) + " layers");
        for (const auto &file : std::filesystem::recursive_directory_iterator(
                 root, std::filesystem::directory_options::skip_permission_denied))
            if (file.path().filename().string().find(".tmp-") != std::string::npos)
                throw std::runtime_error("left behind: " + file.path().string());
    }
    void pull() {
        images.pull({"docker.io", "library/still", "latest", ""}, false, "", {}, CancelSource(),
                    [](const PullProgress &) {});
    }
    std::string top() { return images.get("still").top_layer; }
    /// As `container` a layer that something was written to.
    void write(const std::string &id) {
        const UniqueFd tree = mount_detached(layers.mounts(id, false));
        shell_in(tree.get(), "echo new > new; rm -r etc/gone; echo more >> etc/file");
    }
    void container(const std::string &id, const std::string &layer) {
        db.transact([&](Db &t) {
            t.prepare("INSERT INTO container(id,name,phase,layer,config,state,created) "
                      "VALUES(?1,?1,'ready',?2,'{}',"
                      "'{}',0)")
                .bind_all(id, layer)
                .run();
        });
    }
    std::string container_layer() {
        std::string out;
        db.transact([&](Db &t) {
            auto row = t.prepare("SELECT layer FROM container");
            if (row.step()) out = row.text(0);
        });
        return out;
    }
    void drop_all() {
        db.transact([&](Db &t) { t.prepare("DELETE FROM container").run(); });
        for (const ImageInfo &image : images.list())
            images.remove(image.id, true, false);
        layers.recover();
        layers.sweep();
    }
    std::string file(const std::string &layer, const char *path) {
        const UniqueFd tree = mount_detached(layers.mounts(layer, true));
        const UniqueFd fd(::openat(tree.get(), path, O_RDONLY | O_CLOEXEC));
        char text[256];
        const ssize_t n = fd ? ::read(fd.get(), text, sizeof text) : -1;
        return n < 0 ? "(none)" : std::string(text, static_cast<size_t>(n));
    }
};

/// What is done, and what must hold when it was done, in whichever life.
struct Operation {
    const char *name;
    void (*prepare)(Life &);
    void (*work)(Life &); // may find parts of itself done
    void (*judge)(Life &);
};

void expect(bool condition, const char *what) {
    if (!condition) throw std::runtime_error(what);
}

const Operation kOperations[] = {
    {"pull", [](Life &) {}, [](Life &l) { l.pull(); },
     [](Life &l) {
         expect(l.file(l.top(), "etc/file") == "second\n", "the upper layer's file");
         expect(l.file(l.top(), "etc/away") == "(none)", "the whiteout");
         expect(list_directory(l.root + "/content/ingest").empty(), "nothing is left in ingest");
     }},
    {"pull_again", // over a damaged layer, with a container on it
     [](Life &l) {
         l.pull();
         const std::string layer = l.layers.create_writable(l.top(), 0).id;
         l.container("box", layer);
         l.write(layer);
         l.layers.mark_damaged(l.layers.lineage(l.top()).back(), "by this test");
     },
     [](Life &l) { l.pull(); },
     [](Life &l) {
         for (const Layer &layer : l.layers.list())
             expect(layer.damaged.empty(), "no layer is damaged");
         expect(l.file(l.container_layer(), "new") == "new\n", "the container's file");
         expect(l.file(l.container_layer(), "etc/file") == "second\nmore\n", "the image's file below it");
     }},
    {"import", [](Life &) {},
     [](Life &l) {
         const std::string tar = Tar().dir("a").file("a/b", "imported").done();
         const ByteSource source = source_of(tar);
         l.images.import(source, ImageReference{"docker.io", "library/imported", "latest", ""}, "", {}, "",
                         CancelSource());
     },
     [](Life &l) { expect(l.file(l.images.get("imported").top_layer, "a/b") == "imported", "its file"); }},
    {"load", [](Life &) {},
     [](Life &l) {
         const std::string layer = Tar().dir("a").file("a/b", "loaded").done();
         const std::string config =
             R"({"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[")" +
             sha256_of(layer) + R"("]}})";
         const std::string tar = Tar()
                                     .file("l.tar", layer)
                                     .file("c.json", config)
                                     .file("manifest.json", R"([{"Config":"c.json","RepoTags":["loaded:1"],)"
                                                            R"("Layers":["l.tar"]}])")
                                     .done();
         ImageTransfer(l.images).load(source_of(tar), {}, CancelSource(), [](const PullProgress &) {});
     },
     [](Life &l) {
         expect(l.file(l.images.get("loaded:1").top_layer, "a/b") == "loaded", "its file");
         const std::string spool = l.root + "/content/spool";
         expect(!path_exists(spool) || list_directory(spool).empty(), "nothing is left in the spool");
     }},
    {"container", [](Life &l) { l.pull(); },
     [](Life &l) {
         if (!l.container_layer().empty()) return;
         const std::string layer = l.layers.create_writable(l.top(), 0).id;
         failpoint("test.writable");
         l.container("box", layer);
     },
     [](Life &l) { expect(l.file(l.container_layer(), "etc/file") == "second\n", "the image shows"); }},
    {"commit",
     [](Life &l) {
         l.pull();
         const std::string layer = l.layers.create_writable(l.top(), 0).id;
         l.container("box", layer);
         l.write(layer);
     },
     [](Life &l) {
         ImageCommit what;
         what.parent = l.images.get("still").id;
         what.layer = l.container_layer();
         what.changes = l.layers.changes(what.layer);
         what.config = "{}";
         what.ref = ImageReference{"docker.io", "library/mine", "latest", ""};
         l.images.commit(what, CancelSource());
     },
     [](Life &l) {
         const std::string top = l.images.get("mine").top_layer;
         expect(l.file(top, "new") == "new\n" && l.file(top, "etc/gone/x") == "(none)", "the changes");
         expect(l.layers.get(top).parent == l.top(), "one layer over the image");
     }},
    {"remove", [](Life &l) { l.pull(); },
     [](Life &l) {
         for (const ImageInfo &image : l.images.list())
             l.images.remove(image.id, true, false);
     },
     [](Life &l) { expect(l.layers.list().empty() && l.images.list().empty(), "all is gone"); }},
    {"migrate",
     [](Life &l) {
         l.pull();
         const std::string layer = l.layers.create_writable(l.top(), 0).id;
         l.container("box", layer);
         l.write(layer);
     },
     [](Life &l) {
         const std::string to = l.name == "vfs" ? "overlay" : "vfs";
         if (path_exists(l.root + "/moved-to-" + l.name)) return; // done in an earlier life
         std::ofstream(l.root + "/moved-to-" + to);               // meant: in charge only after the switch
         const CallScope call;
         Migration move(l.db, {l.name, l.driver}, {to, make_driver(to, l.root)}, l.root + "/storage", {}, {});
         move.judge(call);
         move.copy(call);
         move.switch_over();
         remove_moved(l.db, {l.name, l.driver}, l.root + "/storage/" + l.name, call, {});
     },
     [](Life &l) {
         expect(path_exists(l.root + "/moved-to-" + l.name), "the other driver is in charge");
         expect(l.file(l.container_layer(), "new") == "new\n", "the container's file");
         expect(l.file(l.container_layer(), "etc/file") == "second\nmore\n", "the changed file");
         expect(l.file(l.container_layer(), "etc/gone/x") == "(none)", "the removed directory");
         expect(l.file(l.top(), "etc/away") == "(none)", "the whiteout");
     }},
};

/// Runs a life; returns its wait status. Its words go where the test's go.
int live(const std::function<void()> &work) {
    std::fflush(nullptr);
    const pid_t child = ::fork();
    if (child == 0) {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        int status = 0;
        try {
            set_log_level(LogLevel::kError);
            work();
        } catch (const std::exception &error) {
            std::fprintf(stderr, "  %s\n", error.what());
            status = 1;
        }
        std::fflush(nullptr);
        ::_exit(status);
    }
    int status = -1;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    return status;
}

struct Crash : testing::TestWithParam<std::tuple<const char *, const Operation *>> {};

TEST_P(Crash, LeavesWholeThings) {
    const auto &[driver, operation] = GetParam();
    std::optional<BtrfsLoop> btrfs;
    TempDir plain;
    try {
        if (driver == std::string("btrfs")) btrfs.emplace();
    } catch (const std::exception &error) {
        GTEST_SKIP() << error.what();
    }
    const std::string base = btrfs ? btrfs->path : plain.path;
    int number = 0;
    const auto fresh = [&] {
        const std::string root = base + "/" + std::to_string(number++);
        make_directories(root, 0711);
        EXPECT_EQ(live([&] {
                      Life life(root, driver);
                      operation->prepare(life);
                  }),
                  0);
        return root;
    };
    const auto last = [&](const std::string &root) {
        return live([&] {
            {
                Life life(root, driver);
                operation->judge(life);
                life.judge();
                life.drop_all();
                life.judge();
                expect(life.layers.list().empty(), "no layer is left");
                expect(list_directory(root + "/layer-records").empty(), "no record is left");
                expect(list_directory(root + "/content/blobs/sha256").empty(), "no blob is left");
            }
        });
    };

    const std::string trace = plain.path + "/trace";
    {
        const std::string root = fresh();
        ASSERT_EQ(live([&] {
                      Life life(root, driver);
                      failpoints::arm("?" + trace);
                      operation->work(life);
                  }),
                  0);
        ASSERT_EQ(last(root), 0);
    }
    std::map<std::string, int> points;
    std::ifstream in(trace);
    for (std::string name; std::getline(in, name);)
        ++points[name];
    ASSERT_FALSE(points.empty());

    int kills = 0;
    for (const auto &[name, count] : points) {
        for (const int at : std::set<int>{1, (count + 1) / 2, count}) {
            SCOPED_TRACE(name + ":" + std::to_string(at) + " of " + std::to_string(count));
            const std::string root = fresh();
            const int status = live([&] {
                Life life(root, driver);
                failpoints::arm(name + ":" + std::to_string(at));
                operation->work(life);
            });
            // Threads share the work of a pull: the last of many may not come in another run.
            ASSERT_TRUE((WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) || (at > 1 && status == 0))
                << status;
            kills += WIFSIGNALED(status);
            ASSERT_EQ(live([&] {
                          Life life(root, driver);
                          life.judge();
                          operation->work(life);
                      }),
                      0)
                << "after the kill";
            ASSERT_EQ(last(root), 0) << "at the end";
        }
    }
    std::printf("%d kills at %zu failpoints\n", kills, points.size());
}

std::vector<const Operation *> operations() {
    std::vector<const Operation *> out;
    for (const Operation &o : kOperations)
        out.push_back(&o);
    return out;
}
INSTANTIATE_TEST_SUITE_P(
    All, Crash, testing::Combine(testing::Values("overlay", "vfs", "btrfs"), testing::ValuesIn(operations())),
    [](const auto &info) {
        return std::string(std::get<0>(info.param)) + "_" + std::get<1>(info.param)->name;
    });

} // namespace
} // namespace gantry
