// The layer state machine over each driver: images in parallel, containers, reference counts, kills.
#include "tests/conformance/storage/drivers.h"

#include "core/store/db.h"

#include <signal.h>
#include <sys/wait.h>
#include <thread>

namespace gantry {
namespace {

using namespace test;

struct LayerStates : testing::TestWithParam<DriverCase> {
    TempDir dir;
    std::string root = GetParam().home(dir.path);
    std::unique_ptr<Db> db;
    std::shared_ptr<StorageDriver> driver;
    std::unique_ptr<Layers> layers;
    CallScope call;

    void SetUp() override { reopen(); }
    void reopen() {
        layers.reset();
        driver.reset();
        db.reset();
        db = std::make_unique<Db>(dir.path + "/db");
        driver = GetParam().make(root);
        layers = std::make_unique<Layers>(*db, driver, GetParam().name, true);
    }
    Layer make(const std::string &tar, const std::string &parent) {
        auto making = layers->begin({sha256_of(tar), "sha256:blob", tar.size()}, parent);
        making->unpack(source_of(tar), call);
        return making->finish(parent);
    }
    View view(const std::string &id, bool read_only = true) {
        return {mount_detached(layers->mounts(id, read_only))};
    }
    void refer(const std::string &layer) {
        db->transact([&](Db &t) {
            t.prepare("INSERT INTO image(id,manifest,config,top_layer,size,created,added,used) "
                      "VALUES('i','','',?,0,0,0,0)")
                .bind(1, layer)
                .run();
        });
    }
    void unrefer() {
        db->transact([&](Db &t) { t.prepare("DELETE FROM image").run(); });
    }
    std::string states() {
        std::string out;
        db->transact([&](Db &t) {
            auto rows = t.prepare("SELECT id,state FROM layer ORDER BY id");
            while (rows.step())
                out += rows.text(0) + ":" + rows.text(1) + " ";
        });
        return out;
    }
};

const std::string &base_tar() {
    static const std::string tar = Tar().dir("d").file("d/a", "1").file("d/b", "2").file("top", "t").done();
    return tar;
}
const std::string &second_tar() {
    static const std::string tar =
        Tar().dir("d").file("d/.wh.a", "").file("d/c", "3").file("top", "changed").done();
    return tar;
}

TEST_P(LayerStates, ImageLayersStackAndAreShared) {
    const Layer base = make(base_tar(), "");
    EXPECT_EQ(base.chain_id, sha256_of(base_tar()));
    EXPECT_GT(base.inodes, 2u);
    const Layer second = make(second_tar(), base.id);
    EXPECT_EQ(second.chain_id, chain_id_of(base.chain_id, sha256_of(second_tar())));
    EXPECT_EQ(layers->lineage(second.id), (LayerIds{second.id, base.id}));
    EXPECT_EQ(layers->find(second.chain_id)->id, second.id);
    EXPECT_FALSE(layers->find("sha256:none"));
    const View v = view(second.id);
    EXPECT_FALSE(path_exists(v.path() + "d/a"));
    EXPECT_EQ(read_file(v.path() + "d/b"), "2");
    EXPECT_EQ(read_file(v.path() + "d/c"), "3");
    EXPECT_EQ(read_file(v.path() + "top"), "changed");
    // Made again by somebody else: the first wins and nothing is left of the second.
    EXPECT_EQ(make(second_tar(), base.id).id, second.id);
    EXPECT_EQ(driver->list(call).size(), 2u);
}

TEST_P(LayerStates, IndependentLayersUnpackInAnyOrder) {
    if (!layers->independent())
        GTEST_SKIP() << "this driver copies parents: layers are made one after the other";
    auto first = layers->begin({sha256_of(base_tar()), "", 0}, "");
    auto second = layers->begin({sha256_of(second_tar()), "", 0}, "");
    std::thread worker([&] {
        const CallScope scope;
        second->unpack(source_of(second_tar()), scope);
    });
    first->unpack(source_of(base_tar()), call);
    worker.join();
    const Layer base = first->finish("");
    EXPECT_FALSE(path_exists(view(second->finish(base.id).id).path() + "d/a"));
}

TEST_P(LayerStates, WrongDigestLeavesNothing) {
    EXPECT_EQ(class_of([&] {
                  auto making = layers->begin({sha256_of("other"), "", 0}, "");
                  making->unpack(source_of(base_tar()), call);
              }),
              ErrorClass::kDataLoss);
    EXPECT_EQ(class_of([&] { make(Tar().file("../x").done(), ""); }), ErrorClass::kInvalidArgument);
    EXPECT_EQ(states(), "");
    EXPECT_TRUE(driver->list(call).empty());
}

TEST_P(LayerStates, ContainersWriteWithoutTouchingTheImage) {
    const Layer base = make(base_tar(), "");
    const Layer box = layers->create_writable(base.id, 0);
    {
        const View v = view(box.id, false);
        shell_in(v.path(), "rm d/a && echo new > d/n && echo more >> top && mkdir e && echo f > e/f && rm -r "
                           "d && mkdir d && echo n > d/n");
    }
    std::map<std::string, int> seen;
    for (const Change &c : layers->changes(box.id))
        seen[c.path] = c.kind;
    const std::map<std::string, int> wanted{{"/d", GANTRY_CHANGE_MODIFIED},  {"/d/a", GANTRY_CHANGE_DELETED},
                                            {"/d/b", GANTRY_CHANGE_DELETED}, {"/d/n", GANTRY_CHANGE_ADDED},
                                            {"/e", GANTRY_CHANGE_ADDED},     {"/e/f", GANTRY_CHANGE_ADDED},
                                            {"/top", GANTRY_CHANGE_MODIFIED}};
    EXPECT_EQ(seen, wanted);
    EXPECT_GT(layers->usage(box.id).bytes, 0u);
    EXPECT_EQ(read_file(view(base.id).path() + "d/a"), "1");
    EXPECT_EQ(class_of([&] { layers->remove(base.id); }), ErrorClass::kFailedPrecondition);
    layers->remove(box.id);
    EXPECT_EQ(class_of([&] { layers->get(box.id); }), ErrorClass::kNotFound);
    EXPECT_EQ(class_of([&] { layers->remove(box.id); }), ErrorClass::kNotFound);
    layers->remove(base.id);
    EXPECT_EQ(states(), "");
    EXPECT_TRUE(driver->list(call).empty());
}

TEST_P(LayerStates, SweepTakesWhatNothingRefersTo) {
    const Layer base = make(base_tar(), "");
    const Layer second = make(second_tar(), base.id);
    const Layer other = make(Tar().file("other").done(), base.id);
    refer(second.id);
    EXPECT_GT(layers->sweep(), 0u);
    EXPECT_FALSE(layers->find(other.chain_id));
    EXPECT_TRUE(layers->find(second.chain_id));
    EXPECT_EQ(class_of([&] { layers->remove(second.id); }), ErrorClass::kFailedPrecondition);
    unrefer();
    {
        const auto hold = layers->hold();
        EXPECT_TRUE(layers->find(second.chain_id));
        layers->sweep();
        EXPECT_TRUE(layers->find(second.chain_id)) << "a pull had just found it";
    }
    layers->sweep();
    EXPECT_EQ(states(), "");
    EXPECT_TRUE(driver->list(call).empty());
}

TEST_P(LayerStates, RecoverUndoesWhatAKillLeft) {
    const Layer base = make(base_tar(), "");
    refer(base.id);
    for (int round = 0; round < 12; ++round) {
        layers.reset();
        driver.reset();
        db.reset();
        const pid_t child = ::fork();
        if (child == 0) {
            try {
                reopen();
                for (int i = 0;; ++i) {
                    const Layer l =
                        make(Tar().file("f" + std::to_string(i), std::string(20000, 'x')).done(), base.id);
                    const Layer w = layers->create_writable(l.id, 0);
                    if (i % 2) layers->remove(w.id);
                    if (i % 3 == 0) layers->sweep();
                }
            } catch (const std::exception &error) {
                std::fprintf(stderr, "child: %s\n", error.what());
            }
            ::_exit(1);
        }
        ::usleep(static_cast<useconds_t>(30000 + round * 9000)); // the moment is the point, not an event
        ::kill(child, SIGKILL);
        int status = 0;
        ::waitpid(child, &status, 0);
        ASSERT_TRUE(WIFSIGNALED(status)) << "the child failed by itself";
        reopen();
        layers->recover();
        layers->sweep();
        EXPECT_EQ(states(), base.id + ":ready ");
        EXPECT_EQ(driver->list(call), std::vector<std::string>{base.id});
    }
    EXPECT_EQ(read_file(view(base.id).path() + "d/a"), "1");
    // Ids never come back, even after a kill.
    EXPECT_NE(layers->create_writable(base.id, 0).id, base.id);
}

TEST_P(LayerStates, RecoverDropsStrangers) {
    driver->create(call, "zzzz", {}, 0);
    layers->recover();
    EXPECT_TRUE(driver->list(call).empty());
}

INSTANTIATE_TEST_SUITE_P(Drivers, LayerStates, testing::ValuesIn(kDrivers),
                         [](const auto &info) { return std::string(info.param.name); });

} // namespace
} // namespace gantry
