// JSON from registries is hostile until shown otherwise: bounded depth, bounded counts, digests and sizes
// checked before anything is asked for. Media types decide; a document without one is judged by its keys.
#include "core/image/manifest.h"

#include "core/base/ids.h"
#include "core/content/content.h"
#include "core/image/documents.h"

#include <boost/json.hpp>

#include <sys/utsname.h>

namespace gantry {
namespace {

namespace json = boost::json;

const char *const kOciIndex = "application/vnd.oci.image.index.v1+json";
const char *const kOciManifest = "application/vnd.oci.image.manifest.v1+json";
const char *const kDockerList = "application/vnd.docker.distribution.manifest.list.v2+json";
const char *const kDockerManifest = "application/vnd.docker.distribution.manifest.v2+json";
constexpr uint64_t kMaxBlob = 1ull << 40;

[[noreturn]] void bad(const std::string &what, const std::string &why) { bad_document(what, why); }

int64_t integer_of(const json::object &o, std::string_view key) {
    const auto *v = o.if_contains(key);
    if (!v) return 0;
    if (v->is_int64()) return v->get_int64();
    if (v->is_uint64()) return INT64_MAX;
    return 0;
}

std::vector<std::string> texts_of(const json::object &o, std::string_view key) {
    std::vector<std::string> out;
    if (const auto *v = o.if_contains(key); v && v->is_array())
        for (const auto &item : v->get_array())
            if (item.is_string()) out.emplace_back(item.get_string());
    return out;
}

std::vector<std::string> keys_of(const json::object &o, std::string_view key) {
    std::vector<std::string> out;
    if (const auto *map = object_of(o, key))
        for (const auto &item : *map)
            out.emplace_back(item.key());
    return out;
}

BlobRef blob_of(const json::object &o, const std::string &what) {
    BlobRef out{text_of(o, "mediaType"), text_of(o, "digest"), 0};
    try {
        check_digest(out.digest);
    } catch (const Error &) {
        bad(what, "bad digest");
    }
    // 0 would mean "unknown" further on, and so no limit.
    const auto *number = o.if_contains("size");
    const int64_t size = number && number->is_int64() ? number->get_int64() : 0;
    if (size <= 0 || static_cast<uint64_t>(size) > kMaxBlob) bad(what, "bad size of " + out.digest);
    out.size = static_cast<uint64_t>(size);
    return out;
}

bool is_layer_type(const std::string &type) {
    for (const char *known :
         {"application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.v1.tar+gzip",
          "application/vnd.oci.image.layer.v1.tar+zstd", "application/vnd.docker.image.rootfs.diff.tar.gzip",
          "application/vnd.docker.image.rootfs.diff.tar",
          "application/vnd.docker.image.rootfs.diff.tar.zstd"})
        if (type == known) return true;
    return false;
}

Platform normal(Platform p) {
    if (p.architecture == "x86_64" || p.architecture == "x86-64") p.architecture = "amd64";
    if (p.architecture == "aarch64") p.architecture = "arm64";
    if (p.architecture == "arm64" && (p.variant == "8" || p.variant == "v8")) p.variant.clear();
    if (p.architecture == "amd64" && p.variant == "v1") p.variant.clear();
    return p;
}

} // namespace

Platform host_platform() {
    utsname name{};
    ::uname(&name);
    std::string machine = name.machine;
    if (machine == "ppc64le" || machine == "s390x" || machine == "riscv64") return {"linux", machine, ""};
    if (machine == "i686" || machine == "i386") return {"linux", "386", ""};
    if (machine.starts_with("armv7")) return {"linux", "arm", "v7"};
    return normal({"linux", machine, ""});
}

Platform parse_platform(const std::string &text) {
    if (text.empty()) return host_platform();
    std::vector<std::string> parts(1);
    for (const char c : text) {
        if (c == '/')
            parts.emplace_back();
        else if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.')
            parts.back() += c;
        else
            parts.assign(9, "");
        if (parts.size() > 3) break;
    }
    bool empty = false;
    for (const auto &p : parts)
        empty = empty || p.empty();
    if (parts.size() > 3 || empty)
        throw Error(ErrorClass::kInvalidArgument,
                    "\"" + text +
                        "\" is an invalid platform: it must have the form os/architecture[/variant]");
    if (parts.size() == 1) {
        if (parts[0] == "linux") return host_platform();
        return normal({"linux", parts[0], ""});
    }
    return normal({parts[0], parts[1], parts.size() == 3 ? parts[2] : ""});
}

namespace {

Manifest parse(std::string_view text, const std::string &media_type, bool any_artifact) {
    const json::object o = parse_document(text, kMaxManifestBytes, "manifest");
    Manifest out;
    out.media_type = text_of(o, "mediaType");
    const int64_t version = integer_of(o, "schemaVersion");
    if (version == 1 || o.contains("fsLayers"))
        throw Error(ErrorClass::kUnsupported,
                    "read manifest: Docker image format v1 and manifest v2 schema 1 are not supported",
                    "push the image again with a current tool");
    if (version != 2) bad("manifest", "schemaVersion is not 2");
    if (out.media_type.empty())
        out.media_type = media_type == kOciIndex || media_type == kDockerList || media_type == kDockerManifest
                             ? media_type
                         : o.contains("manifests") ? kOciIndex
                                                   : kOciManifest;
    out.is_index = out.media_type == kOciIndex || out.media_type == kDockerList;
    if (!out.is_index && out.media_type != kOciManifest && out.media_type != kDockerManifest)
        throw Error(ErrorClass::kUnsupported,
                    "read manifest: unsupported manifest media type " + out.media_type.substr(0, 100));
    // CVE-2021-41190: one document that is both would mean different things to different readers.
    if (o.contains("manifests") && (o.contains("layers") || o.contains("config")))
        bad("manifest", "it is an index and a manifest at once");

    const char *const list_key = out.is_index ? "manifests" : "layers";
    const auto *list = o.if_contains(list_key);
    if (!list || !list->is_array()) bad("manifest", std::string("no list \"") + list_key + "\"");
    const auto &items = list->get_array();
    if (items.size() > (out.is_index ? kMaxIndexEntries : kMaxLayers))
        bad("manifest", std::to_string(items.size()) + " entries are too many");
    for (const auto &item : items) {
        const auto *entry = item.if_object();
        if (!entry) bad("manifest", "an entry is not an object");
        BlobRef blob = blob_of(*entry, "manifest");
        if (out.is_index) {
            IndexEntry e;
            e.blob = std::move(blob);
            if (const auto *p = object_of(*entry, "platform")) {
                e.has_platform = true;
                e.platform = normal({text_of(*p, "os"), text_of(*p, "architecture"), text_of(*p, "variant")});
            }
            out.entries.push_back(std::move(e));
            continue;
        }
        if (!any_artifact && !is_layer_type(blob.media_type))
            throw Error(ErrorClass::kUnsupported,
                        "read manifest: unsupported layer media type " + blob.media_type.substr(0, 100));
        out.layers.push_back(std::move(blob));
    }
    if (out.is_index) return out;
    const auto *config = object_of(o, "config");
    if (!config) bad("manifest", "no config");
    out.config = blob_of(*config, "manifest");
    if (!any_artifact && out.config.media_type != "application/vnd.oci.image.config.v1+json" &&
        out.config.media_type != "application/vnd.docker.container.image.v1+json")
        throw Error(ErrorClass::kUnsupported, "read manifest: this is not a container image but " +
                                                  out.config.media_type.substr(0, 100));
    if (out.config.size > kMaxConfigBytes) bad("manifest", "the config is larger than 8 MiB");
    return out;
}

} // namespace

Manifest parse_manifest(std::string_view text, const std::string &media_type) {
    return parse(text, media_type, false);
}

Manifest parse_any_manifest(std::string_view text, const std::string &media_type) {
    return parse(text, media_type, true);
}

const BlobRef &choose_platform(const Manifest &index, const Platform &wanted) {
    const IndexEntry *best = nullptr;
    for (const auto &e : index.entries) {
        if (!e.has_platform) {
            if (index.entries.size() == 1) return e.blob; // its config will tell
            continue;
        }
        if (e.platform.os != wanted.os || e.platform.architecture != wanted.architecture) continue;
        if (e.platform.variant == wanted.variant) return e.blob;
        // Without a wish for a variant the first one is the publisher's default; amd64 v2 and up may
        // hold instructions that this processor lacks.
        if (wanted.variant.empty() && wanted.architecture != "amd64" && !best) best = &e;
    }
    if (!best)
        throw Error(ErrorClass::kNotFound,
                    "no matching manifest for " + wanted.text() + " in the manifest list entries");
    return best->blob;
}

ImageInfo parse_config(std::string_view text) {
    const json::object o = parse_document(text, kMaxConfigBytes, "image config");
    ImageInfo out;
    out.config_json = text;
    out.os = text_of(o, "os");
    out.architecture = text_of(o, "architecture");
    out.variant = text_of(o, "variant");
    out.author = text_of(o, "author");
    out.comment = text_of(o, "comment");
    out.docker_version = text_of(o, "docker_version");
    parse_time(text_of(o, "created"), out.created_ns);
    if (const auto *rootfs = object_of(o, "rootfs")) {
        const auto *list = rootfs->if_contains("diff_ids");
        if (list && list->is_array() && list->get_array().size() > kMaxLayers)
            bad("image config", "too many layers");
        out.diff_ids = texts_of(*rootfs, "diff_ids");
        for (const auto &id : out.diff_ids)
            check_digest(id);
    }
    ImageConfig &c = out.config;
    c.architecture = out.architecture;
    c.os = out.os;
    const auto *config = object_of(o, "config");
    if (!config) return out;
    c.user = text_of(*config, "User");
    c.working_dir = text_of(*config, "WorkingDir");
    c.stop_signal = text_of(*config, "StopSignal");
    c.env = texts_of(*config, "Env");
    c.entrypoint = texts_of(*config, "Entrypoint");
    c.cmd = texts_of(*config, "Cmd");
    c.shell = texts_of(*config, "Shell");
    c.exposed_ports = keys_of(*config, "ExposedPorts");
    c.volumes = keys_of(*config, "Volumes");
    if (const auto *labels = object_of(*config, "Labels"))
        for (const auto &label : *labels)
            if (label.value().is_string())
                c.labels[std::string(label.key())] = std::string(label.value().get_string());
    if (const auto *h = object_of(*config, "Healthcheck")) {
        HealthcheckConfig health;
        health.test = texts_of(*h, "Test");
        health.interval_ns = integer_of(*h, "Interval");
        health.timeout_ns = integer_of(*h, "Timeout");
        health.start_period_ns = integer_of(*h, "StartPeriod");
        health.start_interval_ns = integer_of(*h, "StartInterval");
        health.retries = static_cast<int>(std::min<int64_t>(integer_of(*h, "Retries"), 1000));
        if (!health.test.empty()) c.healthcheck = health;
    }
    return out;
}

std::vector<ConfigHistory> parse_history(std::string_view text) {
    const json::object document = parse_document(text, kMaxConfigBytes, "image config");
    std::vector<ConfigHistory> out;
    const auto *list = document.if_contains("history");
    if (!list || !list->is_array()) return out;
    for (const auto &item : list->get_array()) {
        const auto *h = item.if_object();
        if (!h || out.size() >= 4096) continue;
        ConfigHistory entry{text_of(*h, "created_by"), text_of(*h, "comment"), 0, false};
        parse_time(text_of(*h, "created"), entry.created_ns);
        if (const auto *empty = h->if_contains("empty_layer")) entry.empty_layer = *empty == true;
        out.push_back(std::move(entry));
    }
    return out;
}

std::string make_manifest(const BlobRef &config, const std::vector<BlobRef> &layers) {
    auto blob = [](const BlobRef &b) {
        return json::object{{"mediaType", b.media_type}, {"size", b.size}, {"digest", b.digest}};
    };
    json::array list;
    for (const auto &layer : layers)
        list.push_back(blob(layer));
    return json::serialize(json::object{
        {"schemaVersion", 2}, {"mediaType", kOciManifest}, {"config", blob(config)}, {"layers", list}});
}

} // namespace gantry
