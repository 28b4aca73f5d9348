// Push through the driver, the content store and the layer store, to a registry of the test.
#include "core/content/content.h"
#include "core/events/events.h"
#include "core/image/blob_source.h"
#include "core/image/images.h"
#include "core/layer/decompress.h"
#include "core/layer/layers.h"
#include "core/layer/tar_writer.h"
#include "core/store/db.h"
#include "oci_driver.h"
#include "plugins/storage-vfs/driver.h"
#include "tests/unit/registry/push_registry.h"

#include <boost/json.hpp>

#include <cstring>
#include <filesystem>
#include <gtest/gtest.h>
#include <set>

namespace {

using namespace gantry;
namespace fs = std::filesystem;
namespace json = boost::json;

std::string tar_of(const std::string &name, const std::string &text) {
    std::string out;
    TarWriter writer(
        [&](const void *data, size_t size) { out.append(static_cast<const char *>(data), size); });
    TarEntry entry;
    entry.name = name;
    entry.mode = S_IFREG | 0644;
    entry.size = text.size();
    writer.begin(entry);
    writer.data(text.data(), text.size());
    writer.finish();
    return out;
}

class ImagePush : public ::testing::Test {
  protected:
    void SetUp() override {
        if (::geteuid() != 0) GTEST_SKIP() << "needs root";
        char name[] = "/tmp/gantry-push-root-XXXXXX";
        root = ::mkdtemp(name);
        open(false);
    }
    void open(bool retain) {
        images.reset();
        layers.reset();
        content.reset();
        db.reset();
        db = std::make_unique<Db>(root + "/db");
        fs::create_directories(root + "/layers");
        content = std::make_unique<ContentStore>(root, *db, false);
        layers = std::make_unique<Layers>(*db, std::make_shared<VfsDriver>(root + "/layers"), "vfs", false);
        images =
            std::make_unique<Images>(*db, *content, *layers, std::make_shared<oci::OciDriver>(oci::Options{}),
                                     events, RegistryConfig{}, retain, 0);
    }
    void TearDown() override {
        images.reset();
        layers.reset();
        content.reset();
        db.reset();
        if (!root.empty()) fs::remove_all(root);
    }
    std::string import(const std::string &tar, const std::string &name) {
        size_t at = 0;
        return images->import(
            [&](void *buffer, size_t size) {
                const size_t n = std::min(size, tar.size() - at);
                std::memcpy(buffer, tar.data() + at, n);
                at += n;
                return n;
            },
            reference(name), "", {}, "", cancel);
    }
    ImageReference reference(const std::string &name) { return parse_reference(name, "docker.io", true); }
    PushedTag push(const std::string &name) {
        PushedTag out;
        lines.clear();
        images->push(
            reference(name), std::nullopt, cancel, [&](const PullProgress &p) { lines.insert(p.status); },
            [&](const PushedTag &done) { out = done; });
        return out;
    }
    std::string repository(const std::string &name) { return registry.server.host() + "/" + name; }

    PushRegistry registry;
    std::string root;
    std::unique_ptr<Db> db;
    std::unique_ptr<ContentStore> content;
    std::unique_ptr<Layers> layers;
    Events events;
    CancelSource cancel;
    std::unique_ptr<Images> images;
    std::set<std::string> lines;
};

TEST_F(ImagePush, ImportedImageGetsBlobsAndAConsistentManifest) {
    const std::string id = import(tar_of("hello", std::string(300'000, 'x')), repository("a/x:v1"));
    const PushedTag done = push(repository("a/x:v1"));
    EXPECT_TRUE(lines.contains("Pushed"));
    const std::string manifest = registry.manifests["a/x:v1"];
    EXPECT_EQ(sha256_of(manifest), done.digest);
    EXPECT_EQ(manifest.size(), done.size);
    const auto document = json::parse(manifest).as_object();
    const std::string config_digest(document.at("config").at("digest").as_string());
    EXPECT_EQ(config_digest, id) << "the tar was written as the engine writes them";
    const auto &layer = document.at("layers").as_array().at(0);
    const std::string digest(layer.at("digest").as_string());
    const std::string blob = registry.blobs["a/x@" + digest];
    EXPECT_EQ(sha256_of(blob), digest);
    EXPECT_EQ(blob.size(), static_cast<uint64_t>(layer.at("size").as_int64()));
    EXPECT_LT(blob.size(), 10'000u);
    size_t at = 0;
    auto plain = open_decompressor([&](void *buffer, size_t size) {
        const size_t n = std::min(size, blob.size() - at);
        std::memcpy(buffer, blob.data() + at, n);
        at += n;
        return n;
    });
    Hasher hasher;
    std::vector<char> buffer(100'000);
    while (const size_t n = plain->read(buffer.data(), buffer.size()))
        hasher.update(buffer.data(), n);
    EXPECT_EQ(hasher.digest(), images->get(id).diff_ids.at(0)) << "the config's diff ID";
    EXPECT_EQ(images->get(id).repo_digests, std::vector<std::string>{repository("a/x@" + done.digest)});
}

TEST_F(ImagePush, SecondPushSendsNothingAndKeepsTheDigest) {
    import(tar_of("hello", "one"), repository("a/x:v1"));
    const PushedTag first = push(repository("a/x:v1"));
    const size_t puts = registry.count("PUT", "/blobs/");
    EXPECT_EQ(push(repository("a/x:v1")).digest, first.digest);
    EXPECT_TRUE(lines.contains("Layer already exists"));
    EXPECT_EQ(registry.count("PUT", "/blobs/"), puts);
}

TEST_F(ImagePush, OtherRepositoryOfTheRegistryMounts) {
    import(tar_of("hello", "one"), repository("a/x:v1"));
    const PushedTag first = push(repository("a/x:v1"));
    images->tag(repository("a/x:v1"), reference(repository("b/y:v2")));
    EXPECT_EQ(push(repository("b/y:v2")).digest, first.digest);
    EXPECT_TRUE(lines.contains("Mounted from a/x"));
    EXPECT_EQ(registry.manifests["b/y:v2"], registry.manifests["a/x:v1"]);
}

TEST_F(ImagePush, DroppedBlobsAreFetchedAgainForAnotherRegistry) {
    import(tar_of("hello", "one"), repository("a/x:v1"));
    const PushedTag first = push(repository("a/x:v1"));
    PushRegistry elsewhere;
    images->tag(repository("a/x:v1"), reference(elsewhere.server.host() + "/c/z:1"));
    // The fake has no GET of blobs: first as if the origin were gone.
    try {
        push(elsewhere.server.host() + "/c/z:1");
        FAIL() << "no error";
    } catch (const Error &error) {
        EXPECT_NE(error.message().find("could not be fetched again"), std::string::npos) << error.message();
        EXPECT_NE(error.hint().find("retain_blobs"), std::string::npos) << error.hint();
    }
    registry.serves_blobs = true;
    EXPECT_EQ(push(elsewhere.server.host() + "/c/z:1").digest, first.digest);
    EXPECT_EQ(elsewhere.manifests["c/z:1"], registry.manifests["a/x:v1"]);
    for (const auto &[name, bytes] : elsewhere.blobs)
        EXPECT_EQ("c/z@" + sha256_of(bytes), name);
    for (const std::string &digest : content->list())
        EXPECT_NE(digest.find("sha256:"), std::string::npos);
}

TEST_F(ImagePush, ForeignTarLeavesWithAConfigOfItsOwn) {
    std::string tar = tar_of("b", "two") + std::string(10240, '\0'); // zeros behind the end are no content
    const std::string id = import(tar, repository("a/x:v1"));
    push(repository("a/x:v1"));
    const auto document = json::parse(registry.manifests["a/x:v1"]).as_object();
    const std::string digest(document.at("config").at("digest").as_string());
    const auto config = json::parse(registry.blobs["a/x@" + digest]).as_object();
    EXPECT_NE(digest, id);
    EXPECT_NE(std::string(config.at("rootfs").at("diff_ids").as_array().at(0).as_string()),
              images->get(id).diff_ids.at(0));
}

TEST_F(ImagePush, KeptBlobsAreNotMadeAgain) {
    open(true);
    const std::string id = import(tar_of("hello", "one"), repository("a/x:v1"));
    push(repository("a/x:v1"));
    const auto document = json::parse(registry.manifests["a/x:v1"]).as_object();
    const std::string digest(document.at("layers").as_array().at(0).at("digest").as_string());
    EXPECT_TRUE(content->has(digest));
    images->recover(); // sweeps
    EXPECT_TRUE(content->has(digest));
    images->remove(id, true, true);
    EXPECT_FALSE(content->has(digest));
}

TEST_F(ImagePush, WhatIsNotThereIsSaidAsDockerDoes) {
    import(tar_of("hello", "one"), repository("a/x:v1"));
    const auto message = [&](const std::string &name) {
        try {
            push(name);
            return std::string("no error");
        } catch (const Error &error) {
            return error.message();
        }
    };
    EXPECT_EQ(message(repository("a/none:1")),
              "An image does not exist locally with the tag: " + repository("a/none"));
    EXPECT_EQ(message(repository("a/x:v2")), "tag does not exist: " + repository("a/x:v2"));
    registry.troubled = "POST";
    registry.troubles = {403};
    EXPECT_NE(message(repository("a/x:v1")).find("denied: requested access to the resource is denied"),
              std::string::npos);
}

} // namespace
