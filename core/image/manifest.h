// Manifests, indexes and image configs: untrusted JSON in, checked structs out.
#pragma once

#include "core/image/images.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace gantry {

constexpr size_t kMaxManifestBytes = 4 << 20;
constexpr size_t kMaxConfigBytes = 8 << 20;
constexpr size_t kMaxLayers = 512;
constexpr size_t kMaxIndexEntries = 4096;

struct Platform {
    std::string os, architecture, variant;
    std::string text() const { return os + "/" + architecture + (variant.empty() ? "" : "/" + variant); }
};
Platform host_platform();
/// "linux/arm64/v8", "linux/amd64", "arm64"; "" is the host's. Throws kInvalidArgument.
Platform parse_platform(const std::string &text);

struct BlobRef {
    std::string media_type, digest;
    uint64_t size = 0;
};

struct IndexEntry {
    BlobRef blob;
    Platform platform;
    bool has_platform = false;
};

/// A manifest of one image, or an index of several.
struct Manifest {
    bool is_index = false;
    std::string media_type;
    BlobRef config;
    std::vector<BlobRef> layers;
    std::vector<IndexEntry> entries;
};
/// `media_type` is what the server called it, or "". Throws kInvalidArgument with the reason;
/// kUnsupported for schema 1 and for artifacts that are no images.
Manifest parse_manifest(std::string_view json, const std::string &media_type);
/// The same for artifacts too: whoever copies need not understand.
Manifest parse_any_manifest(std::string_view json, const std::string &media_type);
/// Throws kNotFound "no matching manifest for linux/riscv64 in the manifest list entries".
const BlobRef &choose_platform(const Manifest &index, const Platform &wanted);

/// Everything of the config document that the engine uses; id, names, layers and sizes are not in it.
ImageInfo parse_config(std::string_view json);

struct ConfigHistory {
    std::string created_by, comment;
    int64_t created_ns = 0;
    bool empty_layer = false;
};
std::vector<ConfigHistory> parse_history(std::string_view json);

/// The config document of `docker import`, with Dockerfile instructions applied to it.
struct ImportConfig {
    std::string diff_id, message;
    int64_t created_ns = 0;
    Platform platform;
    std::vector<std::string> changes;
};
std::string make_import_config(const ImportConfig &from);
std::string make_manifest(const BlobRef &config, const std::vector<BlobRef> &layers);

} // namespace gantry
