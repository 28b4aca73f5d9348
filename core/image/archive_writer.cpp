#include "core/image/archive_writer.h"

#include <boost/json.hpp>

#include <sys/stat.h>

namespace gantry {
namespace {

namespace json = boost::json;

std::string member_of(const std::string &digest) {
    std::string path = digest;
    path[path.find(':')] = '/';
    return "blobs/" + path;
}

json::array index_entries(const ArchiveEntry &image) {
    json::array out;
    const auto add = [&](const json::object &annotations) {
        json::object entry{
            {"mediaType", image.top.media_type}, {"digest", image.top.digest}, {"size", image.top.size}};
        if (!annotations.empty()) entry["annotations"] = annotations;
        out.push_back(std::move(entry));
    };
    for (const ImageReference &name : image.names)
        add({{"io.containerd.image.name", name.full()}, {"org.opencontainers.image.ref.name", name.tag}});
    if (!image.names.empty()) return out;
    json::object annotations;
    if (!image.label.empty()) annotations["org.opencontainers.image.ref.name"] = image.label;
    add(annotations);
    return out;
}

} // namespace

ArchiveWriter::ArchiveWriter(ByteSink sink, ArchiveFormat format, std::set<std::string> have)
    : format_(format), done_(std::move(have)), tar_(std::move(sink)) {}

void ArchiveWriter::documents(const std::vector<ArchiveEntry> &images) {
    file("oci-layout", R"({"imageLayoutVersion":"1.0.0"})");
    json::array manifests, docker;
    json::object repositories;
    for (const ArchiveEntry &image : images) {
        for (auto &entry : index_entries(image))
            manifests.push_back(std::move(entry));
        if (format_ != ArchiveFormat::kDocker) continue;
        json::array layers;
        for (const auto &layer : image.layers)
            layers.emplace_back(member_of(layer));
        json::value tags(nullptr);
        for (const ImageReference &name : image.names) {
            if (tags.is_null()) tags = json::array();
            tags.get_array().emplace_back(name.familiar());
            if (image.layers.empty()) continue;
            json::value &tagged = repositories[name.familiar_name()];
            if (!tagged.is_object()) tagged = json::object();
            const std::string &top = image.layers.back();
            tagged.get_object()[name.tag] = top.substr(top.find(':') + 1);
        }
        docker.push_back({{"Config", member_of(image.config)},
                          {"RepoTags", std::move(tags)},
                          {"Layers", std::move(layers)}});
    }
    file("index.json", json::serialize(json::object{{"schemaVersion", 2},
                                                    {"mediaType", "application/vnd.oci.image.index.v1+json"},
                                                    {"manifests", std::move(manifests)}}));
    if (format_ == ArchiveFormat::kDocker) {
        file("manifest.json", json::serialize(docker));
        if (!repositories.empty()) file("repositories", json::serialize(repositories));
    }
    directory("blobs");
}

bool ArchiveWriter::blob(const BlobRef &blob, const std::function<void(const ByteSink &)> &write) {
    if (!done_.insert(blob.digest).second) return false;
    const std::string algorithm = blob.digest.substr(0, blob.digest.find(':'));
    if (algorithms_.insert(algorithm).second) directory("blobs/" + algorithm);
    TarEntry entry;
    entry.name = member_of(blob.digest);
    entry.mode = S_IFREG | 0644;
    entry.size = blob.size;
    tar_.begin(entry);
    write([this](const void *bytes, size_t size) { tar_.data(bytes, size); });
    return true;
}

void ArchiveWriter::finish() { tar_.finish(); }

void ArchiveWriter::file(const std::string &name, const std::string &text) {
    TarEntry entry;
    entry.name = name;
    entry.mode = S_IFREG | 0644;
    entry.size = text.size();
    tar_.begin(entry);
    tar_.data(text.data(), text.size());
}

void ArchiveWriter::directory(const std::string &name) {
    TarEntry entry;
    entry.name = name;
    entry.mode = S_IFDIR | 0755;
    tar_.begin(entry);
}

} // namespace gantry
