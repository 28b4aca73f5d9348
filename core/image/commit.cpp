// A container's changes become an image: one layer on the image's own, and its config with the container's
// settings. Until the one transaction at the end nothing refers to the new layer, and a killed engine's
// sweep takes it away.
#include "core/base/ids.h"
#include "core/base/log.h"
#include "core/content/content.h"
#include "core/image/download.h"
#include "core/image/impl.h"
#include "core/image/instructions.h"
#include "core/layer/layers.h"
#include "core/store/db.h"

#include <boost/json.hpp>

namespace gantry {
namespace {

namespace json = boost::json;

// What an image says about its containers; the rest of a container's configuration is about one of them.
const char *const kImageKeys[] = {"User",   "ExposedPorts", "Env",        "Entrypoint",  "Cmd",   "Volumes",
                                  "Labels", "WorkingDir",   "StopSignal", "Healthcheck", "Shell", "OnBuild"};

bool says_nothing(const json::value &value) {
    return value.is_null() || (value.is_string() && value.get_string().empty()) ||
           (value.is_array() && value.get_array().empty()) ||
           (value.is_object() && value.get_object().empty());
}

json::object object_from(const std::string &text, const char *what) {
    boost::system::error_code failed;
    auto value = json::parse(text, failed);
    if (failed || !value.is_object())
        throw Error(ErrorClass::kInvalidArgument, std::string(what) + ": not a JSON object");
    return std::move(value.get_object());
}

json::object image_keys(const json::object &from) {
    json::object out;
    for (const char *key : kImageKeys)
        if (const auto *value = from.if_contains(key); value && !says_nothing(*value)) out[key] = *value;
    return out;
}

void add_missing(json::object &to, const json::object &from, const char *key) {
    const auto *theirs = from.if_contains(key);
    if (!theirs || !theirs->is_object()) return;
    auto &ours = to[key];
    if (!ours.is_object()) ours = json::object();
    for (const auto &item : theirs->get_object())
        if (!ours.get_object().contains(item.key())) ours.get_object()[item.key()] = item.value();
}

/// dockerd's merge: what was asked for wins, lists of names are united, a command belongs to its
/// entrypoint.
void merge(json::object &wanted, const json::object &container) {
    for (const char *key : {"ExposedPorts", "Labels", "Volumes"})
        add_missing(wanted, container, key);
    if (const auto *theirs = container.if_contains("Env"); theirs && theirs->is_array()) {
        auto &ours = wanted["Env"];
        if (!ours.is_array()) ours = json::array();
        for (const auto &entry : theirs->get_array()) {
            if (!entry.is_string()) continue;
            const std::string_view text = entry.get_string();
            const std::string_view name = text.substr(0, text.find('='));
            bool given = false;
            for (const auto &own : ours.get_array())
                given = given ||
                        (own.is_string() &&
                         std::string_view(own.get_string()).substr(0, own.get_string().find('=')) == name);
            if (!given) ours.get_array().push_back(entry);
        }
    }
    const auto take = [&](const char *key) {
        if (const auto *theirs = container.if_contains(key); theirs && !wanted.contains(key))
            wanted[key] = *theirs;
    };
    if (!wanted.contains("Entrypoint")) {
        take("Cmd");
        take("Entrypoint");
    }
    for (const char *key : {"User", "WorkingDir", "StopSignal", "Healthcheck", "Shell"})
        take(key);
}

json::object config_for(const ImageCommit &what) {
    const json::object container =
        image_keys(object_from(what.config, "commit container: its configuration"));
    json::object wanted = container;
    if (!what.overrides.empty())
        wanted = image_keys(object_from(what.overrides, "commit container: the request's configuration"));
    apply_instructions(wanted, what.instructions);
    merge(wanted, container);
    return wanted;
}

std::vector<BlobRef> parent_blobs(const ContentStore &content, const ImageInfo &parent,
                                  const Layers &layers) {
    try {
        std::vector<BlobRef> blobs =
            parse_manifest(content.read(parent.manifest, kMaxManifestBytes), "").layers;
        if (blobs.size() == parent.diff_ids.size()) return blobs;
    } catch (const Error &error) {
        log_debug("manifest of image {}: {}", parent.id, error.message());
    }
    // The layers are what counts; without their compressed form the manifest names the tars.
    std::vector<BlobRef> blobs;
    const auto lineage = parent.top_layer.empty() ? LayerIds{} : layers.lineage(parent.top_layer);
    for (auto id = lineage.rbegin(); id != lineage.rend(); ++id) {
        const Layer layer = layers.get(*id);
        blobs.push_back({"application/vnd.oci.image.layer.v1.tar", layer.diff_id, layer.size});
    }
    return blobs;
}

} // namespace

std::string Images::commit(const ImageCommit &what, const CancelSource &cancel) {
    const json::object config = config_for(what); // refused before anything is made
    const Impl::Work work(*impl_);
    ImageInfo parent;
    json::object document;
    if (!what.parent.empty()) {
        parent = impl_->load(what.parent);
        document = object_from(parent.config_json, "commit container: its image's configuration");
    } else {
        const Platform host = host_platform();
        document = {{"os", host.os}, {"architecture", host.architecture}};
    }
    if (parent.diff_ids.size() >= kMaxLayers)
        throw Error(ErrorClass::kUnsupported, "commit container: its image has " +
                                                  std::to_string(parent.diff_ids.size()) +
                                                  " layers, which is the limit");

    CallScope scope(cancelled_by(cancel));
    const std::optional<Layer> layer = impl_->layers.commit_changes(
        what.layer, what.changes, [](const std::string &note) { log_warn("commit container: {}", note); },
        scope);

    // The parent's document is the base, so that what gantry does not know of (os.features) stays.
    for (const char *gone : {"id", "parent", "parent_id", "container", "container_config", "docker_version",
                             "comment", "author", "Size"})
        document.erase(gone);
    const int64_t now = wall_ns();
    const std::string created = rfc3339(now);
    document["created"] = created;
    if (!what.author.empty()) document["author"] = what.author;
    if (!what.comment.empty()) document["comment"] = what.comment;
    document["config"] = config;
    json::array diff_ids;
    for (const auto &id : parent.diff_ids)
        diff_ids.push_back(json::string(id));
    if (layer) diff_ids.push_back(json::string(layer->diff_id));
    document["rootfs"] = {{"type", "layers"}, {"diff_ids", std::move(diff_ids)}};
    json::object entry{{"created", created}, {"created_by", what.created_by}};
    if (!what.author.empty()) entry["author"] = what.author;
    if (!what.comment.empty()) entry["comment"] = what.comment;
    if (!layer) entry["empty_layer"] = true;
    auto &history = document["history"];
    if (!history.is_array()) history = json::array();
    history.get_array().push_back(std::move(entry));
    const std::string text = json::serialize(document);

    Impl::Commit row;
    row.config = text;
    row.id = impl_->content.put(text, "application/vnd.oci.image.config.v1+json");
    std::vector<BlobRef> blobs = parent_blobs(impl_->content, parent, impl_->layers);
    if (layer) blobs.push_back({"application/vnd.oci.image.layer.v1.tar", layer->diff_id, layer->size});
    row.manifest = impl_->content.put(
        make_manifest({"application/vnd.oci.image.config.v1+json", row.id, text.size()}, blobs),
        "application/vnd.oci.image.manifest.v1+json");
    row.top_layer = layer ? layer->id : parent.top_layer;
    row.parent = what.parent;
    row.size = parent.size + (layer ? layer->size : 0);
    row.created_ns = now;
    row.ref = what.ref;
    if (row.ref && row.ref->tag.empty()) row.ref->tag = "latest";
    impl_->commit(row);       // from here on the image is visible
    if (!what.parent.empty()) // the parent may go
        impl_->db.transact([&](Db &t) {
            t.prepare("INSERT OR IGNORE INTO blob_origin(digest, registry, repository, image) "
                      "SELECT digest, registry, repository, ?2 FROM blob_origin WHERE image=?1")
                .bind_all(what.parent, row.id)
                .run();
        });
    if (row.ref) impl_->publish("tag", row.id, row.ref->familiar());
    return row.id;
}

} // namespace gantry
