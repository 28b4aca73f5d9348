// An archive of images as docker save, skopeo, podman, buildah, umoci and gantry write them: a docker-archive
// (manifest.json), an OCI layout (index.json), both in one, or what Docker wrote before 1.10 (repositories).
// Members come in any order and say what they mean only at the end, so they are spooled to files beside the
// content store; names in the archive never become paths.
#pragma once

#include "core/image/manifest.h"
#include "core/layer/layers.h"

#include <map>

namespace gantry {

struct ArchiveLimits {
    uint64_t max_members = 1 << 17;
    uint64_t max_bytes = 1ull << 42;
    uint64_t max_ratio = 1100; // unpacked : compressed, judged beyond 64 MiB
    size_t max_document = 8 << 20;
    size_t max_images = 4096;
};

struct ArchivedImage {
    std::vector<std::string> names; // "docker.io/library/x:tag"; familiar ones from docker-archives
    std::string label;              // org.opencontainers.image.ref.name as it stands
    BlobRef top;                    // manifest or index; its bytes are in the archive
    bool made = false;              // the archive has no manifest of it, this one was made here
};

/// Not thread-safe but for open() and read() after images().
class ImageArchive {
  public:
    /// `folder`: an empty directory; removed with all in it at the end.
    explicit ImageArchive(std::string folder, ArchiveLimits limits = {});
    ~ImageArchive();
    ImageArchive(const ImageArchive &) = delete;

    /// Reads the whole stream: a tar, plain or compressed by gzip, zstd, xz or bzip2. `check` between
    /// reads, throws to end. Throws kInvalidArgument or kDataLoss naming the member.
    void spool(const ByteSource &source, const std::function<void()> &check);
    /// What is in it. Every manifest has been found; throws kInvalidArgument when there is none.
    std::vector<ArchivedImage> images();

    bool has(const std::string &digest) const { return by_digest_.count(digest) != 0; }
    /// Path of the spooled file. Throws kNotFound, naming the digest.
    const std::string &file(const std::string &digest) const;
    uint64_t size(const std::string &digest) const;
    std::string read(const std::string &digest, size_t limit) const;

  private:
    struct File {
        std::string path, digest;
        uint64_t size = 0;
    };
    const File *find(const std::string &member) const;
    const File &need(const std::string &member, const std::string &wanted_by) const;
    std::string document(const std::string &member) const;
    void take(const std::string &name, const std::function<size_t(void *, size_t)> &read, uint64_t size);
    std::string add(std::string_view bytes);
    BlobRef make_image(const File &config, const std::vector<const File *> &layers);
    std::vector<ArchivedImage> docker_images();
    std::vector<ArchivedImage> layout_images() const;
    std::vector<ArchivedImage> legacy_images();

    std::string folder_;
    ArchiveLimits limits_;
    std::map<std::string, size_t> members_;    // name -> file
    std::map<std::string, std::string> links_; // name -> name
    std::map<std::string, size_t> by_digest_;
    std::vector<File> files_;
};

} // namespace gantry
