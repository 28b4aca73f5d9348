// Volumes against a real database in a temporary directory.
#include "core/volume/volumes.h"

#include "core/base/files.h"
#include "core/events/events.h"
#include "core/store/db.h"

#include <gantry/error.hpp>
#include <gtest/gtest.h>

#include <cstdlib>

namespace gantry {
namespace {

struct VolumesTest : testing::Test {
    std::string root;
    std::unique_ptr<Db> db;
    Events events;
    std::unique_ptr<Volumes> volumes;

    void SetUp() override {
        char path[] = "/tmp/gantry-volume-XXXXXX";
        ASSERT_NE(::mkdtemp(path), nullptr);
        root = path;
        db = std::make_unique<Db>(root + "/db");
        volumes = std::make_unique<Volumes>(*db, events, root);
    }
    void TearDown() override {
        volumes.reset();
        db.reset();
        remove_tree(root);
    }
    void add_container(const std::string &id) {
        db->transact([&](Db &d) {
            d.prepare("INSERT INTO container(id, name, phase, config, state, created)"
                      " VALUES(?1, ?1, 'ready', '', '', 0)")
                .bind(1, id)
                .run();
        });
    }
};

TEST_F(VolumesTest, CreateIsIdempotentAndMakesTheDirectory) {
    Volume a = volumes->create("data", {{"k", "v"}}, {});
    EXPECT_EQ(a.mountpoint, root + "/volumes/data/_data");
    EXPECT_TRUE(path_exists(a.mountpoint));
    Volume b = volumes->create("data", {}, {});
    EXPECT_EQ(b.labels.at("k"), "v");
    EXPECT_EQ(volumes->list().size(), 1u);
}

TEST_F(VolumesTest, AnonymousGetsAnId) {
    Volume a = volumes->create("", {}, {});
    EXPECT_TRUE(a.anonymous);
    EXPECT_EQ(a.name.size(), 64u);
}

TEST_F(VolumesTest, RefusesBadNamesAndOptions) {
    EXPECT_THROW(volumes->create("../x", {}, {}), Error);
    EXPECT_THROW(volumes->create("a/b", {}, {}), Error);
    EXPECT_THROW(volumes->create("ok", {}, {{"type", "nfs"}}), Error);
    EXPECT_TRUE(volumes->list().empty());
}

TEST_F(VolumesTest, InUseIsNotRemoved) {
    volumes->create("data", {}, {});
    add_container("c1");
    volumes->use("data", "c1");
    EXPECT_EQ(volumes->used_by("c1"), std::vector<std::string>{"data"});
    try {
        volumes->remove("data", true);
        FAIL() << "removed a volume in use";
    } catch (const Error &error) {
        EXPECT_EQ(error.error_class(), ErrorClass::kFailedPrecondition);
        EXPECT_EQ(error.message(), "remove data: volume is in use - [c1]");
    }
    db->transact([](Db &d) { d.prepare("DELETE FROM container").run(); });
    volumes->remove("data", false);
    EXPECT_FALSE(path_exists(root + "/volumes/data"));
    try {
        volumes->get("data");
        FAIL();
    } catch (const Error &error) {
        EXPECT_EQ(error.message(), "get data: no such volume");
    }
}

TEST_F(VolumesTest, RecoverMakesDirectoriesAndKeepsWhatNobodyKnows) {
    Volume a = volumes->create("data", {}, {});
    remove_tree(root + "/volumes/data");
    make_directories(root + "/volumes/stray/_data/mine", 0755);
    make_directories(root + "/volumes/.removing-gone/_data", 0755);
    volumes->recover();
    EXPECT_TRUE(path_exists(a.mountpoint));
    EXPECT_TRUE(path_exists(volumes->get("stray").mountpoint + "/mine"));
    EXPECT_FALSE(path_exists(root + "/volumes/.removing-gone"));
}

} // namespace
} // namespace gantry
