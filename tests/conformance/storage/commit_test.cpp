// A container's changes as a new image layer, on every driver: the image shows what the container shows.
#include "tests/conformance/storage/drivers.h"

#include "core/store/db.h"

namespace gantry {
namespace {

using namespace test;

struct CommitLayers : testing::TestWithParam<DriverCase> {
    TempDir dir;
    Db db{dir.path + "/db"};
    std::shared_ptr<StorageDriver> driver = GetParam().make(GetParam().home(dir.path));
    Layers layers{db, driver, GetParam().name, false};
    CallScope call;

    Layer make(const std::string &tar, const std::string &parent) {
        auto making = layers.begin({sha256_of(tar), "", 0}, parent);
        making->unpack(source_of(tar), call);
        return making->finish(parent);
    }
    View view(const std::string &id, bool read_only = true) {
        return {mount_detached(layers.mounts(id, read_only))};
    }
    Layer base() {
        return make(Tar()
                        .dir("d", 0711)
                        .dir("d/deep")
                        .file("d/deep/x", "1")
                        .file("d/a", "2")
                        .dir("gone")
                        .file("gone/f")
                        .file("kind")
                        .dir("dir")
                        .file("dir/f")
                        .file("kept")
                        .done(),
                    "");
    }
};

constexpr char kEdits[] = "rm -r d; mkdir -p d/deep; echo new > d/deep/y; chmod 0750 d; rm -r gone; rm kind; "
                          "mkdir kind; echo in > kind/in; rm -r dir; echo file > dir; echo more >> kept; "
                          "ln kept hard; ln -s kept soft; mkfifo pipe; mknod null c 1 3; chown 3:4 kept; "
                          "chmod 4755 kept; touch -d '2020-01-02 03:04:05.678' kept";

TEST_P(CommitLayers, TheImageShowsWhatTheContainerShows) {
    const Layer parent = base();
    const Layer box = layers.create_writable(parent.id, 0);
    shell_in(view(box.id, false).path(), kEdits);
    const auto layer = layers.commit_changes(box.id, layers.changes(box.id), {}, call);
    ASSERT_TRUE(layer);
    EXPECT_EQ(layer->parent, parent.id);
    EXPECT_EQ(layer->chain_id, chain_id_of(parent.chain_id, layer->diff_id));
    auto wanted = describe(view(box.id).path()), got = describe(view(layer->id).path());
    wanted.erase("/");
    got.erase("/");
    EXPECT_EQ(difference(wanted, got), "");
    EXPECT_FALSE(path_exists(view(layer->id).path() + "d/deep/x")) << "below a directory that was made anew";
    EXPECT_FALSE(path_exists(view(layer->id).path() + "d/a"));
    // Equal changes are one layer.
    EXPECT_EQ(layers.commit_changes(box.id, layers.changes(box.id), {}, call)->id, layer->id);
    EXPECT_EQ(describe(view(parent.id).path()).count("/gone/f"), 1u);
}

TEST_P(CommitLayers, NothingChangedIsNoLayer) {
    const Layer box = layers.create_writable(base().id, 0);
    EXPECT_FALSE(layers.commit_changes(box.id, layers.changes(box.id), {}, call));
    EXPECT_EQ(driver->list(call).size(), 2u);
}

TEST_P(CommitLayers, ALayerWrittenOutMakesTheSameTreeAgain) {
    const Layer parent = base();
    const Layer box = layers.create_writable(parent.id, 0);
    shell_in(view(box.id, false).path(), kEdits);
    std::string tar;
    layers.write_diff(
        box.id, [&](const void *bytes, size_t size) { tar.append(static_cast<const char *>(bytes), size); },
        {}, call);
    const Layer layer = make(tar, parent.id);
    EXPECT_EQ(layer.diff_id, sha256_of(tar));
    auto wanted = describe(view(box.id).path()), got = describe(view(layer.id).path());
    wanted.erase("/");
    got.erase("/");
    EXPECT_EQ(difference(wanted, got), "");
}

TEST_P(CommitLayers, AFailedCommitLeavesNothing) {
    const Layer box = layers.create_writable(base().id, 0);
    shell_in(view(box.id, false).path(), "touch .wh.trick");
    EXPECT_EQ(class_of([&] { layers.commit_changes(box.id, layers.changes(box.id), {}, call); }),
              ErrorClass::kInvalidArgument);
    EXPECT_EQ(driver->list(call).size(), 2u);
}

INSTANTIATE_TEST_SUITE_P(Drivers, CommitLayers, testing::ValuesIn(kDrivers),
                         [](const auto &info) { return std::string(info.param.name); });

} // namespace
} // namespace gantry
