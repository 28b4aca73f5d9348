// Any bytes as a layer: unpacking must end in a tree or an Error, and write nothing beside its root.
// Runs as root (mknod, trusted attributes) on a scratch directory in /dev/shm.
#include "core/base/cancel.h"
#include "core/base/files.h"
#include "core/layer/layers.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
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
    static const std::string outer = "/dev/shm/gantry-fuzz-" + std::to_string(::getpid());
    const std::string tar = with_checksums(data, size);
    const std::string root = outer + "/root";
    remove_tree(outer);
    make_directories(root, 0755);
    UnpackLimits limits;
    limits.max_bytes = 8 << 20;
    limits.max_entries = 2000;
    const auto format = static_cast<gantry_whiteout>(size > 0 ? data[size - 1] % 3 : 0);
    try {
        const CallScope call;
        const UniqueFd dir = open_file(root, O_PATH | O_DIRECTORY);
        size_t at = 0;
        unpack_layer(
            [&](void *out, size_t wanted) {
                const size_t n = std::min(wanted, size - at);
                std::memcpy(out, tar.data() + at, n);
                at += n;
                return n;
            },
            dir.get(), format, limits, call);
    } catch (const Error &) {
        // refusing is the point
    }
    const auto names = list_directory(outer);
    if (names.size() != 1 || names[0] != "root") {
        std::fprintf(stderr, "something was written beside the root\n");
        std::abort();
    }
    remove_tree(outer);
    return 0;
}
