#include "core/image/image_archive.h"

#include "core/base/files.h"
#include "core/content/content.h"
#include "core/image/documents.h"
#include "core/layer/decompress.h"
#include "core/layer/rooted.h"
#include "core/layer/tar_reader.h"

#include <boost/json.hpp>

#include <algorithm>
#include <fcntl.h>
#include <set>
#include <sys/stat.h>
#include <unistd.h>

namespace gantry {
namespace {

namespace json = boost::json;

constexpr uint64_t kRatioFloor = 64ull << 20;
constexpr size_t kBuffer = 1 << 20;
constexpr int kMaxLinks = 16;
const char *const kConfigType = "application/vnd.oci.image.config.v1+json";

[[noreturn]] void bad(const std::string &where, const std::string &why) {
    throw Error(ErrorClass::kInvalidArgument, "read image archive: " + where.substr(0, 300) + ": " + why);
}

json::value parse(const std::string &text, const std::string &member) {
    json::parse_options options;
    options.max_depth = 32;
    boost::system::error_code failed;
    auto value = json::parse(text, failed, {}, options);
    if (failed) bad(member, "not valid JSON (" + failed.message() + ")");
    return value;
}
const json::array &list_of(const json::object &o, std::string_view key) {
    static const json::array kNone;
    const auto *v = o.if_contains(key);
    return v && v->is_array() ? v->get_array() : kNone;
}

/// "" for a name that leads out of the archive, or to its root.
std::string clean(const std::string &name) {
    try {
        return clean_entry_path(name);
    } catch (const Error &) {
        return {};
    }
}

/// Digest that a member's name promises: blobs/sha256/<hex>.
std::string promised(const std::string &name) {
    if (!name.starts_with("blobs/")) return {};
    std::string digest = name.substr(6);
    const size_t slash = digest.find('/');
    if (slash == std::string::npos) return {};
    digest[slash] = ':';
    try {
        check_digest(digest);
    } catch (const Error &) {
        return {};
    }
    return digest;
}

/// Layers of a docker-archive carry no media type.
std::string layer_type(const std::string &path) {
    const UniqueFd file = open_file(path, O_RDONLY);
    unsigned char magic[4] = {};
    if (::read(file.get(), magic, sizeof magic) < 0) throw Error::from_errno(errno, "read " + path);
    const std::string base = "application/vnd.oci.image.layer.v1.tar";
    if (magic[0] == 0x1f && magic[1] == 0x8b) return base + "+gzip";
    if (magic[0] == 0x28 && magic[1] == 0xb5 && magic[2] == 0x2f && magic[3] == 0xfd) return base + "+zstd";
    return base;
}

bool is_reference(const std::string &text) {
    return text.find('/') != std::string::npos || text.find(':') != std::string::npos;
}

} // namespace

ImageArchive::ImageArchive(std::string folder, ArchiveLimits limits)
    : folder_(std::move(folder)), limits_(limits) {}

ImageArchive::~ImageArchive() {
    try {
        remove_tree(folder_);
    } catch (const std::exception &) { // the next start does
    }
}

void ImageArchive::spool(const ByteSource &source, const std::function<void()> &check) {
    const auto stream = open_archive_decompressor(source);
    uint64_t total = 0;
    TarReader tar([&](void *buffer, size_t size) {
        check();
        const size_t n = stream->read(buffer, size);
        total += n;
        if (total > limits_.max_bytes) bad("the archive", "larger than the limit");
        if (total > kRatioFloor && total / limits_.max_ratio > stream->consumed())
            bad("the archive",
                "it expands more than " + std::to_string(limits_.max_ratio) + " times when decompressed");
        return n;
    });
    TarEntry entry;
    uint64_t count = 0;
    while (tar.next(entry)) {
        if (++count > limits_.max_members)
            bad("the archive", "it has more than " + std::to_string(limits_.max_members) + " members");
        const std::string name = clean(entry.name);
        if (name.empty()) {
            if (S_ISDIR(entry.mode)) continue; // "./"
            bad(entry.name, "the name leads out of the archive");
        }
        if (S_ISDIR(entry.mode) && !entry.hard_link) continue;
        members_.erase(name); // as when unpacked: the last one counts
        links_.erase(name);
        if (entry.hard_link) {
            links_[name] = clean(entry.link);
        } else if (S_ISLNK(entry.mode)) {
            // Docker's links between equal layers: "../<id>/layer.tar".
            const size_t slash = name.rfind('/');
            links_[name] = clean((slash == std::string::npos ? "" : name.substr(0, slash + 1)) + entry.link);
        } else if (S_ISREG(entry.mode)) {
            take(
                name, [&](void *buffer, size_t size) { return tar.read(buffer, size); }, entry.size);
        } else {
            bad(name, "it is neither a file nor a link");
        }
    }
    if (count == 0) bad("the input", total == 0 ? "it is empty" : "it is no tar archive");
}

void ImageArchive::take(const std::string &name, const std::function<size_t(void *, size_t)> &read,
                        uint64_t size) {
    const std::string wanted = promised(name);
    File file{folder_ + "/" + std::to_string(files_.size()), "", size};
    const UniqueFd out = open_file(file.path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    Hasher hasher(wanted.empty() ? "sha256" : wanted.substr(0, wanted.find(':')));
    thread_local const auto buffer = std::make_unique<char[]>(kBuffer);
    for (uint64_t left = size; left > 0;) {
        const size_t n = read(buffer.get(), std::min<uint64_t>(left, kBuffer));
        if (n == 0) bad(name, "cut short");
        hasher.update(buffer.get(), n);
        write_all(out.get(), {buffer.get(), n}, "image archive's " + name);
        left -= n;
    }
    file.digest = hasher.digest();
    if (!wanted.empty() && file.digest != wanted)
        throw Error(ErrorClass::kDataLoss,
                    "read image archive: " + name + ": the content's digest is " + file.digest);
    members_[name] = files_.size();
    by_digest_.emplace(file.digest, files_.size());
    files_.push_back(std::move(file));
}

std::string ImageArchive::add(std::string_view bytes) {
    size_t at = 0;
    const std::string name = "made/" + std::to_string(files_.size());
    take(
        name,
        [&](void *buffer, size_t size) {
            const size_t n = bytes.copy(static_cast<char *>(buffer), size, at);
            at += n;
            return n;
        },
        bytes.size());
    members_.erase(name);
    return files_.back().digest;
}

const ImageArchive::File *ImageArchive::find(const std::string &member) const {
    std::string name = clean(member);
    for (int i = 0; i < kMaxLinks; ++i) {
        if (const auto found = members_.find(name); found != members_.end()) return &files_[found->second];
        const auto link = links_.find(name);
        if (link == links_.end()) return nullptr;
        name = link->second;
    }
    return nullptr;
}

const ImageArchive::File &ImageArchive::need(const std::string &member, const std::string &wanted_by) const {
    const File *found = find(member);
    if (!found) bad(wanted_by, "it names " + member.substr(0, 200) + ", which is not in the archive");
    return *found;
}

std::string ImageArchive::document(const std::string &member) const {
    const File &file = need(member, "the archive");
    if (file.size > limits_.max_document)
        bad(member, "larger than " + std::to_string(limits_.max_document) + " bytes");
    return read_file(file.path, limits_.max_document);
}

const std::string &ImageArchive::file(const std::string &digest) const {
    const auto found = by_digest_.find(digest);
    if (found == by_digest_.end())
        throw Error(ErrorClass::kNotFound, "read image archive: blob " + digest + " is not in it",
                    "the archive is not complete: save it again");
    return files_[found->second].path;
}

uint64_t ImageArchive::size(const std::string &digest) const {
    file(digest);
    return files_[by_digest_.at(digest)].size;
}

std::string ImageArchive::read(const std::string &digest, size_t limit) const {
    if (size(digest) > limit) bad("blob " + digest, "larger than " + std::to_string(limit) + " bytes");
    return read_file(file(digest), limit);
}

std::vector<ArchivedImage> ImageArchive::images() {
    std::vector<ArchivedImage> out;
    if (find("manifest.json"))
        out = docker_images();
    else if (find("index.json"))
        out = layout_images();
    else if (find("repositories"))
        out = legacy_images();
    else
        throw Error(ErrorClass::kInvalidArgument,
                    "read image archive: it has no manifest.json, index.json or repositories",
                    "a root file system becomes an image with gantry import");
    if (out.empty()) bad("the archive", "there is no image in it");
    return out;
}

BlobRef ImageArchive::make_image(const File &config, const std::vector<const File *> &layers) {
    std::vector<BlobRef> blobs;
    for (const File *layer : layers)
        blobs.push_back({layer_type(layer->path), layer->digest, layer->size});
    const std::string manifest = make_manifest({kConfigType, config.digest, config.size}, blobs);
    return {"application/vnd.oci.image.manifest.v1+json", add(manifest), manifest.size()};
}

std::vector<ArchivedImage> ImageArchive::docker_images() {
    const json::value document = parse(this->document("manifest.json"), "manifest.json");
    if (!document.is_array()) bad("manifest.json", "not a list");
    if (document.get_array().size() > limits_.max_images) bad("manifest.json", "too many images");
    // Since Docker 25 the same images are there as an OCI layout: then the manifests are theirs.
    std::map<std::string, ArchivedImage> by_config;
    if (find("index.json"))
        for (ArchivedImage &image : layout_images()) {
            Manifest manifest =
                parse_manifest(read(image.top.digest, kMaxManifestBytes), image.top.media_type);
            if (!manifest.is_index) {
                by_config.emplace(manifest.config.digest, image);
                continue;
            }
            for (const IndexEntry &entry : manifest.entries) {
                if (!has(entry.blob.digest)) continue;
                try {
                    const Manifest one =
                        parse_manifest(read(entry.blob.digest, kMaxManifestBytes), entry.blob.media_type);
                    if (!one.is_index) by_config.emplace(one.config.digest, image);
                } catch (const Error &) { // an attestation
                }
            }
        }
    std::vector<ArchivedImage> out;
    for (const json::value &item : document.get_array()) {
        const std::string where = "manifest.json, image " + std::to_string(out.size() + 1);
        const auto *o = item.if_object();
        if (!o) bad(where, "not an object");
        const std::string config = text_of(*o, "Config");
        if (config.empty()) bad(where, "it names no config");
        const File config_file = need(config, where);
        ArchivedImage image;
        if (const auto found = by_config.find(config_file.digest); found != by_config.end())
            image = found->second;
        image.names.clear();
        for (const json::value &tag : list_of(*o, "RepoTags"))
            if (tag.is_string()) image.names.emplace_back(tag.get_string());
        if (image.top.digest.empty()) {
            if (list_of(*o, "Layers").size() > kMaxLayers) bad(where, "too many layers");
            std::vector<size_t> layers; // files_ moves when the manifest is added
            for (const json::value &layer : list_of(*o, "Layers")) {
                if (!layer.is_string()) bad(where, "a layer's name is not a string");
                layers.push_back(
                    static_cast<size_t>(&need(std::string(layer.get_string()), where) - files_.data()));
            }
            std::vector<const File *> files;
            for (const size_t at : layers)
                files.push_back(&files_[at]);
            image.top = make_image(config_file, files);
            image.made = true;
        }
        out.push_back(std::move(image));
    }
    return out;
}

std::vector<ArchivedImage> ImageArchive::layout_images() const {
    const json::value document = parse(this->document("index.json"), "index.json");
    if (!document.is_object()) bad("index.json", "not an object");
    const json::array &list = list_of(document.get_object(), "manifests");
    if (list.size() > limits_.max_images) bad("index.json", "too many images");
    std::vector<ArchivedImage> out;
    for (const json::value &item : list) {
        const auto *o = item.if_object();
        if (!o) bad("index.json", "an entry is not an object");
        BlobRef top{text_of(*o, "mediaType"), text_of(*o, "digest"), 0};
        try {
            check_digest(top.digest);
        } catch (const Error &) {
            bad("index.json", "bad digest");
        }
        if (!has(top.digest)) bad("index.json", "it names " + top.digest + ", which is not in the archive");
        top.size = size(top.digest);
        std::string name, label;
        if (const auto *notes = o->if_contains("annotations"); notes && notes->is_object()) {
            label = text_of(notes->get_object(), "org.opencontainers.image.ref.name");
            name = text_of(notes->get_object(), "io.containerd.image.name");
            if (name.empty() && is_reference(label)) name = label;
        }
        const auto same = std::find_if(out.begin(), out.end(), [&](const ArchivedImage &other) {
            return other.top.digest == top.digest &&
                   (name.empty() ? other.label == label : !other.names.empty());
        });
        if (same != out.end()) {
            if (!name.empty()) same->names.push_back(name);
            continue;
        }
        ArchivedImage image;
        image.top = std::move(top);
        image.label = label;
        if (!name.empty()) image.names.push_back(name);
        out.push_back(std::move(image));
    }
    return out;
}

/// Before Docker 1.10 an image was its top layer, and each layer had a document that names its parent.
std::vector<ArchivedImage> ImageArchive::legacy_images() {
    const json::value document = parse(this->document("repositories"), "repositories");
    if (!document.is_object()) bad("repositories", "not an object");
    std::map<std::string, std::vector<std::string>> tops; // layer id -> names
    for (const auto &repository : document.get_object()) {
        if (!repository.value().is_object()) bad("repositories", "not an object of tags");
        for (const auto &tag : repository.value().get_object())
            if (tag.value().is_string())
                tops[std::string(tag.value().get_string())].push_back(std::string(repository.key()) + ":" +
                                                                      std::string(tag.key()));
    }
    if (tops.size() > limits_.max_images) bad("repositories", "too many images");
    std::vector<ArchivedImage> out;
    for (const auto &[top, names] : tops) {
        std::vector<json::object> chain; // top first
        std::vector<size_t> layers;
        for (std::string id = top; !id.empty();) {
            const std::string member = id + "/json";
            if (chain.size() >= kMaxLayers) bad(member, "too many layers below " + top);
            need(member, "repositories");
            json::value layer = parse(this->document(member), member);
            if (!layer.is_object()) bad(member, "not an object");
            const File &tar = need(id + "/layer.tar", member);
            if (layer_type(tar.path).ends_with("+gzip"))
                bad(id + "/layer.tar", "compressed layers are not expected here");
            layers.push_back(static_cast<size_t>(&tar - files_.data()));
            id = text_of(layer.get_object(), "parent");
            chain.push_back(std::move(layer.get_object()));
        }
        std::reverse(layers.begin(), layers.end());
        json::object config = chain.front();
        json::array history, diff_ids;
        for (auto layer = chain.rbegin(); layer != chain.rend(); ++layer) {
            json::object step{{"created", text_of(*layer, "created")}};
            std::string command;
            if (const auto *made = layer->if_contains("container_config"); made && made->is_object())
                for (const json::value &word : list_of(made->get_object(), "Cmd"))
                    if (word.is_string())
                        command += (command.empty() ? "" : " ") + std::string(word.get_string());
            step["created_by"] = command;
            if (const std::string comment = text_of(*layer, "comment"); !comment.empty())
                step["comment"] = comment;
            history.push_back(std::move(step));
        }
        std::vector<const File *> files;
        for (const size_t at : layers)
            diff_ids.push_back(json::string(files_[at].digest));
        for (const char *gone : {"id", "parent", "parent_id", "layer_id", "throwaway", "Size", "checksum"})
            config.erase(gone);
        if (!config.contains("os")) config["os"] = "linux";
        if (!config.contains("architecture")) config["architecture"] = "amd64";
        config["rootfs"] = {{"type", "layers"}, {"diff_ids", std::move(diff_ids)}};
        config["history"] = std::move(history);
        add(json::serialize(config));
        const File config_file = files_.back();
        for (const size_t at : layers)
            files.push_back(&files_[at]);
        ArchivedImage image;
        image.names = names;
        image.top = make_image(config_file, files);
        image.made = true;
        out.push_back(std::move(image));
    }
    return out;
}

} // namespace gantry
