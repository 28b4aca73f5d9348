// Any bytes as an image archive: it is understood or refused, and nothing is written beside its folder.
#include "core/base/files.h"
#include "core/image/image_archive.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <unistd.h>

// Mutations would nearly all die at a header's checksum: every block that looks like one gets it right.
static std::string with_checksums(const uint8_t *data, size_t size) {
    std::string tar(reinterpret_cast<const char *>(data), size);
    for (size_t at = 0; at + 512 <= tar.size(); at += 512) {
        if (tar.compare(at + 257, 5, "ustar") != 0) continue;
        tar.replace(at + 148, 8, 8, ' ');
        unsigned sum = 0;
        for (size_t i = 0; i < 512; ++i)
            sum += static_cast<unsigned char>(tar[at + i]);
        char text[8];
        std::snprintf(text, sizeof text, "%06o", sum & 0777777);
        tar.replace(at + 148, 7, text, 7);
    }
    return tar;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    using namespace gantry;
    static const std::string outer = "/dev/shm/gantry-fuzz-archive-" + std::to_string(::getpid());
    const std::string bytes = with_checksums(data, size);
    remove_tree(outer);
    make_directories(outer + "/spool", 0700);
    ArchiveLimits limits;
    limits.max_bytes = 8 << 20;
    limits.max_members = 1000;
    try {
        ImageArchive archive(outer + "/spool", limits);
        size_t at = 0;
        archive.spool(
            [&](void *out, size_t wanted) {
                const size_t n = bytes.copy(static_cast<char *>(out), wanted, at);
                at += n;
                return n;
            },
            [] {});
        for (const ArchivedImage &image : archive.images())
            parse_manifest(archive.read(image.top.digest, kMaxManifestBytes), image.top.media_type);
    } catch (const Error &) {
        // refusing is the point
    }
    if (!list_directory(outer).empty()) {
        std::fprintf(stderr, "something was written beside the spool, or stayed in it\n");
        std::abort();
    }
    remove_tree(outer);
    return 0;
}
