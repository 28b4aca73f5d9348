// The move between storage drivers: nothing of a tree may change, and a kill at any step leaves an engine
// that works and a move that can be repeated.
#include "tests/integration/layer/btrfs_world.h"

#include "core/layer/migrate.h"
#include "core/store/db.h"
#include "core/store/moved_storage.h"
#include "plugins/storage-btrfs/driver.h"
#include "plugins/storage-overlay/driver.h"
#include "plugins/storage-vfs/driver.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>

namespace gantry {
namespace {

using namespace test;

std::string fs_of(const UniqueFd &tree) { return "/proc/self/fd/" + std::to_string(tree.get()) + "/."; }

struct Engine {
    std::string root;
    std::unique_ptr<Db> db;
    Migration::Side side;
    std::unique_ptr<Layers> layers;

    static Migration::Side open(const std::string &root, const std::string &name) {
        const std::string place = root + "/storage/" + name;
        const CallScope call;
        if (name == "overlay")
            return {name, std::make_shared<OverlayDriver>(place, OverlayDriver::Settings{})};
        if (name == "btrfs")
            return {name, std::make_shared<BtrfsDriver>(place, BtrfsDriver::Settings{}, call)};
        return {name, std::make_shared<VfsDriver>(place)};
    }
    /// As the daemon starts: with the driver of the last move, and its rest removed.
    Engine(const std::string &path, const std::string &first) : root(path), db(new Db(path + "/db")) {
        const std::string moved = moved_storage(*db).to;
        side = open(root, moved.empty() ? first : moved);
        const CallScope call;
        for (const std::string &name : drivers_moved_from(*db, side.name))
            remove_moved(*db, open(root, name), root + "/storage/" + name, call, {});
        layers = std::make_unique<Layers>(*db, side.driver, side.name, false);
        layers->recover();
    }
    void move(const std::string &to, const Migration::Progress &progress = {},
              std::map<std::string, uint64_t> limits = {}) {
        const CallScope call;
        Migration migration(*db, side, open(root, to), root, std::move(limits), progress);
        migration.judge(call);
        migration.copy(call);
        migration.switch_over();
        remove_moved(*db, side, root + "/storage/" + side.name, call, progress);
    }
    std::string one(const char *sql) {
        std::string out;
        db->transact([&](Db &t) {
            auto s = t.prepare(sql);
            while (s.step())
                out += (out.empty() ? "" : " ") + s.text(0);
        });
        return out;
    }
    std::map<std::string, std::string> image() {
        return describe(fs_of(mount_detached(layers->mounts(one("SELECT top_layer FROM image"), true))));
    }
    std::map<std::string, std::string> container() {
        return describe(fs_of(mount_detached(layers->mounts(one("SELECT layer FROM container"), true))));
    }
    std::string chains() {
        return one("SELECT chain_id||diff_id||blob_digest FROM layer WHERE chain_id IS NOT NULL ORDER BY 1");
    }

    void fill() {
        const std::string tars[] = {
            Tar()
                .dir("d")
                .file("d/a", "1")
                .file("d/b", "2")
                .file("same", "aaaa")
                .dir("gone")
                .file("gone/x", "x")
                .dir("deep")
                .dir("deep/er")
                .file("deep/er/1", std::string(100000, 'x'))
                .entry('1', "hard", "", "d/a")
                .file("type", "t")
                .entry('2', "link", "", "d/a")
                .done(),
            // Rewritten within the same size and time, as reproducible builds do.
            Tar()
                .dir("d")
                .file("d/.wh.a", "")
                .file("d/c", "3")
                .file("same", "bbbb")
                .file(".wh.gone", "")
                .dir("type")
                .file("type/in", "i")
                .done(),
            Tar()
                .dir("gone")
                .file("gone/y", "y")
                .dir("deep")
                .file("deep/.wh..wh..opq", "")
                .file("deep/new", "n")
                .file("suid", "s")
                .done(),
        };
        std::string parent;
        const CallScope call;
        for (const std::string &tar : tars) {
            auto making = layers->begin({sha256_of(tar), "sha256:blob", tar.size()}, parent);
            making->unpack(source_of(tar), call);
            parent = making->finish(parent).id;
        }
        const std::string box = layers->create_writable(parent, 0).id;
        db->transact([&](Db &t) {
            t.prepare("INSERT INTO image(id,manifest,config,top_layer,size,created,added,used) "
                      "VALUES('i','','',?,0,0,0,0)")
                .bind(1, parent)
                .run();
            t.prepare("INSERT INTO container(id,name,phase,image,layer,config,state,created) "
                      "VALUES('c','box','ready','i',?,'{}','{}',0)")
                .bind(1, box)
                .run();
        });
        const UniqueFd tree = mount_detached(layers->mounts(box, false));
        shell_in(tree.get(),
                 "umask 022; rm d/b; echo more >> d/c; rm -r deep; mkdir deep; echo own > deep/own; ln hard "
                 "second; "
                 "chmod 4755 suid; chown 5:6 type/in; mkfifo pipe; mknod dev c 1 3; truncate -s 8M sparse; "
                 "echo tail >> sparse; touch -d '2001-02-03 04:05:06.789' d; ln -s nowhere dangling; mkdir "
                 "-m 1777 t; "
                 "rm same; mkdir same; echo f > same/f; chmod 711 .");
        const std::string at = fs_of(tree);
        ASSERT_EQ(::setxattr((at + "/deep/own").c_str(), "user.k", "v", 1, 0), 0);
        ASSERT_EQ(::setxattr((at + "/deep").c_str(), "trusted.k", "v", 1, 0), 0);
        const UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_un address{AF_UNIX, {}};
        std::snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/sock", tree.get());
        ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr *>(&address), sizeof address), 0);
    }
};

struct Move : testing::TestWithParam<std::pair<const char *, const char *>> {
    static void SetUpTestSuite() { world = std::make_unique<BtrfsLoop>(); }
    static void TearDownTestSuite() { world.reset(); }
    static inline std::unique_ptr<BtrfsLoop> world; // every driver works on it
    std::string root = world->path + "/" + random_hex(4);
    void SetUp() override { make_directories(root, 0755); }
};

TEST_P(Move, KeepsEveryTree) {
    const auto [from, to] = GetParam();
    Engine engine(root, from);
    engine.fill();
    const auto image = engine.image(), container = engine.container();
    const std::string chains = engine.chains();
    std::vector<std::string> told;
    engine.move(to, [&](const MigrationStep &step) { told.push_back(step.doing); });
    EXPECT_GE(told.size(), 10u);
    Engine after(root, from);
    EXPECT_EQ(after.side.name, to);
    EXPECT_EQ(difference(image, after.image()), "");
    EXPECT_EQ(difference(container, after.container()), "");
    EXPECT_EQ(after.chains(), chains);
    EXPECT_FALSE(path_exists(root + "/storage/" + from));
    EXPECT_EQ(after.one("SELECT DISTINCT driver||state FROM layer"), to + std::string("ready"));
    struct stat st {};
    const UniqueFd tree =
        mount_detached(after.layers->mounts(after.one("SELECT layer FROM container"), true));
    ASSERT_EQ(::fstatat(tree.get(), "sparse", &st, 0), 0);
    EXPECT_LT(st.st_blocks * 512, 1 << 20) << "the hole was filled";
    // The layers can be worked on: another container, and the end of both.
    const std::string more = after.layers->create_writable(after.one("SELECT top_layer FROM image"), 0).id;
    shell_in(mount_detached(after.layers->mounts(more, false)).get(), "rm -r d; echo x > x");
    after.layers->remove(more);
}

// Killed at every step it tells, and in between; each start finds a whole engine.
TEST_P(Move, SurvivesAKillAtEveryStep) {
    const auto [from, to] = GetParam();
    std::map<std::string, std::string> image, container;
    {
        Engine engine(root, from);
        engine.fill();
        image = engine.image();
        container = engine.container();
    }
    int killed = 0, before_switch = 0, after_switch = 0;
    for (int stop = 1;; ++stop) {
        const pid_t child = ::fork();
        if (child == 0) {
            int status = 1;
            try {
                int step = 0;
                Engine(root, from).move(to, [&](const MigrationStep &) {
                    if (++step == stop) ::kill(::getpid(), SIGKILL);
                });
                status = 0;
            } catch (const std::exception &error) {
                std::fprintf(stderr, "child: %s\n", error.what());
            }
            ::_exit(status);
        }
        int status = 0;
        ::waitpid(child, &status, 0);
        ASSERT_TRUE(WIFSIGNALED(status) || status == 0) << "the move failed by itself";
        Engine engine(root, from);
        ASSERT_EQ(difference(image, engine.image()), "") << "killed at step " << stop;
        ASSERT_EQ(difference(container, engine.container()), "") << "killed at step " << stop;
        if (!WIFSIGNALED(status)) break;
        ++killed;
        engine.side.name == from ? ++before_switch : ++after_switch;
        if (engine.side.name == to) {
            EXPECT_FALSE(path_exists(root + "/storage/" + from));
            break;
        }
    }
    EXPECT_GT(before_switch, 5);
    Engine engine(root, from);
    EXPECT_EQ(engine.side.name, to);
    EXPECT_EQ(engine.one("SELECT DISTINCT driver||state FROM layer"), to + std::string("ready"));
}

TEST_P(Move, AContainerThatRanSinceIsCopiedAnew) {
    const auto [from, to] = GetParam();
    Engine engine(root, from);
    engine.fill();
    EXPECT_THROW(engine.move(to,
                             [](const MigrationStep &step) {
                                 if (step.doing == "Comparing") throw std::runtime_error("stop");
                             }),
                 std::runtime_error);
    engine.layers->recover();
    shell_in(mount_detached(engine.layers->mounts(engine.one("SELECT layer FROM container"), false)).get(),
             "echo later > later; rm pipe");
    const auto container = engine.container();
    int again = 0;
    engine.move(to, [&](const MigrationStep &step) { again += step.doing == "Copied before"; });
    EXPECT_EQ(again, 3) << "finished image layers are not copied twice";
    Engine after(root, from);
    EXPECT_EQ(difference(container, after.container()), "");
}

INSTANTIATE_TEST_SUITE_P(Drivers, Move,
                         testing::Values(std::pair{"overlay", "vfs"}, std::pair{"vfs", "overlay"},
                                         std::pair{"overlay", "btrfs"}, std::pair{"btrfs", "overlay"}),
                         [](const auto &info) {
                             return std::string(info.param.first) + "To" + info.param.second;
                         });

TEST(MoveJudges, SpaceAndLimits) {
    BtrfsLoop small(256);
    Engine engine(small.path, "vfs");
    engine.fill();
    const auto class_of = [&](const std::map<std::string, uint64_t> &limits) {
        try {
            engine.move("overlay", {}, limits);
        } catch (const Error &error) {
            return error.error_class();
        }
        return ErrorClass::kInternal;
    };
    EXPECT_EQ(class_of({{"4", 1 << 20}}), ErrorClass::kFailedPrecondition) << "overlay has no limits here";
    shell_in(small.path, "head -c 150000000 /dev/urandom > ballast");
    EXPECT_EQ(class_of({}), ErrorClass::kNoSpace);
    EXPECT_EQ(engine.one("SELECT DISTINCT driver||state FROM layer"), "vfsready") << "nothing was begun";
}

} // namespace
} // namespace gantry
