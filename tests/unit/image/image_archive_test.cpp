// Image archives of every kind, and hostile ones: what is refused says what and where, and leaves nothing.
#include "core/image/image_archive.h"

#include "core/base/files.h"
#include "core/base/ids.h"
#include "core/content/content.h"
#include "core/image/image_source.h"
#include "core/layer/archive_compressor.h"
#include "core/layer/tar_writer.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

namespace gantry {
namespace {

std::string hex(const std::string &bytes) { return sha256_of(bytes).substr(7); }

class Tar {
  public:
    Tar &file(const std::string &name, const std::string &text) {
        TarEntry entry;
        entry.name = name;
        entry.mode = S_IFREG | 0644;
        entry.size = text.size();
        writer_.begin(entry);
        writer_.data(text.data(), text.size());
        return *this;
    }
    Tar &blob(const std::string &text) { return file("blobs/sha256/" + hex(text), text); }
    Tar &link(const std::string &name, const std::string &target, bool hard = false) {
        TarEntry entry;
        entry.name = name;
        entry.mode = S_IFLNK | 0777;
        entry.link = target;
        entry.hard_link = hard;
        writer_.begin(entry);
        return *this;
    }
    Tar &node(const std::string &name) {
        TarEntry entry;
        entry.name = name;
        entry.mode = S_IFCHR | 0644;
        writer_.begin(entry);
        return *this;
    }
    std::string end() {
        writer_.finish();
        return bytes_;
    }

  private:
    std::string bytes_;
    TarWriter writer_{
        [this](const void *data, size_t size) { bytes_.append(static_cast<const char *>(data), size); }};
};

struct ImageArchiveTest : testing::Test {
    std::string base = testing::TempDir() + "gantry-archive-" + random_hex(4);
    std::string layer = Tar().file("hello", "world").end(), other = Tar().file("b", "c").end();
    std::string config = R"({"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[")" +
                         sha256_of(layer) + R"("]}})";
    ArchiveLimits limits;

    ImageArchiveTest() { make_directories(base, 0700); }
    ~ImageArchiveTest() override {
        EXPECT_TRUE(list_directory(base).empty()) << "spooled files stay behind";
        remove_tree(base);
    }

    std::vector<ArchivedImage> read(const std::string &bytes,
                                    const std::function<void(ImageArchive &)> &use = {}) {
        const std::string folder = base + "/" + random_hex(4);
        make_directories(folder, 0700);
        ImageArchive archive(folder, limits);
        size_t at = 0;
        archive.spool(
            [&](void *out, size_t size) {
                const size_t n = bytes.copy(static_cast<char *>(out), std::min<size_t>(size, 10'000), at);
                at += n;
                return n;
            },
            [] {});
        auto images = archive.images();
        if (use) use(archive);
        return images;
    }
    void refused(const std::string &bytes, const std::string &part) {
        try {
            read(bytes);
            ADD_FAILURE() << "not refused: " << part;
        } catch (const Error &error) {
            EXPECT_NE(error.message().find(part), std::string::npos) << error.message();
        }
    }
    std::string docker(const std::string &config_name, const std::vector<std::string> &layers,
                       const std::string &tags = R"(["x:1","docker.io/a/b:2"])") {
        std::string list;
        for (const auto &name : layers)
            list += (list.empty() ? "\"" : ",\"") + name + "\"";
        return R"([{"Config":")" + config_name + R"(","RepoTags":)" + tags + R"(,"Layers":[)" + list + "]}]";
    }
    std::string oci_manifest() {
        return make_manifest({"application/vnd.oci.image.config.v1+json", sha256_of(config), config.size()},
                             {{"application/vnd.oci.image.layer.v1.tar", sha256_of(layer), layer.size()}});
    }
    static std::string index(const std::string &manifest, const std::string &annotations) {
        return R"({"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":")" +
               sha256_of(manifest) + R"(","size":)" + std::to_string(manifest.size()) +
               (annotations.empty() ? "" : ",\"annotations\":" + annotations) + "}]}";
    }
};

TEST_F(ImageArchiveTest, OldDockerArchivesInAnyOrder) {
    for (const bool documents_first : {false, true}) {
        Tar tar;
        const std::string manifest = docker("abc.json", {"l1/layer.tar"});
        if (documents_first) tar.file("./manifest.json", manifest);
        tar.file("l1/VERSION", "1.0")
            .file("l1/json", "{}")
            .file("l1/layer.tar", layer)
            .file("abc.json", config);
        if (!documents_first) tar.file("manifest.json", manifest);
        const auto images = read(tar.end(), [&](ImageArchive &archive) {
            EXPECT_EQ(archive.read(sha256_of(config), 10'000), config);
            EXPECT_EQ(archive.size(sha256_of(layer)), layer.size());
        });
        ASSERT_EQ(images.size(), 1u);
        EXPECT_EQ(images[0].names, (std::vector<std::string>{"x:1", "docker.io/a/b:2"}));
        EXPECT_TRUE(images[0].made);
        EXPECT_EQ(images[0].top.digest, sha256_of(oci_manifest()));
    }
}

TEST_F(ImageArchiveTest, EqualLayersAreLinks) {
    const std::string manifest = docker("c.json", {"l1/layer.tar", "l2/layer.tar", "l3/layer.tar"}, "null");
    const auto images = read(Tar()
                                 .file("l1/layer.tar", layer)
                                 .link("l2/layer.tar", "../l1/layer.tar")
                                 .link("l3/layer.tar", "l1/layer.tar", true)
                                 .file("c.json", config)
                                 .file("manifest.json", manifest)
                                 .end(),
                             [&](ImageArchive &archive) {
                                 const auto top = archive.images()[0].top;
                                 const Manifest made = parse_manifest(archive.read(top.digest, 10'000), "");
                                 ASSERT_EQ(made.layers.size(), 3u);
                                 for (const BlobRef &one : made.layers)
                                     EXPECT_EQ(one.digest, sha256_of(layer));
                             });
    EXPECT_TRUE(images[0].names.empty());
}

TEST_F(ImageArchiveTest, BothKindsInOneKeepTheManifest) {
    const std::string path = "blobs/sha256/", manifest = oci_manifest();
    const auto images = read(Tar()
                                 .blob(layer)
                                 .blob(config)
                                 .blob(manifest)
                                 .file("index.json", index(manifest, ""))
                                 .file("manifest.json", docker(path + hex(config), {path + hex(layer)}))
                                 .end());
    ASSERT_EQ(images.size(), 1u);
    EXPECT_FALSE(images[0].made);
    EXPECT_EQ(images[0].top.digest, sha256_of(manifest));
    EXPECT_EQ(images[0].names.size(), 2u);
}

TEST_F(ImageArchiveTest, LayoutsAndTheirNames) {
    const std::string manifest = oci_manifest();
    for (
        const auto &[notes, names, label] :
        std::vector<std::tuple<std::string, std::vector<std::string>, std::string>>{
            {R"({"org.opencontainers.image.ref.name":"v1"})", {}, "v1"},
            {R"({"org.opencontainers.image.ref.name":"q.io/a/b:v1"})", {"q.io/a/b:v1"}, "q.io/a/b:v1"},
            {R"({"io.containerd.image.name":"docker.io/library/x:2","org.opencontainers.image.ref.name":"2"})",
             {"docker.io/library/x:2"},
             "2"},
            {"", {}, ""}}) {
        const auto images = read(
            Tar().file("index.json", index(manifest, notes)).blob(manifest).blob(config).blob(layer).end());
        ASSERT_EQ(images.size(), 1u);
        EXPECT_EQ(images[0].names, names);
        EXPECT_EQ(images[0].label, label);
        EXPECT_EQ(selected(images, label).size(), 1u);
        EXPECT_THROW(selected(images, "nosuch"), Error);
    }
}

TEST_F(ImageArchiveTest, BeforeManifestsThereWereRepositories) {
    const auto images = read(
        Tar()
            .file(
                "base/json",
                R"({"id":"base","created":"2015-01-01T00:00:00Z","container_config":{"Cmd":["make","base"]}})")
            .file("base/layer.tar", layer)
            .file(
                "top/json",
                R"({"id":"top","parent":"base","os":"linux","architecture":"amd64","config":{"Cmd":["sh"]}})")
            .file("top/layer.tar", other)
            .file("repositories", R"({"old/image":{"1":"top","2":"top"}})")
            .end(),
        [&](ImageArchive &archive) {
            const Manifest made = parse_manifest(archive.read(archive.images()[0].top.digest, 10'000), "");
            const ImageInfo info = parse_config(archive.read(made.config.digest, 10'000));
            EXPECT_EQ(info.diff_ids, (std::vector<std::string>{sha256_of(layer), sha256_of(other)}));
            EXPECT_EQ(info.config.cmd, std::vector<std::string>{"sh"});
            EXPECT_EQ(parse_history(info.config_json)[0].created_by, "make base");
        });
    ASSERT_EQ(images.size(), 1u);
    EXPECT_EQ(images[0].names, (std::vector<std::string>{"old/image:1", "old/image:2"}));
    refused(Tar()
                .file("a/json", R"({"parent":"a"})")
                .file("a/layer.tar", layer)
                .file("repositories", R"({"x":{"1":"a"}})")
                .end(),
            "too many layers");
}

TEST_F(ImageArchiveTest, Compressed) {
    const std::string tar = Tar()
                                .file("l/layer.tar", layer)
                                .file("c.json", config)
                                .file("manifest.json", docker("c.json", {"l/layer.tar"}))
                                .end();
    for (const char *kind : {"", "gzip", "zstd"}) {
        std::string packed;
        ArchiveCompressor compressor(kind, [&](const void *bytes, size_t size) {
            packed.append(static_cast<const char *>(bytes), size);
        });
        for (size_t at = 0; at < tar.size(); at += 1000)
            compressor.write(tar.data() + at, std::min<size_t>(1000, tar.size() - at));
        compressor.finish();
        EXPECT_EQ(read(packed).size(), 1u) << kind;
        EXPECT_EQ(packed == tar, *kind == 0);
        if (*kind != 0) {
            EXPECT_THROW(read(packed.substr(0, packed.size() / 2)), Error) << kind;
        }
    }
    EXPECT_THROW(ArchiveCompressor("lz4", [](const void *, size_t) {}), Error);
    for (const char *tool : {"xz", "bzip2"}) {
        const std::string path = base + "/t";
        write_file_atomically(path, tar, 0600, false);
        ASSERT_EQ(std::system((std::string(tool) + " -c " + path + " > " + path + ".z").c_str()), 0);
        const std::string packed = read_file(path + ".z");
        EXPECT_EQ(read(packed).size(), 1u) << tool;
        EXPECT_THROW(read(packed.substr(0, packed.size() / 2)), Error) << tool;
        remove_tree(path);
        remove_tree(path + ".z");
    }
}

TEST_F(ImageArchiveTest, WhatIsNoImageArchive) {
    refused("", "empty");
    refused("no tar at all", "");
    refused(Tar().file("etc/passwd", "root").end(), "no manifest.json, index.json or repositories");
}

TEST_F(ImageArchiveTest, NamesNeverLeadOut) {
    refused(Tar().file("../evil", "x").end(), "leads out");
    refused(Tar().file("a/../../evil", "x").end(), "leads out");
    refused(Tar().node("dev").end(), "neither a file nor a link");
    const std::string manifest = docker("c.json", {"l"});
    for (const char *target : {"../../../etc/passwd", "/etc/passwd", "l", "m"})
        refused(Tar()
                    .link("l", target)
                    .link("m", "l")
                    .file("c.json", config)
                    .file("manifest.json", manifest)
                    .end(),
                "names l, which is not in the archive");
}

TEST_F(ImageArchiveTest, LiesAreTold) {
    const std::string path = "blobs/sha256/" + hex(layer);
    refused(Tar().file(path, other).end(), path + ": the content's digest is " + sha256_of(other));
    refused(Tar().file("manifest.json", docker("c.json", {"l"})).file("l", layer).end(), "names c.json");
    refused(Tar().file("manifest.json", docker("c.json", {"l"})).file("c.json", config).end(), "names l");
    refused(Tar().file("manifest.json", "[{]").end(), "manifest.json: not valid JSON");
    refused(Tar().file("manifest.json", "{}").end(), "manifest.json: not a list");
    refused(Tar().file("manifest.json", "[]").end(), "no image");
    refused(Tar().file("index.json", index("gone", "")).end(), "which is not in the archive");
    refused(Tar().file("index.json", R"({"manifests":[{"digest":"sha256:../../x"}]})").end(), "bad digest");
    std::string deep(100, '[');
    refused(Tar().file("index.json", deep).end(), "index.json");
    const std::string whole = Tar().file("l", std::string(100'000, 'x')).end();
    refused(whole.substr(0, 50'000), "cut short");
}

TEST_F(ImageArchiveTest, Limits) {
    limits.max_members = 3;
    refused(Tar().file("a", "").file("b", "").file("c", "").file("d", "").end(), "more than 3 members");
    limits.max_document = 100;
    refused(Tar().file("manifest.json", std::string(101, ' ')).end(), "manifest.json: larger than");
    limits = {};
    limits.max_bytes = 100'000;
    refused(Tar().file("a", std::string(200'000, 'a')).end(), "larger than the limit");
    limits = {};
    std::string packed;
    ArchiveCompressor bomb("zstd", [&](const void *bytes, size_t size) {
        packed.append(static_cast<const char *>(bytes), size);
    });
    const std::string zeros(1 << 20, 0);
    Tar small;
    TarWriter writer([&](const void *bytes, size_t size) { bomb.write(bytes, size); });
    TarEntry entry;
    entry.name = "a";
    entry.mode = S_IFREG | 0644;
    entry.size = 200ull << 20;
    writer.begin(entry);
    for (int i = 0; i < 200; ++i)
        writer.data(zeros.data(), zeros.size());
    writer.finish();
    bomb.finish();
    refused(packed, "expands more than");
}

} // namespace
} // namespace gantry
